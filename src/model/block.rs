//! A pre-LayerNorm transformer block: x + attention(norm(x)), then x + mlp(norm(x)).

use crate::model::arena::Arena;
use crate::model::attention::{self, Attention};
use crate::model::linear::BranchGradient;
use crate::model::mlp::{self, Mlp};
use crate::model::norm::{Norm, OntoStream, Stream, StreamGradient};
use crate::ops::Recorder;
use crate::ops::dropout::Dropout;
use crate::ops::softmax::AttentionShape;
use crate::ops::tensor::Tensor;
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
    pub normed_1: Tensor,
    /// `[N,2]`: mean and reciprocal standard deviation of `ln_1`.
    pub stats_1: View,
    /// What attention keeps.
    pub attention: attention::Saved,
    /// `[N,C]`: the output of `ln_2`.
    pub normed_2: Tensor,
    /// `[N,2]`: mean and reciprocal standard deviation of `ln_2`.
    pub stats_2: View,
    /// `normed_1` and `normed_2` are lent to other blocks, and must be calculated again.
    pub again: bool,
    /// What the feed-forward layer keeps.
    pub mlp: mlp::Saved,
}

/// Room for values that do not outlive the block.
#[derive(Clone, Copy)]
pub struct Scratch {
    /// `[N,C]`: a branch's output before it joins the stream.
    pub branch: Tensor,
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
    pub d_normed: Tensor,
    /// [`Norm::scratch_words`]
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

    /// The block's last branch `[N,C]`, which is yet to be added to the stream in `saved.middle`; the sum of
    /// `stream` is put where it belongs.
    pub fn forward(
        &self,
        r: &mut Recorder,
        params: View,
        step_number: View,
        stream: &Stream,
        saved: &Saved,
        scratch: &Scratch,
    ) -> Tensor {
        self.ln_1.forward(r, params, saved.stats_1, stream, saved.normed_1);
        self.attention.forward(
            r,
            params,
            step_number,
            saved.normed_1,
            &saved.attention,
            &scratch.attention,
            scratch.branch,
        );
        let branch = masked_branch(r, &self.attention_dropout, step_number, scratch);
        let middle = Stream { before: stream.sum, branch: Some(branch), sum: saved.middle };
        self.ln_2.forward(r, params, saved.stats_2, &middle, saved.normed_2);
        self.mlp.forward(r, params, saved.normed_2, &saved.mlp, scratch.branch);
        masked_branch(r, &self.mlp_dropout, step_number, scratch)
    }

    /// Where the gradient goes of the bias that is added to the stream last, if that gradient is the sum of
    /// the stream's own over the positions and is calculated beside it.
    pub fn output_bias(&self, grads: View, d_stream: &StreamGradient) -> Option<View> {
        let beside = d_stream.narrow.is_some() && self.mlp_dropout.is_none();
        beside.then(|| self.mlp.output_bias(grads))
    }

    /// Turns d_stream `[N,C]`, in place, from the gradient of the output into that of the input; the
    /// parameters' gradients go into the arena `grads`, but for that of [`Block::output_bias`]. `input_bias`
    /// is the same of the block before.
    pub fn backward(
        &self,
        r: &mut Recorder,
        params: View,
        grads: View,
        step_number: View,
        input: View,
        saved: &Saved,
        scratch: &Scratch,
        d_stream: &StreamGradient,
        input_bias: Option<View>,
    ) {
        let back = scratch.backward.as_ref().expect("a training program has the backward pass's scratch");
        let d_output = masked_gradient(r, &self.mlp_dropout, step_number, d_stream, scratch.dropped);
        let with_bias = self.output_bias(grads, d_stream).is_none();
        let branch = BranchGradient { d_output, with_bias };
        let (d_normed, norm_scratch) = (back.d_normed, back.norm_partials);
        if saved.again {
            self.ln_2.forward(r, params, saved.stats_2, &Stream::of(saved.middle), saved.normed_2);
        }
        self.mlp.backward(r, params, grads, saved.normed_2, &saved.mlp, &back.mlp, branch, d_normed);
        let beside = d_stream.narrow.is_some() && self.attention_dropout.is_none();
        let bias = beside.then(|| self.attention.output_bias(grads));
        self.ln_2.backward(
            r,
            params,
            grads,
            saved.stats_2,
            saved.middle,
            d_normed,
            OntoStream { d_stream, add: true, bias },
            norm_scratch,
        );

        if saved.again {
            self.ln_1.forward(r, params, saved.stats_1, &Stream::of(input), saved.normed_1);
        }
        let d_output = masked_gradient(r, &self.attention_dropout, step_number, d_stream, scratch.dropped);
        self.attention.backward(
            r,
            params,
            grads,
            step_number,
            saved.normed_1,
            &saved.attention,
            &scratch.attention,
            BranchGradient { d_output, with_bias: bias.is_none() },
            d_normed,
        );
        self.ln_1.backward(
            r,
            params,
            grads,
            saved.stats_1,
            input,
            d_normed,
            OntoStream { d_stream, add: true, bias: input_bias },
            norm_scratch,
        );
    }
}

/// A branch's output, or, with dropout, its masked copy, which is in 32 bits as the output is then.
fn masked_branch(
    r: &mut Recorder,
    dropout: &Option<Dropout>,
    step_number: View,
    scratch: &Scratch,
) -> Tensor {
    match dropout {
        None => scratch.branch,
        Some(_) => masked(r, dropout, step_number, scratch.branch.full(), scratch.dropped).into(),
    }
}

/// A branch's gradient: the stream's, or, with dropout, its masked copy in `dropped`.
fn masked_gradient(
    r: &mut Recorder,
    dropout: &Option<Dropout>,
    step_number: View,
    d_stream: &StreamGradient,
    dropped: Option<View>,
) -> Tensor {
    match dropout {
        None => d_stream.factor(),
        Some(_) => masked(r, dropout, step_number, d_stream.full, dropped).into(),
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
