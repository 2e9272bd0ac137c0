//! Dropout by counter-based random numbers: the same call masks a value and, later, its gradient.

use rayon::prelude::*;

use super::Recorder;
use super::grid::{elements_per_task, flat_groups, vectorized};
use crate::exact::{dropout_scale, dropout_threshold, philox, snap};
use crate::kernels::dropout;
use crate::recording::View;

/// A dropout site: its mask is a function of these, the step and the element's index.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    pub seed: u64,
    /// Unique to the site within the model.
    pub purpose: u32,
    /// The probability of dropping an element, in [0, 1).
    pub probability: f64,
}

impl Dropout {
    /// output = keep ? input / (1-p) : 0. `step_number` [2] is the micro-batch's number, low word first.
    pub fn apply(&self, r: &mut Recorder, input: View, step_number: View, output: View) {
        assert_eq!(input.words, output.words, "dropout keeps its input's shape");
        r.add(dropout::dispatch(
            dropout::Push {
                count: input.words as u32,
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
    let step = [a.step_number[0], a.step_number[1]];
    let chunks = a.output.par_chunks_mut(task).zip(a.input.par_chunks(task)).enumerate();
    chunks.for_each(|(k, (output, input))| {
        let first = k * task;
        vectorized!(|output: &mut [f32], input: &[f32], first: usize, p: dropout::Push, step: [u32; 2]| {
            let key = [p.seed_low, p.seed_high];
            let first_quad = (first / 4) as u32;
            for (quad, (output, input)) in output.chunks_mut(4).zip(input.chunks(4)).enumerate() {
                let words = philox([first_quad + quad as u32, p.purpose, step[0], step[1]], key);
                for ((o, x), word) in output.iter_mut().zip(input).zip(words) {
                    *o = if word < p.threshold { 0.0 } else { snap(x * p.scale) };
                }
            }
        })
    });
}
