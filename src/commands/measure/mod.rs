//! Measuring: what the bench commands have in common. Nothing here prints.

pub mod error;
pub mod kernels;
pub mod loaded;
pub mod peaks;
pub mod product;
pub mod steps;
pub mod warm;

/// The median: the mean of the middle two, if there is an even number of values.
pub fn median(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "at least one value");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { (sorted[half - 1] + sorted[half]) / 2.0 } else { sorted[half] }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(super::median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(super::median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
