//! Where a recording is cut into submits, so that none keeps the device busy for longer than a desktop
//! allows: pure, without Vulkan.

use std::ops::Range;
use std::time::Duration;

/// Consecutive dispatches for each submit, as many as take no longer than `longest` together. One that alone
/// takes longer gets a submit of its own. No dispatches at all are one submit.
pub(super) fn cut(times: &[Duration], longest: Duration) -> Vec<Range<usize>> {
    let mut cuts = Vec::new();
    let (mut start, mut sum) = (0, Duration::ZERO);
    for (i, &time) in times.iter().enumerate() {
        if i > start && sum + time > longest {
            cuts.push(start..i);
            (start, sum) = (i, Duration::ZERO);
        }
        sum += time;
    }
    cuts.push(start..times.len());
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where each submit starts and ends, of at most 100 ms.
    fn cut_ms(times: &[u64]) -> Vec<(usize, usize)> {
        let times: Vec<Duration> = times.iter().map(|&ms| Duration::from_millis(ms)).collect();
        cut(&times, Duration::from_millis(100)).into_iter().map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn a_submit_is_as_long_as_it_may_be() {
        assert_eq!(cut_ms(&[]), [(0, 0)]);
        assert_eq!(cut_ms(&[10, 20, 70]), [(0, 3)]);
        assert_eq!(cut_ms(&[10, 20, 71]), [(0, 2), (2, 3)]);
        assert_eq!(cut_ms(&[60, 60, 60, 10]), [(0, 1), (1, 2), (2, 4)]);
        assert_eq!(cut_ms(&[500]), [(0, 1)]);
        assert_eq!(cut_ms(&[1, 500, 1, 99, 1]), [(0, 1), (1, 2), (2, 4), (4, 5)]);
    }
}
