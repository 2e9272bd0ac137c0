//! The innermost part of the CPU's matrix product: one tile of the result, held in registers.

use pulp::Simd;

use crate::exact::SNAP_BELOW;

/// Vectors in a row of a tile.
pub const VECTORS: usize = 2;

/// Columns of a tile.
pub const fn tile_columns<S: Simd>() -> usize {
    VECTORS * S::F32_LANES
}

/// Rows of a tile: as many as leave registers for a row of B and the products in flight.
pub const fn tile_rows<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 8 } else { 4 }
}

/// Packed B: for each term, the tile's columns.
pub type Columns<S> = [<S as Simd>::f32s; VECTORS];

/// The sums over one block of at most [`K_BLOCK`](crate::exact::K_BLOCK) terms, from +0, ascending. `a(p)`
/// gives term p of the tile's rows.
///
/// A product is rounded before it is added: never `mul_add`.
#[inline(always)]
pub fn block_sums<S: Simd, const R: usize>(
    simd: S,
    b: &[Columns<S>],
    a: impl Fn(usize) -> [f32; R],
) -> [Columns<S>; R] {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; R];
    for (p, b) in b.iter().enumerate() {
        let a = a(p);
        for i in 0..R {
            let x = simd.splat_f32s(a[i]);
            for v in 0..VECTORS {
                sums[i][v] = simd.add_f32s(sums[i][v], simd.mul_f32s(x, b[v]));
            }
        }
    }
    sums
}

/// What is to be done with a block's sums.
#[derive(Clone, Copy)]
pub struct Step<S: Simd> {
    /// The block is the first of its elements: their totals start here. (+0 + sum is the sum's own
    /// bits, as no sum is -0.)
    pub first: bool,
    /// The block is the last: add this bias, snap, and the element is done.
    pub last: Option<Option<Columns<S>>>,
}

/// Adds a block's sums to the totals that stand in C, `width` columns of each row.
#[inline(always)]
pub fn add_to_totals<S: Simd, const R: usize>(
    simd: S,
    step: Step<S>,
    sums: [Columns<S>; R],
    c: &mut [f32],
    ld: usize,
    width: usize,
) {
    for (i, sums) in sums.into_iter().enumerate() {
        let row = &mut c[i * ld..][..width];
        let (left, right) = row.split_at_mut(width.min(S::F32_LANES));
        for (v, part) in [left, right].into_iter().enumerate() {
            let mut total = sums[v];
            if !step.first {
                total = simd.add_f32s(simd.partial_load_f32s(part), total);
            }
            if let Some(bias) = step.last {
                if let Some(bias) = bias {
                    total = simd.add_f32s(total, bias[v]);
                }
                total = snap(simd, total);
            }
            simd.partial_store_f32s(part, total);
        }
    }
}

#[inline(always)]
fn snap<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let tiny = simd.less_than_f32s(simd.abs_f32s(x), simd.splat_f32s(SNAP_BELOW));
    simd.select_f32s(tiny, simd.splat_f32s(0.0), x)
}
