//! How far a product is from the true one: against f64, all of a small one and a sample of a large one.

use rayon::prelude::*;

use crate::config::ProductLayout;
use crate::exact::random_words;

/// Up to so many multiplications, every element is compared.
const WHOLE: usize = 1 << 27;

/// Rows of a sample, and elements: at least this many columns of each row.
const SAMPLE_ROWS: usize = 64;
const SAMPLE_ELEMENTS: usize = 4096;

/// Which elements of a product are compared: some columns of some rows, both ascending.
pub struct Sample {
    pub rows: Vec<usize>,
    pub columns: Vec<usize>,
}

impl Sample {
    /// All of a small product; of a large one, a place drawn in each of equal parts of rows and columns.
    pub fn of([m, k, n]: [usize; 3]) -> Sample {
        if m.saturating_mul(k).saturating_mul(n) <= WHOLE {
            return Sample { rows: (0..m).collect(), columns: (0..n).collect() };
        }
        let rows = m.min(SAMPLE_ROWS);
        let columns = n.min(SAMPLE_ELEMENTS.div_ceil(rows));
        // Where one side is short, the other makes up for it.
        let rows = m.min(SAMPLE_ELEMENTS.div_ceil(columns));
        Sample { rows: draw(m, rows, 0), columns: draw(n, columns, 1) }
    }

    pub fn elements(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

/// One number from each of `parts` equal parts of `0..length`, ascending.
fn draw(length: usize, parts: usize, purpose: u32) -> Vec<usize> {
    let one = |part: usize| {
        let (first, end) = (part * length / parts, (part + 1) * length / parts);
        first + random_words(2, purpose, 0, part as u32)[0] as usize % (end - first)
    };
    (0..parts).map(one).collect()
}

/// The distance from the true product.
#[derive(Clone, Copy, Debug)]
pub struct ProductError {
    /// The largest error of an element over the root mean square of those compared: an element near zero is
    /// a difference of large numbers, and its own size says nothing.
    pub max_relative: f64,
    /// The norm of all errors over the norm of all elements compared.
    pub frobenius: f64,
}

/// Compares the sampled rows of a product, each of all its n columns, with an f64 product of the stored
/// operands. What is no number makes both errors NaN.
pub fn product_error(
    [a, b]: [&[f32]; 2],
    [m, k, n]: [usize; 3],
    layout: ProductLayout,
    sample: &Sample,
    rows: &[Vec<f32>],
) -> ProductError {
    let a_at = |i: usize, p: usize| if layout.transposes_a() { a[p * m + i] } else { a[i * k + p] };
    let b_at = |p: usize, j: usize| if layout.transposes_b() { b[j * k + p] } else { b[p * n + j] };
    let in_row = |(&i, row): (&usize, &Vec<f32>)| {
        let mut sums = vec![0.0; sample.columns.len()];
        for p in 0..k {
            let x = f64::from(a_at(i, p));
            sample.columns.iter().zip(&mut sums).for_each(|(&j, sum)| *sum += x * f64::from(b_at(p, j)));
        }
        let errors = sample.columns.iter().zip(&sums).map(|(&j, true_)| f64::from(row[j]) - true_);
        let (worst, squares) =
            errors.fold((0.0, 0.0), |(worst, squares), e| (largest(worst, e.abs()), squares + e * e));
        (worst, squares, sums.iter().map(|x| x * x).sum::<f64>())
    };
    let add = |x: (f64, f64, f64), y: (f64, f64, f64)| (largest(x.0, y.0), x.1 + y.1, x.2 + y.2);
    let (worst, errors, squares) =
        sample.rows.par_iter().zip(rows).map(in_row).reduce(|| (0.0, 0.0, 0.0), add);
    ProductError {
        max_relative: worst / libm::sqrt(squares / sample.elements() as f64),
        frobenius: libm::sqrt(errors / squares),
    }
}

/// The larger of two errors; NaN is the largest.
fn largest(x: f64, y: f64) -> f64 {
    if x.is_nan() || x > y { x } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_element_shows_as_an_error_in_every_layout() {
        let sizes = [3, 40, 5];
        let numbers = |count: usize| (0..count).map(|i| ((i * 37) % 19) as f32 - 9.3).collect::<Vec<_>>();
        let (a, b) = (numbers(120), numbers(200));
        for layout in ProductLayout::ALL.iter().copied() {
            let at = |i: usize, p: usize, j: usize| {
                let x = if layout.transposes_a() { a[p * 3 + i] } else { a[i * 40 + p] };
                x * if layout.transposes_b() { b[j * 40 + p] } else { b[p * 5 + j] }
            };
            let row = |i: usize| (0..5).map(|j| (0..40).map(|p| at(i, p, j)).sum()).collect::<Vec<f32>>();
            let mut c: Vec<_> = (0..3).map(row).collect();
            let error = |c: &[Vec<f32>]| product_error([&a, &b], sizes, layout, &Sample::of(sizes), c);
            let right = error(&c);
            assert!(right.max_relative < 1e-6 && right.frobenius < 1e-6, "{layout}: {right:?}");
            c[1][2] += 100.0;
            let wrong = error(&c);
            assert!(wrong.max_relative > 0.01 && wrong.frobenius > 0.01, "{layout}: {wrong:?}");
            c[1][2] = f32::NAN;
            let none = error(&c);
            assert!(none.max_relative.is_nan() && none.frobenius.is_nan(), "{layout}: {none:?}");
        }
    }

    #[test]
    fn a_sample_has_thousands_of_elements_of_all_parts() {
        for sizes in [[4096, 4096, 4096], [1, 65536, 65536], [65536, 9000, 3], [63, 1 << 16, 70]] {
            let sample = Sample::of(sizes);
            assert!(sample.elements() >= 2000.min(sizes[0] * sizes[2]), "{sizes:?}");
            for (places, length) in [(&sample.rows, sizes[0]), (&sample.columns, sizes[2])] {
                assert!(places.is_sorted_by(|x, y| x < y) && places[places.len() - 1] < length, "{sizes:?}");
            }
        }
        assert_eq!(Sample::of([33, 8, 5]).elements(), 165);
    }
}
