//! Causal attention by products of whole matrices and a softmax: the way of the exact contract.

use crate::ops::Recorder;
use crate::ops::dropout::Dropout;
use crate::ops::gemm::{Causal, Gemm, Matrix, Pass};
use crate::ops::softmax::{self, AttentionShape};
use crate::recording::View;

/// Attention of one layer. B, T, H, D as in [`AttentionShape`]; C = H*D.
#[derive(Clone, Copy, Debug)]
pub struct AttentionByProducts {
    /// B, T, H and D.
    pub shape: AttentionShape,
    /// Of the probabilities.
    pub dropout: Option<Dropout>,
}

/// What both passes read and write.
#[derive(Clone, Copy, Debug)]
pub struct ProductViews {
    /// `[B,T,3C]`: queries, keys and values side by side, each head's channels together.
    pub qkv: View,
    /// `[2]`: the micro-batch's number, low word first.
    pub step_number: View,
    /// `[B,H,T,T]`, written by the forward pass: the probabilities before dropout.
    pub probs: View,
    /// `[B,T,C]`, written by the forward pass: the heads' outputs.
    pub heads: View,
    /// `[B,H,T,T]`, scratch: scores going forward, the probabilities' gradient going back.
    pub scores: View,
    /// `[B,H,T,T]` twice, scratch, only with dropout: masked probabilities, and the gradient of those
    /// before it.
    pub dropped: Option<[View; 2]>,
}

impl AttentionByProducts {
    /// probs and heads from qkv.
    pub fn forward(&self, r: &mut Recorder, views: &ProductViews) {
        let AttentionShape { context: t, d_head: d, .. } = self.shape;
        let [q, k, v] = self.parts_of(views.qkv);
        let scores = self.squares_of(views.scores);
        self.multiply(r, Pass::Forward, [t, d, t], Causal::LowerOutput, [q, k.transposed(), scores]);
        softmax::forward(r, self.shape, views.scores, views.probs);
        let probs = self.squares_of(self.masked(r, views));
        self.multiply(r, Pass::Forward, [t, t, d], Causal::LowerA, [probs, v, self.heads_of(views.heads)]);
    }

    /// d_qkv `[B,T,3C]` from d_heads `[B,T,C]`.
    pub fn backward(&self, r: &mut Recorder, views: &ProductViews, d_heads: View, d_qkv: View) {
        let AttentionShape { context: t, d_head: d, .. } = self.shape;
        let [q, k, v] = self.parts_of(views.qkv);
        let [dq, dk, dv] = self.parts_of(d_qkv);
        let d_out = self.heads_of(d_heads).gradient();
        let probs = self.squares_of(self.masked(r, views));
        let d_probs = self.squares_of(views.scores);
        self.multiply(r, Pass::Backward, [t, t, d], Causal::UpperA, [probs.transposed(), d_out, dv]);
        self.multiply(r, Pass::Backward, [t, d, t], Causal::LowerOutput, [d_out, v.transposed(), d_probs]);
        let mut d_scores = views.scores;
        if let (Some(dropout), Some([_, unmasked])) = (&self.dropout, views.dropped) {
            dropout.apply(r, views.scores, views.step_number, unmasked);
            d_scores = unmasked;
        }
        softmax::backward(r, self.shape, views.probs, views.heads, d_heads, d_scores);
        let ds = self.squares_of(d_scores).gradient();
        self.multiply(r, Pass::Backward, [t, t, d], Causal::LowerA, [ds, k, dq]);
        self.multiply(r, Pass::Backward, [t, t, d], Causal::UpperA, [ds.transposed(), q, dk]);
    }

    /// The probabilities as they meet the values: masked by dropout, if there is any.
    fn masked(&self, r: &mut Recorder, views: &ProductViews) -> View {
        let (Some(dropout), Some([dropped, _])) = (&self.dropout, views.dropped) else { return views.probs };
        dropout.apply(r, views.probs, views.step_number, dropped);
        dropped
    }

    fn d_model(&self) -> usize {
        self.shape.n_head * self.shape.d_head
    }

    /// Queries, keys and values of every head within `[B,T,3C]`.
    fn parts_of(&self, qkv: View) -> [Matrix; 3] {
        let c = self.d_model();
        let all = Matrix::new(qkv, 3 * c).batched(self.shape.context * 3 * c, self.shape.d_head);
        [0, 1, 2].map(|part| all.at(part * c))
    }

    /// Every head's channels within `[B,T,C]`.
    fn heads_of(&self, heads: View) -> Matrix {
        let c = self.d_model();
        Matrix::new(heads, c).batched(self.shape.context * c, self.shape.d_head)
    }

    /// Every head's T x T matrix within `[B,H,T,T]`.
    fn squares_of(&self, squares: View) -> Matrix {
        let t = self.shape.context;
        Matrix::new(squares, t).batched(self.shape.n_head * t * t, t * t)
    }

    /// One product a head of each sequence. `sizes` are m, k and n.
    fn multiply(
        &self,
        r: &mut Recorder,
        pass: Pass,
        sizes: [usize; 3],
        causal: Causal,
        [a, b, c]: [Matrix; 3],
    ) {
        let (batch_outer, batch_inner) = (self.shape.batch, self.shape.n_head);
        r.multiply(&Gemm { batch_outer, batch_inner, causal, ..Gemm::new(pass, sizes, a, b, c) });
    }
}
