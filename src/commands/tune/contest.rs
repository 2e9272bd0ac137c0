//! A contest between the ways to compute one product: who may take part, and who has won.

use super::super::measure::median;
use crate::error::Result;

/// Where the ways to compute some products are run. Way 0 of a product is the one that the estimates take.
pub trait Stand {
    /// Runs a product every way: for each, whether its result has the bits of way 0's. `None` if the product
    /// takes so long that it is not to be timed.
    ///
    /// # Errors
    /// As the device reports them.
    fn agree(&mut self, product: usize) -> Result<Option<Vec<bool>>>;

    /// How long the product takes this way, in milliseconds.
    ///
    /// # Errors
    /// As the device reports them.
    fn time_ms(&mut self, product: usize, way: usize) -> Result<f64>;
}

/// Every way has a turn in each round, in every second one from the last to the first: a device that becomes
/// faster or slower meanwhile favours nobody.
const ROUNDS: usize = 5;

/// A way wins only if the median of its times is shorter than way 0's by so much, and all but one of its
/// times are shorter than way 0's of the same round: what noise decides would be another way at every start.
const LEAD: f64 = 1.03;
const ROUNDS_WON: usize = ROUNDS - 1;

/// After the first round, ways are left out whose time is so many times the shortest; after each further one,
/// those whose shortest time is not below so much of way 0's, because they would not win.
const HOPELESS: f64 = 1.3;
const HOPEFUL: f64 = 0.99;

/// Who has won.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The way.
    pub way: usize,
    /// How many times as fast as way 0 it is: 1 if it is way 0.
    pub gain: f64,
    /// The ways with other bits; way 0 if it does not repeat its own.
    pub wrong: Vec<usize>,
}

