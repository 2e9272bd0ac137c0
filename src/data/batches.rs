//! Cuts token ids into windows: to train on in an order drawn from the seed, to evaluate each position once.
//!
//! T is the context: a window has T inputs, and as targets the T tokens one further on.

use crate::error::{Error, Result};
use crate::exact::random_words;

/// A target that takes no part in the loss.
pub const IGNORE: u32 = crate::ops::cross_entropy::IGNORE;

/// Counter purposes of the windows: above every dropout site's, below the initial weights'.
const PHASE_PURPOSE: u32 = 0x4000_0000;
const ORDER_PURPOSE: u32 = 0x4000_0001;

/// The windows of a training run, numbered from 0 without end.
///
/// Which tokens a window covers is a function of the seed and the window's number alone, so a run
/// resumes from its step number. An epoch is n non-overlapping windows in a shuffled order, all
/// shifted by a phase; both are drawn anew for each epoch.
#[derive(Clone, Debug)]
pub struct TrainingWindows {
    length: usize,
    context: usize,
    seed: u64,
    per_epoch: u64,
    /// The epoch drawn last: windows are asked for in order, so this is nearly always the right one.
    epoch: Epoch,
}

#[derive(Clone, Debug)]
struct Epoch {
    number: u64,
    /// First token of the epoch's first window in text order.
    phase: usize,
    /// The epoch's windows as they are drawn, each by its place in the text.
    order: Vec<u32>,
}

impl TrainingWindows {
    /// Windows over `length` tokens. `what` names the text in the error when it is too short.
    pub fn new(length: usize, context: usize, seed: u64, what: &str) -> Result<TrainingWindows> {
        if length < context + 1 {
            return Err(Error::Input(format!(
                "{what} has {length} tokens to train on, too few for --context {context}, which needs {}: \
                 give a longer text or a smaller --context",
                context + 1
            )));
        }
        // One context less than fits, so that every phase below T leaves room for the last target.
        let per_epoch = ((length - context) / context).max(1) as u64;
        let mut windows = TrainingWindows {
            length,
            context,
            seed,
            per_epoch,
            epoch: Epoch { number: 0, phase: 0, order: vec![] },
        };
        windows.epoch = windows.draw(0);
        Ok(windows)
    }

    /// Windows in an epoch, at least 1.
    pub fn per_epoch(&self) -> u64 {
        self.per_epoch
    }

    /// The epoch that a window belongs to, from 0.
    pub fn epoch(&self, window: u64) -> u64 {
        window / self.per_epoch
    }

    /// How many steps of `windows_per_step` windows cover `epochs` epochs, rounded up.
    pub fn steps(&self, epochs: u64, windows_per_step: u64) -> u64 {
        epochs.saturating_mul(self.per_epoch).div_ceil(windows_per_step)
    }

    /// The position of a window's first token.
    pub fn start(&mut self, window: u64) -> usize {
        let number = self.epoch(window);
        if number != self.epoch.number {
            self.epoch = self.draw(number);
        }
        let place = self.epoch.order[(window % self.per_epoch) as usize];
        self.epoch.phase + place as usize * self.context
    }

    /// Fills a batch with consecutive windows from number `first` on; it may straddle an epoch's edge.
    ///
    /// `inputs` and `targets` are [windows, T]; `tokens` are those that the windows were made for.
    pub fn fill(&mut self, tokens: &[u32], first: u64, inputs: &mut [u32], targets: &mut [u32]) {
        assert_eq!(tokens.len(), self.length, "these are not the tokens that the windows were made for");
        assert_eq!(inputs.len(), targets.len());
        let t = self.context;
        for (window, (inputs, targets)) in
            (first..).zip(inputs.chunks_exact_mut(t).zip(targets.chunks_exact_mut(t)))
        {
            let start = self.start(window);
            inputs.copy_from_slice(&tokens[start..start + t]);
            targets.copy_from_slice(&tokens[start + 1..start + 1 + t]);
        }
    }

    fn draw(&self, number: u64) -> Epoch {
        let phases = self.context.min(self.length - 1 - self.per_epoch as usize * self.context + 1);
        let phase = self.below(phases as u64, PHASE_PURPOSE, number, 0) as usize;
        let mut order: Vec<u32> = (0..self.per_epoch as u32).collect();
        // Fisher and Yates, from the end.
        for last in (1..order.len()).rev() {
            let other = self.below(last as u64 + 1, ORDER_PURPOSE, number, last as u32);
            order.swap(last, other as usize);
        }
        Epoch { number, phase, order }
    }

    /// A random number below `bound`, from 64 random bits: the bias is below bound / 2^64.
    fn below(&self, bound: u64, purpose: u32, epoch: u64, index: u32) -> u64 {
        let words = random_words(self.seed, purpose, epoch, index);
        let random = u64::from(words[0]) | u64::from(words[1]) << 32;
        ((u128::from(random) * u128::from(bound)) >> 64) as u64
    }
}

/// The windows of an evaluation: every position of the text is predicted exactly once.
#[derive(Clone, Copy, Debug)]
pub struct EvaluationWindows {
    length: usize,
    context: usize,
}

impl EvaluationWindows {
    /// Windows over `length` tokens, at least 2. `what` names the text in the error when it is too short.
    pub fn new(length: usize, context: usize, what: &str) -> Result<EvaluationWindows> {
        if length < 2 {
            return Err(Error::Input(format!(
                "{what} has {length} tokens to evaluate on, too few to predict one from another: give a \
                 longer text"
            )));
        }
        Ok(EvaluationWindows { length, context })
    }

    /// How many windows there are; the last may be shorter than T.
    pub fn count(&self) -> usize {
        self.positions().div_ceil(self.context)
    }

    /// How many tokens are predicted: all but the first.
    pub fn positions(&self) -> usize {
        self.length - 1
    }

    /// Fills a batch with windows from number `first` on, and returns how many targets count.
    ///
    /// `inputs` and `targets` are [windows, T]. Past the end of the text, inputs are 0 and targets
    /// [`IGNORE`].
    pub fn fill(&self, tokens: &[u32], first: usize, inputs: &mut [u32], targets: &mut [u32]) -> usize {
        assert_eq!(tokens.len(), self.length, "these are not the tokens that the windows were made for");
        assert_eq!(inputs.len(), targets.len());
        let start = (first * self.context).min(self.positions());
        let counted = inputs.len().min(self.positions() - start);
        inputs[..counted].copy_from_slice(&tokens[start..start + counted]);
        targets[..counted].copy_from_slice(&tokens[start + 1..start + 1 + counted]);
        inputs[counted..].fill(0);
        targets[counted..].fill(IGNORE);
        counted
    }
}

/// Sorts the positions of a batch by their token, equal tokens by position: the order in which the
/// gradient of the token embedding adds them up.
///
/// Positions of token t are `order[starts[t]..starts[t + 1]]`. `order` is as long as `tokens`,
/// `starts` has one element more than the vocabulary, and every token is below its size.
pub fn sort_positions(tokens: &[u32], vocab_size: usize, order: &mut [u32], starts: &mut [u32]) {
    assert_eq!(order.len(), tokens.len());
    assert_eq!(starts.len(), vocab_size + 1);
    starts.fill(0);
    for &token in tokens {
        starts[token as usize] += 1;
    }
    // Each token's end first; placing its positions from the last to the first turns it into its start.
    let mut end = 0;
    for start in starts.iter_mut() {
        end += *start;
        *start = end;
    }
    for (position, &token) in tokens.iter().enumerate().rev() {
        let place = &mut starts[token as usize];
        *place -= 1;
        order[*place as usize] = position as u32;
    }
}
