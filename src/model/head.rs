//! The output projection, tied to the token embedding, and the loss: as many positions at a time as keep the
//! logits from filling the device's memory.

use crate::model::activations::Activations;
use crate::model::gpt::Inputs;
use crate::ops::gemm::{Gemm, Matrix, Pass};
use crate::ops::tensor::Tensor;
use crate::ops::{Recorder, cross_entropy, narrow};
use crate::recording::{Traits, View};

/// Logits that training keeps at a time, at most: 256 MiB.
const MAX_LOGITS: usize = 1 << 26;

/// Positions are taken in multiples of this, so that their losses begin where a view may.
const ROW_UNIT: usize = 128;

/// Positions whose logits training works on at a time, of `n` in all.
pub fn rows_at_a_time(n: usize, vocab_size: usize) -> usize {
    let parts = (n * vocab_size).div_ceil(MAX_LOGITS);
    n.div_ceil(parts).next_multiple_of(if parts > 1 { ROW_UNIT } else { 1 }).min(n)
}

/// Elements of a row of the logits' gradient if it is kept in 16 bits; `None` if it cannot be.
pub fn narrow_row(vocab_size: usize, traits: &Traits) -> Option<usize> {
    match cross_entropy::is_fused(vocab_size, traits) {
        true => narrow::fits(vocab_size).then_some(vocab_size),
        false => Some(cross_entropy::short_row(vocab_size)),
    }
}

/// The output projection of a model over its buffers.
pub struct Head<'a> {
    /// C.
    pub d_model: usize,
    /// V.
    pub vocab_size: usize,
    /// `[V,C]`: the token embedding.
    pub wte: View,
    /// The buffers.
    pub activations: &'a Activations,
}

impl Head<'_> {
    /// Positions, N.
    fn positions(&self) -> usize {
        self.activations.normed.len / self.d_model
    }

    fn rows_at_a_time(&self) -> usize {
        self.activations.logits.words / self.vocab_size
    }

    /// Logits of `rows` positions from `first` on, at the beginning of their buffer.
    fn record_rows(&self, r: &mut Recorder, first: usize, rows: usize) {
        let Head { d_model: c, vocab_size: v, wte, activations } = *self;
        let product = Gemm::new(
            Pass::Forward,
            [rows, c, v],
            activations.normed.matrix(c).at(first * c),
            Matrix::new(wte, c).transposed(),
            Matrix::new(activations.logits, v),
        );
        r.multiply(&product);
    }

    /// Logits `[N,V]` of all positions. Only of a model that keeps them all.
    pub fn record_logits(&self, r: &mut Recorder) {
        assert_eq!(self.rows_at_a_time(), self.positions(), "the logits of all positions are kept");
        self.record_rows(r, 0, self.positions());
    }

    /// Logits, and the losses `[N]` of all positions; with `scale`, 1 / positions in the whole batch, the
    /// logits' gradient too.
    pub fn record_losses(&self, r: &mut Recorder, inputs: &Inputs, losses: View, scale: Option<f32>) {
        let (n, v) = (self.positions(), self.vocab_size);
        let row = self.activations.d_logits.len / n;
        let fused = cross_entropy::is_fused(v, &r.traits);
        for first in (0..n).step_by(self.rows_at_a_time()) {
            let rows = self.rows_at_a_time().min(n - first);
            self.record_rows(r, first, rows);
            let logits = self.activations.logits.part(0, rows * v);
            let d_logits = part(self.activations.d_logits, first * row, rows * row);
            let [targets, losses] = [inputs.targets, losses].map(|view| view.part(first, rows));
            if fused {
                cross_entropy::fused(r, logits, targets, losses, d_logits, scale.unwrap_or(1.0));
                continue;
            }
            if d_logits.narrow {
                cross_entropy::short(r, logits, targets, losses, d_logits, scale.unwrap_or(1.0));
                continue;
            }
            cross_entropy::forward(r, logits, targets, losses, d_logits.full());
            if let Some(scale) = scale {
                cross_entropy::backward(r, targets, d_logits.full(), scale);
            }
        }
    }

    /// d_normed `[N,C]`, and the projection's part of the token embedding's gradient `[V,C]`.
    pub fn record_backward(&self, r: &mut Recorder, d_wte: View, d_normed: Tensor) {
        let Head { d_model: c, vocab_size: v, wte, activations } = *self;
        let row = activations.d_logits.len / self.positions();
        let d_logits = activations.d_logits.matrix(row).gradient();
        let of_input = Gemm::new(
            Pass::Backward,
            [self.positions(), v, c],
            d_logits,
            Matrix::new(wte, c),
            d_normed.matrix(c).gradient(),
        );
        let of_weight = Gemm::new(
            Pass::Backward,
            [v, self.positions(), c],
            d_logits.transposed(),
            activations.normed.matrix(c),
            Matrix::new(d_wte, c),
        );
        r.multiply(&of_input);
        r.multiply(&of_weight);
    }
}

/// Elements of a tensor from `first` on.
fn part(tensor: Tensor, first: usize, len: usize) -> Tensor {
    let words = |len| Tensor::words(len, tensor.narrow);
    Tensor { view: tensor.view.part(words(first), words(len)), len, ..tensor }
}