/// The way to take for a product: way 0 unless another gives the same bits in clearly less time.
///
/// # Errors
/// As the stand reports them.
pub fn winner(stand: &mut impl Stand, product: usize) -> Result<Verdict> {
    let Some(agree) = stand.agree(product)? else {
        return Ok(Verdict { way: 0, gain: 1.0, wrong: vec![] });
    };
    if !agree[0] {
        return Ok(Verdict { way: 0, gain: 1.0, wrong: vec![0] });
    }
    let wrong: Vec<usize> = (1..agree.len()).filter(|&way| !agree[way]).collect();
    let mut taking_part: Vec<usize> = (0..agree.len()).filter(|way| !wrong.contains(way)).collect();
    let mut times = vec![Vec::new(); agree.len()];
    for round in 0..ROUNDS {
        if taking_part.len() == 1 {
            break;
        }
        let mut turns = taking_part.clone();
        if round % 2 == 1 {
            turns.reverse();
        }
        for way in turns {
            times[way].push(stand.time_ms(product, way)?);
        }
        let shortest = |way: usize| times[way].iter().copied().fold(f64::INFINITY, f64::min);
        let fastest = taking_part.iter().map(|&way| shortest(way)).fold(f64::INFINITY, f64::min);
        let limit = if round == 0 { HOPELESS * fastest } else { HOPEFUL * shortest(0) };
        taking_part.retain(|&way| way == 0 || shortest(way) <= limit);
    }
    let gain = |way: usize| median(&times[0]) / median(&times[way]);
    let wins = |&way: &usize| {
        let won = times[way].iter().zip(&times[0]).filter(|(own, of_first)| own < of_first).count();
        won >= ROUNDS_WON && gain(way) >= LEAD
    };
    let winners = taking_part.into_iter().filter(|&way| way != 0).filter(wins);
    let best = winners.max_by(|&x, &y| gain(x).total_cmp(&gain(y)));
    Ok(Verdict { way: best.unwrap_or(0), gain: best.map_or(1.0, gain), wrong })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    /// A clock whose times are known: the n-th of each way, the last again and again.
    struct Fake {
        agree: Option<Vec<bool>>,
        times: Vec<Vec<f64>>,
        asked: Vec<usize>,
    }

    impl Stand for Fake {
        fn agree(&mut self, _: usize) -> Result<Option<Vec<bool>>> {
            Ok(self.agree.clone())
        }

        fn time_ms(&mut self, _: usize, way: usize) -> Result<f64> {
            let turn = self.asked.iter().filter(|&&asked| asked == way).count();
            self.asked.push(way);
            let times = &self.times[way];
            times.get(turn.min(times.len().wrapping_sub(1))).copied().ok_or(Error::Device("lost".into()))
        }
    }

    fn contest(agree: &[bool], times: &[&[f64]]) -> (Verdict, Vec<usize>) {
        let times = times.iter().map(|times| times.to_vec()).collect();
        let mut fake = Fake { agree: Some(agree.to_vec()), times, asked: vec![] };
        (winner(&mut fake, 0).unwrap(), fake.asked)
    }

    #[test]
    fn the_fastest_wins_by_its_median() {
        let times: [&[f64]; 4] =
            [&[9.0, 2.0, 2.0, 2.1, 2.0], &[9.0, 1.0, 1.1, 1.0, 1.0], &[9.0, 1.99], &[12.0]];
        let (verdict, asked) = contest(&[true; 4], &times);
        assert_eq!((verdict.way, verdict.gain), (1, 2.0));
        // In turns there and back, without the slow one after the first round and the one that cannot win.
        assert_eq!(asked, [0, 1, 2, 3, 2, 1, 0, 0, 1, 1, 0, 0, 1]);
    }

    /// A device that becomes faster with every turn.
    #[test]
    fn a_device_that_warms_up_favours_nobody() {
        struct Warming(f64);
        impl Stand for Warming {
            fn agree(&mut self, _: usize) -> Result<Option<Vec<bool>>> {
                Ok(Some(vec![true; 4]))
            }
            fn time_ms(&mut self, _: usize, _: usize) -> Result<f64> {
                self.0 *= 0.95;
                Ok(self.0)
            }
        }
        assert_eq!(winner(&mut Warming(10.0), 0).unwrap().way, 0);
    }

    #[test]
    fn a_small_lead_does_not_count() {
        let of = |time: f64| contest(&[true; 2], &[&[1.0], &[time]]).0.way;
        assert_eq!([0.5, 0.96, 0.975, 1.0, 2.0].map(of), [1, 1, 0, 0, 0]);
    }

    #[test]
    fn a_lead_that_comes_and_goes_does_not_count() {
        // The median is shorter by a half, but two rounds of five were lost.
        let first: &[f64] = &[1.5, 1.5, 1.5, 1.0, 1.0];
        let second: &[f64] = &[0.9, 0.9, 0.9, 1.1, 1.1];
        assert_eq!(contest(&[true; 2], &[first, second]).0.way, 0);
        let second: &[f64] = &[0.9, 0.9, 0.9, 1.1, 0.9];
        assert_eq!(contest(&[true; 2], &[first, second]).0.way, 1, "one round lost");
    }

    #[test]
    fn other_bits_never_win() {
        let (verdict, asked) = contest(&[true, false, true], &[&[2.0], &[0.1], &[1.0]]);
        assert_eq!((verdict.way, &verdict.wrong[..]), (2, &[1][..]));
        assert!(!asked.contains(&1));
        let (verdict, asked) = contest(&[false, false, true], &[&[2.0], &[0.1], &[1.0]]);
        assert_eq!(verdict, Verdict { way: 0, gain: 1.0, wrong: vec![0] });
        assert_eq!(asked, [0; 0], "what does not repeat itself says nothing");
        let (verdict, asked) = contest(&[true, false, false], &[&[2.0], &[0.1], &[1.0]]);
        assert_eq!(verdict, Verdict { way: 0, gain: 1.0, wrong: vec![1, 2] });
        assert_eq!(asked, [0; 0], "nobody is left to be timed against");
    }

    #[test]
    fn what_takes_too_long_stays_as_it_is() {
        let mut fake = Fake { agree: None, times: vec![], asked: vec![] };
        assert_eq!(winner(&mut fake, 0).unwrap(), Verdict { way: 0, gain: 1.0, wrong: vec![] });
    }

    #[test]
    fn a_device_that_fails_is_reported() {
        let mut fake = Fake { agree: Some(vec![true; 2]), times: vec![vec![1.0], vec![]], asked: vec![] };
        assert!(winner(&mut fake, 0).is_err());
    }
}
