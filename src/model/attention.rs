//! Causal multi-head self-attention, forward and backward: fused where the precision and the device allow,
//! else batched products and a softmax per head.

use crate::model::arena::Arena;
use crate::model::linear::{BranchGradient, Linear};
use crate::ops::Recorder;
use crate::ops::attention::{BackwardViews, ForwardViews, FusedAttention};
use crate::ops::dropout::Dropout;
use crate::ops::gemm::{After, Causal, Gemm, Matrix, Pass};
use crate::ops::softmax::{self, AttentionShape};
use crate::ops::tensor::Tensor;
use crate::recording::{Traits, View};

/// One attention layer. B, T, H, D as in [`AttentionShape`]; C = H*D.
pub struct Attention {
    shape: AttentionShape,
    qkv: Linear,
    proj: Linear,
    dropout: Option<Dropout>,
    fused: Option<FusedAttention>,
}

/// What the forward pass keeps for the backward pass.
#[derive(Clone, Copy)]
pub struct Saved {
    /// `[B,T,3C]`: queries, keys and values side by side, each head's channels together.
    pub qkv: Tensor,
    /// What is kept of the probabilities: where attention is fused, each row's log-sum-exp `[B,H,T]`; else
    /// all of them `[B,H,T,T]`, before dropout.
    pub probs: View,
    /// `[B,T,C]`: the heads' outputs, before the projection.
    pub heads: Tensor,
}

/// Room for values that do not outlive the layer.
#[derive(Clone, Copy)]
pub struct Scratch {
    /// `[B,H,T,T]`: scores going forward, the probabilities' gradient going back. Where attention is fused,
    /// `[B,H,T]`, training only: each row's sum of the heads' outputs times their gradient.
    pub scores: Option<View>,
    /// `[B,H,T,T]` twice, only with dropout: masked probabilities, and their gradient.
    pub dropped: Option<[View; 2]>,
    /// `[B,T,C]`
    pub d_heads: Option<Tensor>,
    /// `[B,T,3C]`
    pub d_qkv: Option<Tensor>,
    /// Room for the sums of `[3C]`.
    pub partials: Option<View>,
}

impl Attention {
    /// `prefix` is the block's name, such as `transformer.h.0`; `dropout` acts on the probabilities.
    pub fn new(
        arena: &Arena,
        prefix: &str,
        shape: AttentionShape,
        dropout: Option<Dropout>,
        traits: &Traits,
    ) -> Attention {
        let c = shape.n_head * shape.d_head;
        Attention {
            shape,
            qkv: Linear::new(arena, &format!("{prefix}.attn.c_attn"), c, 3 * c),
            proj: Linear::new(arena, &format!("{prefix}.attn.c_proj"), c, c),
            dropout,
            fused: FusedAttention::new(shape, dropout, traits),
        }
    }

    /// Fused attention over tensors that are kept as these are.
    fn fused_over(&self, saved: &Saved) -> Option<FusedAttention> {
        self.fused.map(|fused| if saved.qkv.narrow { fused.packed() } else { fused })
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
        input: Tensor,
        saved: &Saved,
        scratch: &Scratch,
        output: Tensor,
    ) {
        self.qkv.forward(r, params, input, saved.qkv, After::Nothing);
        match self.fused_over(saved) {
            Some(fused) => fused.forward(r, &fused_views(step_number, saved)),
            None => self.forward_by_products(r, step_number, saved, scratch),
        }
        self.proj.forward(r, params, saved.heads, output, After::Nothing);
    }

    /// The heads' outputs from queries, keys and values.
    fn forward_by_products(&self, r: &mut Recorder, step_number: View, saved: &Saved, scratch: &Scratch) {
        let AttentionShape { context: t, d_head: d, .. } = self.shape;
        let [q, k, v] = [0, 1, 2].map(|part| self.part_of(saved.qkv.full(), part));
        let unmasked = scratch.scores.expect("attention by products has room for the scores");
        let scores = self.squares_of(unmasked);
        self.multiply(r, Pass::Forward, [t, d, t], Causal::LowerOutput, [q, k.transposed(), scores]);
        softmax::forward(r, self.shape, unmasked, saved.probs);
        let probs = self.squares_of(self.masked(r, step_number, saved.probs, scratch));
        let heads = self.heads_of(saved.heads.full());
        self.multiply(r, Pass::Forward, [t, t, d], Causal::LowerA, [probs, v, heads]);
    }

