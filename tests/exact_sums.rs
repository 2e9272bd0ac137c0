//! Holds the CPU's sums to the contract's definition: strided lanes, then a binary tree.

use hlx::exact::{COLUMN_LANES, ROW_LANES, exp, fill_normal};
use hlx::kernels::{column_finish, column_partials};
use hlx::ops::rows::{row_max, row_sum};
use hlx::ops::twin;

const LENGTHS: [usize; 12] = [1, 2, 3, 31, 32, 33, 63, 64, 65, 257, 1000, 4099];

/// Numbers of many magnitudes, so that sums in another order differ.
fn numbers(count: usize) -> Vec<f32> {
    let mut numbers = vec![0.0; count];
    fill_normal(&mut numbers, 1.0, 1, 2, 3);
    numbers.iter().enumerate().map(|(i, x)| x * libm::ldexpf(1.0, (i * 7 % 19) as i32)).collect()
}

fn sum_by_definition(numbers: &[f32], lanes: usize) -> f32 {
    fn tree(part: &[f32]) -> f32 {
        match part.split_at(part.len() / 2) {
            ([], rest) => rest[0],
            (lower, upper) => tree(&lower.iter().zip(upper).map(|(a, b)| a + b).collect::<Vec<_>>()),
        }
    }
    let lane = |p: usize| numbers.iter().skip(p).step_by(lanes).fold(0.0, |sum, x| sum + x);
    tree(&(0..lanes).map(lane).collect::<Vec<_>>())
}

#[test]
fn row_sums_follow_the_definition() {
    for len in LENGTHS {
        let row = numbers(len);
        let wanted = sum_by_definition(&row, ROW_LANES);
        assert_eq!(row_sum([&row], |[x]| x).to_bits(), wanted.to_bits(), "length {len}");
    }
    let row = numbers(1000);
    assert_ne!(row_sum([&row], |[x]| x), row.iter().sum::<f32>(), "the numbers cannot tell orders apart");
}

/// What the two kernels of a column sum make of a matrix.
fn column_sums(matrix: &[f32], columns: usize) -> Vec<f32> {
    let rows = matrix.len() / columns;
    let mut partials = vec![f32::NAN; COLUMN_LANES * columns];
    twin::column_partials(column_partials::Args {
        push: column_partials::Push { rows: rows as u32, columns: columns as u32 },
        specialization: Default::default(),
        groups: [1, 1, 1],
        input: matrix,
        partials: &mut partials,
    });
    let mut sums = vec![f32::NAN; columns];
    twin::column_finish(column_finish::Args {
        push: column_finish::Push { columns: columns as u32 },
        specialization: Default::default(),
        groups: [1, 1, 1],
        partials: &partials,
        output: &mut sums,
    });
    sums
}

#[test]
fn column_sums_follow_the_definition() {
    for rows in LENGTHS {
        for columns in [1, 15, 16, 17, 40] {
            let matrix = numbers(rows * columns);
            for (c, sum) in column_sums(&matrix, columns).iter().enumerate() {
                let column: Vec<f32> = matrix.iter().skip(c).step_by(columns).copied().collect();
                let wanted = sum_by_definition(&column, COLUMN_LANES);
                assert_eq!(sum.to_bits(), wanted.to_bits(), "column {c} of {rows} x {columns}");
            }
        }
    }
}

#[test]
fn row_max_is_the_largest_and_leaves_nan_to_the_sum() {
    for len in LENGTHS {
        let mut row = numbers(len);
        assert_eq!(row_max(&row, |x| x), row.iter().copied().fold(f32::MIN, f32::max), "length {len}");
        for place in [0, len / 2, len - 1] {
            let kept = std::mem::replace(&mut row[place], f32::NAN);
            let largest = row_max(&row, |x| x);
            let sum = row_sum([&row], |[x]| exp(x - largest));
            assert!(sum.is_nan(), "a NaN at {place} of {len} is lost");
            row[place] = kept;
        }
    }
}
