//! Dropout by counter-based random numbers: the same call masks a value and, later, its gradient.

use rayon::prelude::*;

use super::grid::{elements_per_task, flat_groups, vectorized};
use super::{Recorder, word};
use crate::exact::{dropout_scale, dropout_threshold, random_words_of_8, snap};
use crate::kernels::dropout;
use crate::recording::View;

/// A dropout site: its mask is a function of these, the step and the element's index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The run's seed.
    pub seed: u64,
    /// Unique to the site within the model.
    pub purpose: u32,
    /// The probability of dropping an element, in [0, 1).
    pub probability: f64,
}

impl Dropout {
    /// output = keep ? input / (1-p) : 0. `step_number` `[2]` is the micro-batch's number, low word first.
    pub fn apply(&self, r: &mut Recorder, input: View, step_number: View, output: View) {
        assert_eq!(input.words, output.words, "dropout keeps its input's shape");
        r.add(dropout::dispatch(
            dropout::Push {
                count: word(input.words),
                seed_low: self.seed as u32,
                seed_high: (self.seed >> 32) as u32,
                purpose: self.purpose,
                threshold: dropout_threshold(self.probability),
                scale: dropout_scale(self.probability),
            },
            Default::default(),
            dropout::Bindings { input, step_number, output },
            flat_groups(input.words.div_ceil(4), 64),
        ));
    }
}

/// Twin of shaders/dropout.comp.
pub fn dropout(a: dropout::Args) {
    let p = a.push;
    let task = elements_per_task();
    let seed = u64::from(p.seed_low) | u64::from(p.seed_high) << 32;
    let step = u64::from(a.step_number[0]) | u64::from(a.step_number[1]) << 32;
    let chunks = a.output.par_chunks_mut(task).zip(a.input.par_chunks(task)).enumerate();
    chunks.for_each(|(k, (output, input))| {
        let first = k * task;
        vectorized!(|output: &mut [f32],
                     input: &[f32],
                     first: usize,
                     p: dropout::Push,
                     seed: u64,
                     step: u64| {
            for (run, (output, input)) in output.chunks_mut(32).zip(input.chunks(32)).enumerate() {
                let first_block = (first / 4 + run * 8) as u32;
                let words = random_words_of_8(seed, p.purpose, step, first_block);
                for ((o, x), word) in output.iter_mut().zip(input).zip(words) {
                    *o = if word < p.threshold { 0.0 } else { snap(x * p.scale) };
                }
            }
        })
    });
}
