//! Row reductions of the CPU twins, in the contract's order: 32 strided partial sums, then a fixed tree.
//!
//! Twin of shaders/include/row.glsl.

use crate::exact::ROW_LANES;

/// Sums `f` over the elements of `N` equally long rows.
#[inline(always)]
pub fn row_sum<const N: usize>(rows: [&[f32]; N], f: impl Fn([f32; N]) -> f32) -> f32 {
    let length = rows[0].len();
    let mut part = [0.0f32; ROW_LANES];
    let whole = length / ROW_LANES * ROW_LANES;
    for base in (0..whole).step_by(ROW_LANES) {
        let chunk: [&[f32; ROW_LANES]; N] =
            rows.map(|r| r[base..base + ROW_LANES].try_into().expect("a chunk of 32"));
        for p in 0..ROW_LANES {
            part[p] += f(std::array::from_fn(|k| chunk[k][p]));
        }
    }
    for i in whole..length {
        part[i - whole] += f(std::array::from_fn(|k| rows[k][i]));
    }
    tree(part)
}

/// Adds the lanes over a fixed binary tree.
#[inline(always)]
pub fn tree<const LANES: usize>(mut part: [f32; LANES]) -> f32 {
    let mut s = LANES / 2;
    while s > 0 {
        for p in 0..s {
            part[p] += part[p + s];
        }
        s /= 2;
    }
    part[0]
}

/// The largest of `f(x)` over a row, by comparison. A NaN past the first element is passed over
/// here, and reaches the sum that follows.
#[inline(always)]
pub fn row_max(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let first = f(row[0]);
    let mut part = [first; ROW_LANES];
    let mut chunks = row.chunks_exact(ROW_LANES);
    for chunk in &mut chunks {
        for p in 0..ROW_LANES {
            let x = f(chunk[p]);
            part[p] = if x > part[p] { x } else { part[p] };
        }
    }
    for (p, &x) in part.iter_mut().zip(chunks.remainder()) {
        let x = f(x);
        *p = if x > *p { x } else { *p };
    }
    let mut largest = part[0];
    for &x in &part[1..] {
        largest = if x > largest { x } else { largest };
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_sum_is_strided_lanes_then_a_tree() {
        for n in [1usize, 31, 32, 33, 100, 257] {
            let row: Vec<f32> = (0..n).map(|i| ((i * 7919) % 1013) as f32 * 1.37e-3 - 0.5).collect();
            let mut part = [0.0f32; 32];
            for (i, x) in row.iter().enumerate() {
                part[i % 32] += x;
            }
            for s in [16, 8, 4, 2, 1] {
                for p in 0..s {
                    part[p] += part[p + s];
                }
            }
            assert_eq!(row_sum([&row], |[x]| x).to_bits(), part[0].to_bits(), "n = {n}");
        }
    }
}
