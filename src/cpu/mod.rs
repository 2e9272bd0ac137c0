//! The CPU executor: the same recordings, the same bits, in portable Rust.

mod executor;
pub mod twins;

pub use executor::{CpuExecutor, KernelTime};
