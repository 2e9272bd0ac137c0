//! Where a recording is cut into submits, so that none keeps the device busy for longer than a desktop
//! allows: pure, without Vulkan.
//!
//! A dispatch is cut between layers of its workgroups, along y or z: no kernel asks how many there are along
//! these (held by build/reflect.rs), so that a part of the layers does what it does in the whole.

use std::ops::Range;
use std::time::Duration;

use crate::recording::Dispatch;

/// Words times their square root that any device works through in the time of a submit: a square product, the
/// most that a kernel does with its words, takes as many multiplications, and so a tenth of a second at a
/// billion of them a second.
const LIGHT_WORK: f64 = 1e8;

/// How many times as many layers are tried as took less than their time: layers differ (causal products).
const GROWTH: u32 = 4;

/// Some layers of one dispatch of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub dispatch: usize,
    pub layers: Range<u32>,
}

/// The axis that a dispatch of so many workgroups is cut along.
pub(super) fn axis(groups: [u32; 3]) -> usize {
    if groups[2] > groups[1] { 2 } else { 1 }
}

/// Layers that a dispatch has.
pub(super) fn layers(groups: [u32; 3]) -> u32 {
    groups[axis(groups)]
}

/// How many of a dispatch's layers may be run at first on a device of which nothing is known.
pub(super) fn first_layers(dispatch: &Dispatch) -> u32 {
    let words: usize = dispatch.views.iter().map(|view| view.words).sum();
    let share = LIGHT_WORK / (words as f64).powf(1.5);
    ((f64::from(layers(dispatch.groups)) * share) as u32).clamp(1, layers(dispatch.groups))
}

/// How many layers to run next after some that took their time, each submit taking half of `longest`.
pub(super) fn next_layers(last: u32, took: Duration, longest: Duration) -> u32 {
    let fitting = f64::from(last) * longest.as_secs_f64() / 2.0 / took.as_secs_f64().max(1e-9);
    (fitting as u32).clamp(1, last.saturating_mul(GROWTH))
}

/// What a dispatch of a recording takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub time: Duration,
    pub layers: u32,
}

/// Consecutive pieces for each submit, as many as take no longer than `longest` together. A dispatch that
/// alone takes longer is cut into pieces of about equal numbers of layers; a layer is never cut. No
/// dispatches at all are one submit.
pub(super) fn cut(costs: &[Cost], longest: Duration) -> Vec<Vec<Piece>> {
    let mut submits = vec![Vec::new()];
    let mut sum = Duration::ZERO;
    for (dispatch, cost) in costs.iter().enumerate() {
        let parts = parts(cost, longest);
        let time = cost.time / parts;
        for part in 0..parts {
            let boundary = |part: u32| (u64::from(cost.layers) * u64::from(part) / u64::from(parts)) as u32;
            let piece = Piece { dispatch, layers: boundary(part)..boundary(part + 1) };
            let submit = submits.last_mut().expect("there is one from the start");
            if !submit.is_empty() && sum + time > longest {
                submits.push(vec![piece]);
                sum = Duration::ZERO;
            } else {
                submit.push(piece);
            }
            sum += time;
        }
    }
    submits
}

/// How many parts a dispatch is cut into, none of them empty.
fn parts(cost: &Cost, longest: Duration) -> u32 {
    let wanted = cost.time.as_nanos().div_ceil(longest.as_nanos().max(1));
    u32::try_from(wanted).unwrap_or(u32::MAX).clamp(1, cost.layers.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_millis(100);

    /// Where each submit starts and ends, of at most 100 ms, of dispatches that cannot be cut.
    fn cut_ms(times: &[u64]) -> Vec<(usize, usize)> {
        let cost = |&ms: &u64| Cost { time: Duration::from_millis(ms), layers: 1 };
        let ends = |submit: Vec<Piece>| match (submit.first(), submit.last()) {
            (Some(first), Some(last)) => (first.dispatch, last.dispatch + 1),
            _ => (0, 0),
        };
        cut(&times.iter().map(cost).collect::<Vec<_>>(), LONGEST).into_iter().map(ends).collect()
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

    #[test]
    fn a_long_dispatch_is_cut_between_layers_and_shares_submits_with_its_neighbours() {
        let cost = |ms, layers| Cost { time: Duration::from_millis(ms), layers };
        let found = cut(&[cost(20, 7), cost(250, 10), cost(10, 3)], LONGEST);
        let pieces: Vec<Vec<_>> =
            found.into_iter().map(|s| s.into_iter().map(|p| (p.dispatch, p.layers)).collect()).collect();
        let wanted = [vec![(0, 0..7)], vec![(1, 0..3)], vec![(1, 3..6)], vec![(1, 6..10), (2, 0..3)]];
        assert_eq!(pieces, wanted);
        // Two layers are two parts at most, however long they take; every layer comes once.
        for (ms, layers) in [(950, 2), (950, 7), (950, 10), (950, 1_000_000), (u64::MAX / 1_000_000, 33)] {
            let found = cut(&[cost(ms, layers)], LONGEST).concat();
            assert_eq!(found.len() as u64, ms.div_ceil(100).min(layers.into()));
            let mut next = 0;
            for piece in found {
                assert!(piece.layers.start == next && piece.layers.end > next);
                next = piece.layers.end;
            }
            assert_eq!(next, layers);
        }
    }

    /// A device that takes a time for a submit and for each layer, of which later ones take longer.
    #[test]
    fn on_no_device_does_a_first_run_take_too_long() {
        for (submit_us, layer_us) in [(10, 1), (50, 100), (200, 5_000), (1_000, 40_000), (10, 90_000)] {
            let (layers, mut done, mut next, mut submits) = (1_000, 0, 1, 0);
            while done < layers {
                let count = next.min(layers - done);
                let growing = |layer: u32| layer_us + layer_us * u64::from(layer) / u64::from(layers);
                let work: u64 = (done..done + count).map(growing).sum();
                let took = Duration::from_micros(submit_us + work);
                assert!(took <= LONGEST.max(Duration::from_micros(submit_us + 2 * layer_us)), "{took:?}");
                (done, submits) = (done + count, submits + 1);
                next = next_layers(count, took, LONGEST);
            }
            let least = (1_500 * layer_us).div_ceil(50_000);
            assert!(submits <= 3 * least + 10, "{submits} submits of {layer_us} us a layer");
        }
    }
}
