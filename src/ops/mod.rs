//! The operations: each file has one op's shape checks, its dispatches, and its kernels' CPU twins.

pub mod accumulate;

/// The CPU twin of every kernel, by the kernel's name.
pub mod twin {
    pub use super::accumulate::accumulate;
}
