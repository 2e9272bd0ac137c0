//! The exact arithmetic: what kernels' CPU twins and host code calculate with, to the same bits as the GLSL.
//!
//! A result here is a function of its inputs' bits alone, on every CPU and on every GPU that keeps the
//! contract of NUMERICS.md, because nothing is used but what IEEE 754 and Vulkan both fix to the bit: f32
//! `+ - *` rounded to nearest even, one at a time, comparisons, sign changes, bit casts and integer
//! arithmetic. `shaders/include/exact.glsl` and `philox.glsl` are the twins, operation for operation.

mod math;
mod philox;
#[cfg(test)]
mod tests;

pub use math::{SNAP_BELOW, exp, gelu, gelu_grad, log, recip, rsqrt, sigmoid, snap, snap_moment, sqrt, tanh};
pub use philox::{
    dropout_scale, dropout_threshold, fill_normal, normal_block, philox, random_u32, random_words,
    random_words_of_8, unit,
};

/// Length of a dot product's blocks: rounded products are added ascending inside a block, from +0, and
/// the blocks' sums ascending, from +0.
pub const K_BLOCK: usize = 256;
/// Strided partial sums of a row: lane p adds elements p, p + 32, ... ascending, from +0. Then a
/// binary tree adds the lanes: `part[p] += part[p + s]` for p < s, with s = 16, 8, 4, 2, 1.
pub const ROW_LANES: usize = 32;
/// Strided partial sums of a column: lane p adds rows p, p + 64, ... ascending, from +0. Then a
/// binary tree adds the lanes: `part[p] += part[p + s]` for p < s, with s = 32, 16, 8, 4, 2, 1.
pub const COLUMN_LANES: usize = 64;

/// What [`math`](self) calculates with. The tests compile the same file a second time over a type that
/// panics when a result is subnormal.
type Real = f32;
