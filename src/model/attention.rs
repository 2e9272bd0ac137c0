//! Causal multi-head self-attention, forward and backward: batched products and a softmax per head.

use crate::model::arena::Arena;
use crate::model::linear::Linear;
use crate::ops::Recorder;
use crate::ops::dropout::Dropout;
use crate::ops::gemm::{Causal, Gemm, Matrix, Pass};
use crate::ops::softmax::{self, AttentionShape};
use crate::recording::View;

/// One attention layer. B, T, H, D as in [`AttentionShape`]; C = H*D.
pub struct Attention {
    shape: AttentionShape,
    qkv: Linear,
    proj: Linear,
    dropout: Option<Dropout>,
}

/// What the forward pass keeps for the backward pass.
#[derive(Clone, Copy)]
pub struct Saved {
    /// `[B,T,3C]`: queries, keys and values side by side, each head's channels together.
    pub qkv: View,
    /// `[B,H,T,T]`, before dropout.
    pub probs: View,
    /// `[B,T,C]`: the heads' outputs, before the projection.
    pub heads: View,
}

/// Room for values that do not outlive the layer.
#[derive(Clone, Copy)]
pub struct Scratch {
    /// `[B,H,T,T]`: scores going forward, the probabilities' gradient going back.
    pub scores: View,
    /// `[B,H,T,T]` twice, only with dropout: masked probabilities, and their gradient.
    pub dropped: Option<[View; 2]>,
    /// `[B,T,C]`
    pub d_heads: Option<View>,
    /// `[B,T,3C]`
    pub d_qkv: Option<View>,
    /// `[64,3C]`
    pub partials: Option<View>,
}

impl Attention {
    /// `prefix` is the block's name, such as `transformer.h.0`; `dropout` acts on the probabilities.
    pub fn new(arena: &Arena, prefix: &str, shape: AttentionShape, dropout: Option<Dropout>) -> Attention {
        let c = shape.n_head * shape.d_head;
        Attention {
            shape,
            qkv: Linear::new(arena, &format!("{prefix}.attn.c_attn"), c, 3 * c),
            proj: Linear::new(arena, &format!("{prefix}.attn.c_proj"), c, c),
            dropout,
        }
    }

    fn d_model(&self) -> usize {
        self.shape.n_head * self.shape.d_head
    }

    /// Queries (0), keys (1) or values (2) of every head within `[B,T,3C]`.
    fn part_of(&self, qkv: View, which: usize) -> Matrix {
        let c = self.d_model();
        Matrix::new(qkv, 3 * c).at(which * c).batched(self.shape.context * 3 * c, self.shape.d_head)
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
        let product = Gemm { batch_outer, batch_inner, causal, ..Gemm::new(pass, sizes, a, b, c) };
        r.multiply(&product);
    }

    /// output `[B,T,C]` from input `[B,T,C]`.
    pub fn forward(
        &self,
        r: &mut Recorder,
        params: View,
        step_number: View,
        input: View,
        saved: &Saved,
        scratch: &Scratch,
        output: View,
    ) {
        let AttentionShape { context: t, d_head: d, .. } = self.shape;
        self.qkv.forward(r, params, input, saved.qkv);
        let (q, k, v) = (self.part_of(saved.qkv, 0), self.part_of(saved.qkv, 1), self.part_of(saved.qkv, 2));
        let scores = self.squares_of(scratch.scores);
        self.multiply(r, Pass::Forward, [t, d, t], Causal::LowerOutput, [q, k.transposed(), scores]);
        softmax::forward(r, self.shape, scratch.scores, saved.probs);
        let probs = self.squares_of(self.masked(r, step_number, saved.probs, scratch));
        let heads = self.heads_of(saved.heads);
        self.multiply(r, Pass::Forward, [t, t, d], Causal::LowerA, [probs, v, heads]);
        self.proj.forward(r, params, saved.heads, output);
    }

    /// The probabilities as they meet the values: masked by dropout, if there is any.
    fn masked(&self, r: &mut Recorder, step_number: View, probs: View, scratch: &Scratch) -> View {
        let (Some(dropout), Some([dropped, _])) = (&self.dropout, scratch.dropped) else { return probs };
        dropout.apply(r, probs, step_number, dropped);
        dropped
    }

    /// d_input `[B,T,C]` from d_output `[B,T,C]`; the parameters' gradients into the arena `grads`.
    pub fn backward(
        &self,
        r: &mut Recorder,
        params: View,
        grads: View,
        step_number: View,
        input: View,
        saved: &Saved,
        scratch: &Scratch,
        d_output: View,
        d_input: View,
    ) {
        let AttentionShape { context: t, d_head: d, .. } = self.shape;
        let training = "a training program has the backward pass's scratch";
        let d_heads = scratch.d_heads.expect(training);
        let d_qkv = scratch.d_qkv.expect(training);
        let partials = scratch.partials.expect(training);
        let (q, k, v) = (self.part_of(saved.qkv, 0), self.part_of(saved.qkv, 1), self.part_of(saved.qkv, 2));
        let (dq, dk, dv) = (self.part_of(d_qkv, 0), self.part_of(d_qkv, 1), self.part_of(d_qkv, 2));

        self.proj.backward(r, params, grads, saved.heads, d_output, d_heads, partials);
        let d_out = self.heads_of(d_heads).gradient();
        let probs = self.squares_of(self.masked(r, step_number, saved.probs, scratch));
        let d_probs = self.squares_of(scratch.scores);
        self.multiply(r, Pass::Backward, [t, t, d], Causal::UpperA, [probs.transposed(), d_out, dv]);
        self.multiply(r, Pass::Backward, [t, d, t], Causal::LowerOutput, [d_out, v.transposed(), d_probs]);
        let mut d_scores = scratch.scores;
        if let (Some(dropout), Some([_, unmasked])) = (&self.dropout, scratch.dropped) {
            dropout.apply(r, scratch.scores, step_number, unmasked);
            d_scores = unmasked;
        }
        softmax::backward(r, self.shape, saved.probs, saved.heads, d_heads, d_scores);
        let ds = self.squares_of(d_scores).gradient();
        self.multiply(r, Pass::Backward, [t, t, d], Causal::LowerA, [ds, k, dq]);
        self.multiply(r, Pass::Backward, [t, t, d], Causal::UpperA, [ds.transposed(), q, dk]);
        self.qkv.backward(r, params, grads, input, d_qkv, d_input, partials);
    }
}
