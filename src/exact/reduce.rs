//! Sums in the contract's order: a function of indices alone, whoever computes them.
//!
//! A row or column is summed in a fixed number of strided lanes, each ascending from +0, then over a fixed
//! binary tree; a dot product in blocks of [`K_BLOCK`]. The lanes are independent, so these loops
//! vectorize. Twin of `shaders/include/row.glsl` and `column.glsl`.

/// Length of a dot product's blocks: products are added ascending inside a block, from +0, and
/// block sums ascending.
pub const K_BLOCK: usize = 256;
/// Strided partial sums of a row: lane p adds elements p, p + 32, ... ascending.
pub const ROW_LANES: usize = 32;
/// Strided partial sums of a column: lane p adds rows p, p + 64, ... ascending.
pub const COLUMN_LANES: usize = 64;

/// The lanes' sum: `part[p] += part[p + s]` for p < s, with s = 16, 8, 4, 2, 1.
#[inline(always)]
pub fn row_tree(mut part: [f32; ROW_LANES]) -> f32 {
    let mut s = ROW_LANES / 2;
    while s > 0 {
        for p in 0..s {
            part[p] += part[p + s];
        }
        s /= 2;
    }
    part[0]
}

/// Sum of `term(i)` for i below `len`, in row order.
#[inline(always)]
pub fn row_sum_by(len: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut part = [0.0; ROW_LANES];
    let whole = len - len % ROW_LANES;
    for start in (0..whole).step_by(ROW_LANES) {
        for (p, part) in part.iter_mut().enumerate() {
            *part += term(start + p);
        }
    }
    for i in whole..len {
        part[i - whole] += term(i);
    }
    row_tree(part)
}

/// Sum of a row.
#[inline(always)]
pub fn row_sum(row: &[f32]) -> f32 {
    row_sum_by(row.len(), |i| row[i])
}

/// The largest `term(i)` for i below `len` (at least 1) by comparison, in row order. A NaN is passed over,
/// unless it is the first: whoever subtracts the maximum from every term still meets it there.
#[inline(always)]
pub fn row_max_by(len: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut part = [term(0); ROW_LANES];
    let whole = len - len % ROW_LANES;
    for start in (0..whole).step_by(ROW_LANES) {
        for (p, part) in part.iter_mut().enumerate() {
            let x = term(start + p);
            *part = if x > *part { x } else { *part };
        }
    }
    for i in whole..len {
        let x = term(i);
        let part = &mut part[i - whole];
        *part = if x > *part { x } else { *part };
    }
    part[1..].iter().fold(part[0], |largest, &x| if x > largest { x } else { largest })
}

/// The largest element of a row of at least one.
#[inline(always)]
pub fn row_max(row: &[f32]) -> f32 {
    row_max_by(row.len(), |i| row[i])
}

/// The sums of W neighbouring columns' lanes: `part[p] += part[p + s]` for p < s, with s = 32, 16, ... 1.
#[inline(always)]
pub fn column_tree<const W: usize>(mut part: [[f32; W]; COLUMN_LANES]) -> [f32; W] {
    let mut s = COLUMN_LANES / 2;
    while s > 0 {
        for p in 0..s {
            let upper = part[p + s];
            for (lower, upper) in part[p].iter_mut().zip(upper) {
                *lower += upper;
            }
        }
        s /= 2;
    }
    part[0]
}

/// Sums of W neighbouring columns over `rows` rows, in column order; `term(row, c)` for c below W.
#[inline(always)]
pub fn column_sums_by<const W: usize>(rows: usize, term: impl Fn(usize, usize) -> f32) -> [f32; W] {
    let mut part = [[0.0; W]; COLUMN_LANES];
    for start in (0..rows).step_by(COLUMN_LANES) {
        for (p, part) in part.iter_mut().enumerate().take(rows - start) {
            for (c, part) in part.iter_mut().enumerate() {
                *part += term(start + p, c);
            }
        }
    }
    column_tree(part)
}

/// Sum of each column of a row-major matrix `[rows, out.len()]`.
#[inline(always)]
pub fn column_sums(matrix: &[f32], out: &mut [f32]) {
    const TILE: usize = 16;
    let columns = out.len();
    let rows = matrix.len() / columns;
    for (tile, out) in out.chunks_mut(TILE).enumerate() {
        let first = tile * TILE;
        if let Ok(out) = <&mut [f32; TILE]>::try_from(&mut *out) {
            *out = column_sums_by(rows, |row, c| matrix[row * columns + first + c]);
        } else {
            for (c, out) in out.iter_mut().enumerate() {
                [*out] = column_sums_by(rows, |row, _| matrix[row * columns + first + c]);
            }
        }
    }
}

/// Sum of `product(k)` for k below `len`, in a dot product's order.
#[inline(always)]
pub fn dot_by(len: usize, product: impl Fn(usize) -> f32) -> f32 {
    let mut total = 0.0;
    for start in (0..len).step_by(K_BLOCK) {
        let mut acc = 0.0;
        for k in start..len.min(start + K_BLOCK) {
            acc += product(k);
        }
        total += acc;
    }
    total
}

/// The contract's dot product of two slices of equal length: what every matrix product must equal.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "a dot product of different lengths");
    dot_by(a.len(), |k| a[k] * b[k])
}
