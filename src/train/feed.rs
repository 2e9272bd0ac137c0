//! What each step trains on: windows drawn from the seed, cut into micro-batches.

use crate::data::TrainingWindows;
use crate::train::session::MicroBatch;

/// Fills the micro-batches of any step; holds no state but buffers.
pub struct Feed<'a> {
    tokens: &'a [u32],
    windows: TrainingWindows,
    batch_size: usize,
    micros: Vec<MicroBatch>,
}

impl<'a> Feed<'a> {
    /// Micro-batches of `batch_size` windows of `tokens`, `grad_accum` of them a step.
    pub fn new(
        tokens: &'a [u32],
        windows: TrainingWindows,
        batch_size: usize,
        grad_accum: usize,
        context: usize,
    ) -> Feed<'a> {
        let words = batch_size * context;
        let micro = MicroBatch { tokens: vec![0; words], targets: vec![0; words] };
        Feed { tokens, windows, batch_size, micros: vec![micro; grad_accum] }
    }

    /// Windows in a step, its micro-batches together.
    pub fn windows_per_step(&self) -> u64 {
        (self.batch_size * self.micros.len()) as u64
    }

    /// Tokens that a step trains on.
    pub fn tokens_per_step(&self) -> u64 {
        (self.micros.len() * self.micros[0].tokens.len()) as u64
    }

    /// The micro-batches of the step after `step` steps.
    pub fn micro_batches(&mut self, step: u64) -> &[MicroBatch] {
        let first = step * self.windows_per_step();
        for (k, micro) in self.micros.iter_mut().enumerate() {
            let window = first + (k * self.batch_size) as u64;
            self.windows.fill(self.tokens, window, &mut micro.tokens, &mut micro.targets);
        }
        &self.micros
    }

    /// Epochs passed after `step` steps, with their fraction.
    pub fn epochs(&self, step: u64) -> f64 {
        (step * self.windows_per_step()) as f64 / self.windows.per_epoch() as f64
    }

    /// Whole epochs passed after `step` steps.
    pub fn whole_epochs(&self, step: u64) -> u64 {
        step * self.windows_per_step() / self.windows.per_epoch()
    }

    /// Steps that cover this many epochs, rounded up.
    pub fn steps_of_epochs(&self, epochs: u64) -> u64 {
        self.windows.steps(epochs, self.windows_per_step())
    }
}
