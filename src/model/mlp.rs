//! The feed-forward layer: linear, GELU, linear, forward and backward.

use crate::model::arena::Arena;
use crate::model::linear::{BranchGradient, Linear};
use crate::ops::Recorder;
use crate::ops::gelu;
use crate::ops::gemm::After;
use crate::ops::tensor::Tensor;
use crate::recording::View;

/// One feed-forward layer, C to F to C.
pub struct Mlp {
    fc: Linear,
    proj: Linear,
}

/// What the forward pass keeps for the backward pass.
#[derive(Clone, Copy)]
pub struct Saved {
    /// `[B,T,F]`, before GELU; in 16 bits, GELU's derivative there unless its result is calculated again.
    pub pre: Tensor,
    /// `[B,T,F]`, after GELU.
    pub act: Tensor,
    /// `act` is lent to other layers, and must be calculated again.
    pub again: bool,
}

/// Room for values that do not outlive the layer.
#[derive(Clone, Copy)]
pub struct Scratch {
    /// `[B,T,F]`
    pub d_wide: Tensor,
    /// `[64,F]`, or, of tensors in 16 bits, [`units::column_sum_words`](crate::ops::gemm::units).
    pub partials: View,
}

impl Mlp {
    /// `prefix` is the block's name, such as `transformer.h.0`.
    pub fn new(arena: &Arena, prefix: &str, d_model: usize, d_ff: usize) -> Mlp {
        Mlp {
            fc: Linear::new(arena, &format!("{prefix}.mlp.c_fc"), d_model, d_ff),
            proj: Linear::new(arena, &format!("{prefix}.mlp.c_proj"), d_ff, d_model),
        }
    }

    /// output `[B,T,C]` from input `[B,T,C]`.
    pub fn forward(&self, r: &mut Recorder, params: View, input: Tensor, saved: &Saved, output: Tensor) {
        if saved.pre.narrow {
            self.fc.forward(
                r,
                params,
                input,
                saved.pre,
                After::Gelu { act: saved.act.view, again: saved.again },
            );
        } else {
            self.fc.forward(r, params, input, saved.pre, After::Nothing);
            gelu::forward(r, saved.pre.full(), saved.act.full());
        }
        self.proj.forward(r, params, saved.act, output, After::Nothing);
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
        input: Tensor,
        saved: &Saved,
        scratch: &Scratch,
        branch: BranchGradient,
        d_input: Tensor,
    ) {
        let partials = branch.with_bias.then_some(scratch.partials);
        if !saved.pre.narrow {
            self.proj.backward(r, params, grads, saved.act, branch.d_output, scratch.d_wide, partials);
            gelu::backward(r, saved.pre.full(), scratch.d_wide.full());
            return self.fc.backward(
                r,
                params,
                grads,
                input,
                scratch.d_wide,
                d_input,
                Some(scratch.partials),
            );
        }
        let after = After::GeluGradient {
            pre: saved.pre.view,
            act: saved.again.then_some(saved.act.view),
            column_sum: self.fc.bias(grads),
            partials: scratch.partials,
        };
        self.proj.input_backward(r, params, branch.d_output, scratch.d_wide, after);
        self.proj.parameters_backward(r, grads, saved.act, branch.d_output, partials);
        self.fc.backward(r, params, grads, input, scratch.d_wide, d_input, None);
    }
}
