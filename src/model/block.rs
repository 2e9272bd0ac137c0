//! A pre-LayerNorm transformer block: x + attention(norm(x)), then x + mlp(norm(x)).

use crate::model::arena::Arena;
use crate::model::attention::{self, Attention};
use crate::model::mlp::{self, Mlp};
use crate::model::norm::Norm;
use crate::ops::Recorder;
use crate::ops::dropout::Dropout;
use crate::ops::residual;
use crate::ops::softmax::AttentionShape;
use crate::recording::{Traits, View};

/// One block.
pub struct Block {
    ln_1: Norm,
    attention: Attention,
    attention_dropout: Option<Dropout>,
    ln_2: Norm,
    mlp: Mlp,
    mlp_dropout: Option<Dropout>,
}

/// What the forward pass keeps for the backward pass. Shapes: C = d_model, N = B*T.
#[derive(Clone, Copy)]
pub struct Saved {
    /// `[N,C]`: the residual stream before the block is the caller's; this is it after attention.
    pub middle: View,
    /// `[N,C]`: the output of `ln_1`.
    pub normed_1: View,
    /// `[N,2]`: mean and reciprocal standard deviation of `ln_1`.
    pub stats_1: View,
    /// What attention keeps.
    pub attention: attention::Saved,
    /// `[N,C]`: the output of `ln_2`.
    pub normed_2: View,
    /// `[N,2]`: mean and reciprocal standard deviation of `ln_2`.
    pub stats_2: View,
    /// What the feed-forward layer keeps.
    pub mlp: mlp::Saved,
}

/// Room for values that do not outlive the block.
#[derive(Clone, Copy)]
pub struct Scratch {
    /// `[N,C]`: a branch's output before it joins the stream.
    pub branch: View,
    /// `[N,C]`, only with dropout: a branch's output, or its gradient, masked.
    pub dropped: Option<View>,
    /// Attention's own room.
    pub attention: attention::Scratch,
    /// Training only.
    pub backward: Option<BackwardScratch>,
}

/// Room that only the backward pass needs.
#[derive(Clone, Copy)]
pub struct BackwardScratch {
    /// `[N,C]`: gradient of a LayerNorm's output.
    pub d_normed: View,
    /// `[2,64,C]`
    pub norm_partials: View,
    /// The feed-forward layer's own room.
    pub mlp: mlp::Scratch,
}

impl Block {
    /// Block `layer`, from 0. `dropout` makes the dropout of a purpose, or `None` without dropout.
    pub fn new(
        arena: &Arena,
        layer: usize,
        shape: AttentionShape,
        d_ff: usize,
        eps: f64,
        dropout: impl Fn(u32) -> Option<Dropout>,
        traits: &Traits,
    ) -> Block {
        let prefix = format!("transformer.h.{layer}");
        let d_model = shape.n_head * shape.d_head;
        // Three sites a block, after the embedding's, which is purpose 0.
        let site = |k: u32| dropout(1 + 3 * layer as u32 + k);
        Block {
            ln_1: Norm::new(arena, &format!("{prefix}.ln_1"), d_model, eps),
            attention: Attention::new(arena, &prefix, shape, site(0), traits),
            attention_dropout: site(1),
            ln_2: Norm::new(arena, &format!("{prefix}.ln_2"), d_model, eps),
            mlp: Mlp::new(arena, &prefix, d_model, d_ff),
            mlp_dropout: site(2),
        }
    }

    /// output `[N,C]` from input `[N,C]`. `output` may be `input` where nothing is kept for training.
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
        self.ln_1.op(params, saved.stats_1).forward(r, input, saved.normed_1);
        self.attention.forward(
            r,
            params,
            step_number,
            saved.normed_1,
            &saved.attention,
            &scratch.attention,
            scratch.branch,
        );
        let branch = masked(r, &self.attention_dropout, step_number, scratch.branch, scratch.dropped);
        residual::add(r, input, branch, saved.middle);

        self.ln_2.op(params, saved.stats_2).forward(r, saved.middle, saved.normed_2);
        self.mlp.forward(r, params, saved.normed_2, &saved.mlp, scratch.branch);
        let branch = masked(r, &self.mlp_dropout, step_number, scratch.branch, scratch.dropped);
        residual::add(r, saved.middle, branch, output);
    }

    /// Turns d_stream `[N,C]`, in place, from the gradient of the output into that of the input; the
    /// parameters' gradients go into the arena `grads`.
    pub fn backward(
        &self,
        r: &mut Recorder,
        params: View,
        grads: View,
        step_number: View,
        input: View,
        saved: &Saved,
        scratch: &Scratch,
        d_stream: View,
    ) {
        let back = scratch.backward.as_ref().expect("a training program has the backward pass's scratch");
        let d_branch = masked(r, &self.mlp_dropout, step_number, d_stream, scratch.dropped);
        self.mlp.backward(r, params, grads, saved.normed_2, &saved.mlp, &back.mlp, d_branch, back.d_normed);
        self.ln_2.op(params, saved.stats_2).backward(
            r,
            saved.middle,
            back.d_normed,
            d_stream,
            true,
            self.ln_2.gamma(grads),
            self.ln_2.beta(grads),
            back.norm_partials,
        );

        let d_branch = masked(r, &self.attention_dropout, step_number, d_stream, scratch.dropped);
        self.attention.backward(
            r,
            params,
            grads,
            step_number,
            saved.normed_1,
            &saved.attention,
            &scratch.attention,
            d_branch,
            back.d_normed,
        );
        self.ln_1.op(params, saved.stats_1).backward(
            r,
            input,
            back.d_normed,
            d_stream,
            true,
            self.ln_1.gamma(grads),
            self.ln_1.beta(grads),
            back.norm_partials,
        );
    }
}

/// The value itself, or, with dropout, its masked copy in `dropped`.
pub fn masked(
    r: &mut Recorder,
    dropout: &Option<Dropout>,
    step_number: View,
    value: View,
    dropped: Option<View>,
) -> View {
    let (Some(dropout), Some(dropped)) = (dropout, dropped) else { return value };
    dropout.apply(r, value, step_number, dropped);
    dropped
}
