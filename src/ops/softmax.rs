//! Causal softmax over attention scores, and its gradient.

use rayon::prelude::*;

use super::grid::{row_layout, rows_per_task, vectorized};
use super::rows::{row_max, row_sum};
use super::{Recorder, word};
use crate::exact::{exp, recip, snap};
use crate::kernels::{softmax_backward, softmax_forward};
use crate::recording::View;

/// The shape of attention: B sequences of T positions, H heads of D channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// B.
    pub batch: usize,
    /// T.
    pub context: usize,
    /// H.
    pub n_head: usize,
    /// D.
    pub d_head: usize,
}

impl AttentionShape {
    /// Elements of the score and probability tensors, `[B,H,T,T]`.
    pub fn score_words(&self) -> usize {
        self.batch * self.n_head * self.context * self.context
    }

    /// 1/sqrt(d_head), what scores are multiplied by.
    pub fn scale(&self) -> f32 {
        (1.0 / libm::sqrt(self.d_head as f64)) as f32
    }

    /// Rows of scores, B*H*T.
    pub fn rows(&self) -> usize {
        self.batch * self.n_head * self.context
    }
}

/// probs = causal softmax(scale * scores), both `[B,H,T,T]`; scores past the diagonal are not read,
/// probabilities past it are written as 0.
pub fn forward(r: &mut Recorder, shape: AttentionShape, scores: View, probs: View) {
    assert_eq!(scores.words, shape.score_words(), "scores are [B,H,T,T]");
    assert_eq!(probs.words, shape.score_words(), "probabilities are [B,H,T,T]");
    let layout = row_layout(shape.rows(), shape.context, &r.traits);
    r.add(softmax_forward::dispatch(
        softmax_forward::Push {
            rows: word(shape.rows()),
            context: word(shape.context),
            scale: shape.scale(),
        },
        softmax_forward::Specialization {
            local_size_x: layout.row_width,
            local_size_y: layout.rows_per_group,
        },
        softmax_forward::Bindings { input: scores, output: probs },
        layout.groups,
    ));
}

/// Turns `gradient` from dP into dS, in place. probs, gradient `[B,H,T,T]`; output (attention's own
/// output) and d_output `[B,T,H*D]`. Gradients past the diagonal are not read and become 0.
pub fn backward(
    r: &mut Recorder,
    shape: AttentionShape,
    probs: View,
    output: View,
    d_output: View,
    gradient: View,
) {
    assert_eq!(probs.words, shape.score_words(), "probabilities are [B,H,T,T]");
    assert_eq!(gradient.words, shape.score_words(), "their gradient is [B,H,T,T]");
    assert_eq!(output.words, shape.batch * shape.context * shape.n_head * shape.d_head);
    assert!(shape.d_head <= crate::exact::K_BLOCK, "d_head is one block of the dot product's contract");
    let layout = row_layout(shape.rows(), shape.context, &r.traits);
    r.add(softmax_backward::dispatch(
        softmax_backward::Push {
            rows: word(shape.rows()),
            context: word(shape.context),
            n_head: word(shape.n_head),
            d_head: word(shape.d_head),
            scale: shape.scale(),
        },
        softmax_backward::Specialization {
            local_size_x: layout.row_width,
            local_size_y: layout.rows_per_group,
        },
        softmax_backward::Bindings { probs, output, d_output, gradient },
        layout.groups,
    ));
}

/// Twin of shaders/softmax_forward.comp.
pub fn softmax_forward(a: softmax_forward::Args) {
    let context = a.push.context as usize;
    let scale = a.push.scale;
    let rows = rows_per_task(context);
    let tasks = a.output.par_chunks_mut(rows * context).zip(a.input.par_chunks(rows * context));
    tasks.enumerate().for_each(|(task, (outputs, inputs))| {
        let first = task * rows;
        vectorized!(|outputs: &mut [f32], inputs: &[f32], first: usize, context: usize, scale: f32| {
            let pairs = outputs.chunks_exact_mut(context).zip(inputs.chunks_exact(context));
            for (k, (output, input)) in pairs.enumerate() {
                let length = (first + k) % context + 1;
                let (output, masked) = output.split_at_mut(length);
                let input = &input[..length];
                let largest = row_max(input, |x| x * scale);
                for (o, x) in output.iter_mut().zip(input) {
                    *o = snap(exp(x * scale - largest));
                }
                let inv_sum = recip(row_sum([output], |[e]| e));
                for o in output.iter_mut() {
                    *o = snap(*o * inv_sum);
                }
                masked.fill(0.0);
            }
        })
    });
}

/// Twin of shaders/softmax_backward.comp.
pub fn softmax_backward(a: softmax_backward::Args) {
    let (p, output, d_output) = (a.push, a.output, a.d_output);
    let context = p.context as usize;
    let rows = rows_per_task(context);
    let tasks = a.gradient.par_chunks_mut(rows * context).zip(a.probs.par_chunks(rows * context));
    tasks.enumerate().for_each(|(task, (gradients, probs))| {
        let first = task * rows;
        vectorized!(|gradients: &mut [f32],
                     probs: &[f32],
                     first: usize,
                     p: softmax_backward::Push,
                     d_output: &[f32],
                     output: &[f32]| {
            let (context, n_head, d_head) = (p.context as usize, p.n_head as usize, p.d_head as usize);
            let pairs = gradients.chunks_exact_mut(context).zip(probs.chunks_exact(context));
            for (k, (gradient, probs)) in pairs.enumerate() {
                let row = first + k;
                let (matrix, i) = (row / context, row % context);
                let position = matrix / n_head * context + i;
                let at = (position * n_head + matrix % n_head) * d_head;
                let products = d_output[at..at + d_head].iter().zip(&output[at..at + d_head]);
                let d = snap(products.fold(0.0, |sum, (x, y)| sum + x * y));
                let (gradient, masked) = gradient.split_at_mut(i + 1);
                for (g, prob) in gradient.iter_mut().zip(probs) {
                    let ds = snap(prob * snap(*g - d)) * p.scale;
                    *g = snap(ds);
                }
                masked.fill(0.0);
            }
        })
    });
}