    /// The probabilities as they meet the values: masked by dropout, if there is any.
    fn masked(&self, r: &mut Recorder, step_number: View, probs: View, scratch: &Scratch) -> View {
        let (Some(dropout), Some([dropped, _])) = (&self.dropout, scratch.dropped) else { return probs };
        dropout.apply(r, probs, step_number, dropped);
        dropped
    }

    /// The place in an arena of the bias that is added last, `[C]`.
    pub fn output_bias(&self, arena: View) -> View {
        self.proj.bias(arena)
    }

    /// d_input `[B,T,C]` from the branch's gradient; the parameters' gradients into the arena `grads`.
    pub fn backward(
        &self,
        r: &mut Recorder,
        params: View,
        grads: View,
        step_number: View,
        input: Tensor,
        saved: &Saved,
        scratch: &Scratch,
        branch: BranchGradient,
        d_input: Tensor,
    ) {
        let training = "a training program has the backward pass's scratch";
        let d_heads = scratch.d_heads.expect(training);
        let d_qkv = scratch.d_qkv.expect(training);
        let partials = scratch.partials.expect(training);
        let output_partials = branch.with_bias.then_some(partials);
        self.proj.backward(r, params, grads, saved.heads, branch.d_output, d_heads, output_partials);
        match self.fused_over(saved) {
            Some(fused) => {
                let delta = scratch.scores.expect(training);
                let forward = fused_views(step_number, saved);
                let (d_heads, d_qkv) = (d_heads.view, d_qkv.view);
                fused.backward(r, &BackwardViews { forward, d_heads, delta, d_qkv });
            }
            None => self.backward_by_products(r, step_number, saved, scratch, d_heads.full(), d_qkv.full()),
        }
        self.qkv.backward(r, params, grads, input, d_qkv, d_input, Some(partials));
    }

    /// The gradient of queries, keys and values from that of the heads' outputs.
    fn backward_by_products(
        &self,
        r: &mut Recorder,
        step_number: View,
        saved: &Saved,
        scratch: &Scratch,
        d_heads: View,
        d_qkv: View,
    ) {
        let AttentionShape { context: t, d_head: d, .. } = self.shape;
        let scores = scratch.scores.expect("attention by products has room for the scores");
        let [q, k, v] = [0, 1, 2].map(|part| self.part_of(saved.qkv.full(), part));
        let [dq, dk, dv] = [0, 1, 2].map(|part| self.part_of(d_qkv, part));
        let d_out = self.heads_of(d_heads).gradient();
        let probs = self.squares_of(self.masked(r, step_number, saved.probs, scratch));
        let d_probs = self.squares_of(scores);
        self.multiply(r, Pass::Backward, [t, t, d], Causal::UpperA, [probs.transposed(), d_out, dv]);
        self.multiply(r, Pass::Backward, [t, d, t], Causal::LowerOutput, [d_out, v.transposed(), d_probs]);
        let mut d_scores = scores;
        if let (Some(dropout), Some([_, unmasked])) = (&self.dropout, scratch.dropped) {
            dropout.apply(r, scores, step_number, unmasked);
            d_scores = unmasked;
        }
        softmax::backward(r, self.shape, saved.probs, saved.heads.full(), d_heads, d_scores);
        let ds = self.squares_of(d_scores).gradient();
        self.multiply(r, Pass::Backward, [t, t, d], Causal::LowerA, [ds, k, dq]);
        self.multiply(r, Pass::Backward, [t, t, d], Causal::UpperA, [ds.transposed(), q, dk]);
    }
}

fn fused_views(step_number: View, saved: &Saved) -> ForwardViews {
    ForwardViews { qkv: saved.qkv.view, step_number, heads: saved.heads.view, lse: saved.probs }
}
