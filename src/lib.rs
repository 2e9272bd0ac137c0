//! hlx trains GPT-style transformers through Vulkan compute, with the same bits on every device.
//!
//! The modules stand in the order the data flows; ARCHITECTURE.md follows it through them.

#![deny(unsafe_code)]

pub mod error;
pub mod format;
pub mod interrupt;

pub mod cli;
pub mod config;

pub mod commands;

pub mod data;

pub mod train;

pub mod model;

pub mod ops;

pub mod exact;
pub mod kernels;
pub mod precision;
pub mod recording;

pub mod cpu;
pub mod vulkan;

pub mod checkpoint;
pub mod report;
