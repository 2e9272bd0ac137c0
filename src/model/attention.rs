//! Causal multi-head self-attention, forward and backward: fused where the precision and the device allow,
//! else batched products and a softmax per head.

use crate::model::arena::Arena;
use crate::model::linear::{BranchGradient, Linear};
use crate::ops::Recorder;
use crate::ops::attention::{AttentionByProducts, BackwardViews, ForwardViews, FusedAttention, ProductViews};
use crate::ops::dropout::Dropout;
use crate::ops::gemm::After;
use crate::ops::softmax::AttentionShape;
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

    /// Attention by products, where it is not fused.
    fn by_products(&self) -> AttentionByProducts {
        AttentionByProducts { shape: self.shape, dropout: self.dropout }
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
            None => self.by_products().forward(r, &product_views(step_number, saved, scratch)),
        }
        self.proj.forward(r, params, saved.heads, output, After::Nothing);
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
            None => {
                let views = product_views(step_number, saved, scratch);
                self.by_products().backward(r, &views, d_heads.full(), d_qkv.full());
            }
        }
        self.qkv.backward(r, params, grads, input, d_qkv, d_input, Some(partials));
    }
}

fn fused_views(step_number: View, saved: &Saved) -> ForwardViews {
    ForwardViews { qkv: saved.qkv.view, step_number, heads: saved.heads.view, lse: saved.probs }
}

fn product_views(step_number: View, saved: &Saved, scratch: &Scratch) -> ProductViews {
    ProductViews {
        qkv: saved.qkv.full(),
        step_number,
        probs: saved.probs,
        heads: saved.heads.full(),
        scores: scratch.scores.expect("attention by products has room for the scores"),
        dropped: scratch.dropped,
    }
}
