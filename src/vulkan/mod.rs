//! Runs programs through Vulkan compute: the one module that knows `ash`, and the only one with `unsafe`.
//!
//! The way of a program: [`devices`] lists what there is, [`Device::open`] makes one ready,
//! [`VulkanExecutor::load`] checks the program against the device's limits, allocates its buffers, builds
//! its pipelines and records a command buffer per recording and ring slot; after that a submit only
//! copies the uploads and hands over a command buffer that exists already.

#![allow(unsafe_code)]

mod barriers;
mod check;
mod descriptors;
mod device;
mod executor;
mod failure;
mod info;
mod instance;
mod memory;
mod pipelines;
mod record;
mod timeline;
mod timestamps;
mod transfer;
mod validation;

pub use device::Device;
pub use executor::VulkanExecutor;
pub use info::{DeviceInfo, Kind, Selection, devices};
pub use record::PlantedFault;
pub use timestamps::Timing;
pub use validation::validation_messages;
