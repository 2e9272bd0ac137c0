//! Writes text with a model: draws one token after another from its predictions.

use crate::error::Result;
use crate::exact::random_words;
use crate::train::inference::Inference;

/// Counter purpose of drawing tokens. Training draws nothing, so any number serves.
const SAMPLE_PURPOSE: u32 = 0x6000_0000;

/// How a token is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Logits are divided by it; 0 takes the likeliest token.
    pub temperature: f64,
    /// Only the K likeliest tokens are drawn from.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens whose probabilities reach P together are drawn from
    /// (Holtzman et al. 2019).
    pub top_p: Option<f64>,
    /// The same seed draws the same text.
    pub seed: u64,
}

impl Sampler {
    /// Draws the `number`th token of a text. Calculated in f64 with `libm` from bits that are the same
    /// on every device, so the text is too.
    pub fn draw(&self, logits: &[f32], number: u64) -> u32 {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        // Equal logits stay in the order of their tokens.
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        if self.temperature == 0.0 {
            return order[0];
        }
        order.truncate(self.top_k.unwrap_or(usize::MAX).max(1));
        let highest = f64::from(logits[order[0] as usize]);
        let weight =
            |&token: &u32| libm::exp((f64::from(logits[token as usize]) - highest) / self.temperature);
        let mut weights: Vec<f64> = order.iter().map(weight).collect();
        if let Some(top_p) = self.top_p {
            weights.truncate(nucleus(&weights, top_p));
        }
        let words = random_words(self.seed, SAMPLE_PURPOSE, number, 0);
        let random = (u64::from(words[0]) << 32 | u64::from(words[1])) as f64 / 2f64.powi(64);
        let mut left = random * weights.iter().sum::<f64>();
        let chosen = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        // Rounding may leave nothing over at the very end.
        order[chosen.unwrap_or(weights.len() - 1)]
    }
}

/// How many of the descending `weights` reach `top_p` of their sum.
fn nucleus(weights: &[f64], top_p: f64) -> usize {
    let enough = top_p * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let last = weights.iter().position(|weight| {
        sum += weight;
        sum >= enough
    });
    last.map_or(weights.len(), |last| last + 1)
}

/// Goes on from `tokens` until `max_tokens` more were drawn, or until `end` is; hands each to `each`, which
/// says whether to go on.
pub fn write(
    model: &mut Inference,
    sampler: &Sampler,
    tokens: &mut Vec<u32>,
    max_tokens: u64,
    end: Option<u32>,
    mut each: impl FnMut(u32) -> Result<bool>,
) -> Result<()> {
    for number in 0..max_tokens {
        let token = sampler.draw(&model.next_logits(tokens)?, number);
        if Some(token) == end {
            break;
        }
        tokens.push(token);
        if !each(token)? {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -1.0];

    fn drawn(sampler: Sampler) -> [usize; 5] {
        let mut counts = [0; 5];
        (0..20_000).for_each(|number| counts[sampler.draw(&LOGITS, number) as usize] += 1);
        counts
    }

    fn sampler(temperature: f64) -> Sampler {
        Sampler { temperature, top_k: None, top_p: None, seed: 3 }
    }

    #[test]
    fn tokens_come_as_often_as_softmax_says() {
        let exps: Vec<f64> = LOGITS.iter().map(|&x| f64::from(x / 0.7).exp()).collect();
        let total: f64 = exps.iter().sum();
        for (count, exp) in drawn(sampler(0.7)).iter().zip(&exps) {
            let expected = exp / total;
            assert!((*count as f64 / 20_000.0 - expected).abs() < 0.015, "{count} of 20000, {expected}");
        }
    }

    #[test]
    fn temperature_zero_takes_the_likeliest_and_of_equals_the_first() {
        assert_eq!(drawn(sampler(0.0)), [0, 20_000, 0, 0, 0]);
    }

    #[test]
    fn top_k_and_top_p_leave_the_unlikely_out() {
        let zeros = |s: Sampler| drawn(s).map(|count| count == 0);
        assert_eq!(zeros(Sampler { top_k: Some(2), ..sampler(1.0) }), [true, false, true, false, true]);
        assert_eq!(zeros(Sampler { top_k: Some(1), ..sampler(1.0) }), [true, false, true, true, true]);
        // Both of the likeliest have 0.396 each, the next 0.146.
        assert_eq!(zeros(Sampler { top_p: Some(0.7), ..sampler(1.0) }), [true, false, true, false, true]);
        assert_eq!(zeros(Sampler { top_p: Some(0.8), ..sampler(1.0) }), [true, false, false, false, true]);
        assert_eq!(zeros(Sampler { top_p: Some(1e-9), ..sampler(1.0) }), [true, false, true, true, true]);
    }

    #[test]
    fn the_seed_decides() {
        let text = |seed: u64| {
            let s = Sampler { seed, ..sampler(1.0) };
            (0..50).map(|n| s.draw(&LOGITS, n)).collect::<Vec<_>>()
        };
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }
}
