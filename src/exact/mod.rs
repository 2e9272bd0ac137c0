//! The exact arithmetic: what kernels' CPU twins and host code calculate with, to the same bits as the GLSL.
//!
//! A result here is a function of its inputs' bits alone, on every CPU and on every GPU that keeps the
//! contract of NUMERICS.md, because nothing is used but what IEEE 754 and Vulkan both fix to the bit: f32
//! `+ - *` rounded to nearest even, one at a time, comparisons, sign changes, bit casts and integer
//! arithmetic. `shaders/include/exact.glsl` and `philox.glsl` are the twins, operation for operation.

mod math;
mod philox;
mod reduce;
#[cfg(test)]
mod tests;

pub use math::{exp, gelu, gelu_grad, log, recip, rsqrt, sigmoid, snap, snap_moment, sqrt, tanh};
pub use philox::{
    dropout_scale, dropout_threshold, fill_normal, normal_block, philox, random_u32, random_words, unit,
};
pub use reduce::{
    COLUMN_LANES, K_BLOCK, ROW_LANES, column_sums, column_sums_by, column_tree, dot, dot_by, row_max,
    row_max_by, row_sum, row_sum_by, row_tree,
};

/// What [`math`](self) calculates with. The tests compile the same file a second time over a type that
/// panics when a result is subnormal.
type Real = f32;
