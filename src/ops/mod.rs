//! The operations: each file has one op's shape checks, its dispatches, and its kernels' CPU twins.

pub mod accumulate;
pub mod gemm;

/// The CPU twin of every kernel, by the kernel's name.
pub mod twin {
    pub use super::accumulate::accumulate;
    pub use super::gemm::{gemm, gemm_backward, gemm_backward_tiled, gemm_tiled};
}
