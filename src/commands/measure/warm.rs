//! Waiting until a device has stopped getting faster: a card that was idle may run at a sixth of its clock
//! for a second.

use std::time::{Duration, Instant};

use crate::error::Result;

/// A turn is faster than those before if it takes less than this share of the fastest.
const FASTER: f64 = 0.98;

/// Takes turns, each of which says how long its work took, until so many one after the other were not faster
/// than those before, or for so long in all.
///
/// # Errors
/// Those of a turn.
pub fn until_steady(enough: usize, most: Duration, mut turn: impl FnMut() -> Result<f64>) -> Result<()> {
    let (start, mut fastest, mut steady) = (Instant::now(), f64::INFINITY, 0);
    while steady < enough && start.elapsed() < most {
        let time = turn()?;
        steady = if time < FASTER * fastest { 0 } else { steady + 1 };
        fastest = fastest.min(time);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_end_when_they_are_no_longer_faster() {
        let mut times = [9.0, 6.0, 3.0, 3.0, 2.99, 3.1, 1.0].into_iter();
        let mut turns = 0;
        let turn = || {
            turns += 1;
            Ok(times.next().expect("there are enough"))
        };
        until_steady(3, Duration::MAX, turn).unwrap();
        assert_eq!(turns, 6);
    }

    #[test]
    fn time_that_has_run_out_takes_no_turn() {
        until_steady(3, Duration::ZERO, || panic!("a turn was taken")).unwrap();
    }
}
