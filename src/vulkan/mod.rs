//! Runs programs through Vulkan compute: the one module that knows `ash`, and the only one with `unsafe`.
//!
//! The way of a program: [`devices`] lists what there is, [`Device::open`] makes one ready,
//! [`VulkanExecutor::load`] checks the program against the device's limits, allocates its buffers, builds
//! its pipelines and records a command buffer per recording and ring slot; after that a submit only
//! copies the uploads and hands over a command buffer that exists already. The first runs of a recording are
//! timed dispatch by dispatch: one that takes long is cut into several command buffers, within a dispatch
//! too.
//!
//! Every call into Vulkan is `unsafe`; what they all rest on is this. Handles are owned by a Rust value that
//! holds its [`Device`] in an `Arc`, so a device outlives what was made from it, and an instance its device.
//! An executor's first fields to be dropped are its timelines, which wait until the device is done. What
//! must not be used by two threads at once is behind a lock (queue, allocator, pipelines) or reached
//! through `&mut` only (command pools, ring copies). What a program may ask of a kernel and of the device is
//! checked before anything is recorded. Blocks that rest on more say so.

#![allow(unsafe_code)]

mod barriers;
mod check;
mod cuts;
mod descriptors;
mod device;
mod executor;
mod failure;
mod info;
mod instance;
mod matrix;
mod memory;
mod pipelines;
mod record;
mod replay;
mod selection;
mod simulation;
mod statistics;
mod submit_log;
mod timeline;
mod timestamps;
mod transfer;
mod validation;

pub use device::Device;
pub use executor::VulkanExecutor;
pub use info::{DeviceInfo, Kind, devices};
pub use record::PlantedFault;
pub use selection::Selection;
#[doc(hidden)]
pub use simulation::{FaultKind, FaultPoint, InjectedFault, Simulation};
pub use submit_log::Busy;
pub use timestamps::Timing;
pub use validation::validation_messages;
