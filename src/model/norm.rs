//! A LayerNorm of the residual stream, and its place in the arena.

use crate::model::arena::Arena;
use crate::ops::layernorm::LayerNorm;
use crate::ops::narrow::{self, NormGradients};
use crate::ops::tensor::Tensor;
use crate::ops::{Recorder, residual};
use crate::recording::View;

/// gamma and beta of one LayerNorm, as offsets into any arena of the model.
#[derive(Clone, Copy)]
pub struct Norm {
    d_model: usize,
    eps: f32,
    gamma: usize,
    beta: usize,
}

/// The residual stream as a LayerNorm meets it, `[N,C]` each.
#[derive(Clone, Copy)]
pub struct Stream {
    /// As it was before the branch.
    pub before: View,
    /// What is to be added; `None` at the model's beginning.
    pub branch: Option<Tensor>,
    /// Where the sum is put; `before` itself without a branch.
    pub sum: View,
}

impl Stream {
    /// Nothing is to be added.
    pub fn of(stream: View) -> Stream {
        Stream { before: stream, branch: None, sum: stream }
    }
}

/// The gradient of the residual stream, `[N,C]`.
#[derive(Clone, Copy)]
pub struct StreamGradient {
    /// In 32 bits.
    pub full: View,
    /// A copy in 16, where products take such factors.
    pub narrow: Option<Tensor>,
}

/// What a LayerNorm's backward pass does with the residual stream's gradient.
#[derive(Clone, Copy)]
pub struct OntoStream<'a> {
    /// Where it is put.
    pub d_stream: &'a StreamGradient,
    /// It is added to what is there.
    pub add: bool,
    /// Where the gradient goes of a bias that was added to the stream last; only with a copy in 16 bits.
    pub bias: Option<View>,
}

impl StreamGradient {
    /// As products take it.
    pub fn factor(&self) -> Tensor {
        self.narrow.unwrap_or(self.full.into())
    }
}

impl Norm {
    /// `name` without `.weight`.
    pub fn new(arena: &Arena, name: &str, d_model: usize, eps: f64) -> Norm {
        let find = |suffix: &str| {
            let full = format!("{name}.{suffix}");
            arena.specs.iter().position(|s| s.name == full).unwrap_or_else(|| panic!("there is no {full}"))
        };
        Norm {
            d_model,
            eps: eps as f32,
            gamma: arena.offsets[find("weight")],
            beta: arena.offsets[find("bias")],
        }
    }

    /// The gain's place in an arena, `[C]`.
    fn gamma(&self, arena: View) -> View {
        arena.part(self.gamma, self.d_model)
    }

    /// The bias's place in an arena, `[C]`.
    fn beta(&self, arena: View) -> View {
        arena.part(self.beta, self.d_model)
    }

    /// The operation over parameters in `params`, with its statistics in `stats` `[N,2]`.
    fn op(&self, params: View, stats: View) -> LayerNorm {
        LayerNorm {
            d_model: self.d_model,
            eps: self.eps,
            gamma: self.gamma(params),
            beta: self.beta(params),
            stats,
        }
    }

    /// output `[N,C]` from the stream, whose sum is put where it belongs; `stats` `[N,2]` is kept for the
    /// backward pass.
    pub fn forward(&self, r: &mut Recorder, params: View, stats: View, stream: &Stream, output: Tensor) {
        let norm = self.op(params, stats);
        let added = stream.branch.map(|branch| (branch, stream.sum));
        if output.narrow {
            return narrow::layernorm_forward(r, &norm, stream.before, added, output);
        }
        if let Some((branch, sum)) = added {
            residual::add(r, stream.before, branch.full(), sum);
        }
        norm.forward(r, stream.sum, output.full());
    }

    /// From d_output `[N,C]`: the gradient of the stream that was normed, `input`, and the parameters'
    /// gradients into the arena `grads`. `scratch` has [`Norm::scratch_words`].
    pub fn backward(
        &self,
        r: &mut Recorder,
        params: View,
        grads: View,
        stats: View,
        input: View,
        d_output: Tensor,
        onto: OntoStream,
        scratch: View,
    ) {
        let norm = self.op(params, stats);
        let (d_gamma, d_beta) = (self.gamma(grads), self.beta(grads));
        let OntoStream { d_stream, add: add_residual, bias } = onto;
        let d_input = d_stream.full;
        let Some(narrow) = d_stream.narrow else {
            assert!(bias.is_none(), "only with a copy in 16 bits");
            let d_output = d_output.full();
            return norm.backward(r, input, d_output, d_input, add_residual, d_gamma, d_beta, scratch);
        };
        let gradients = NormGradients { d_input, add_residual, narrow, d_gamma, d_beta, column_sum: bias };
        narrow::layernorm_backward(r, &norm, input, d_output, &gradients, scratch);
    }

    /// Words of scratch that the backward pass takes.
    pub fn scratch_words(d_model: usize, narrow: bool) -> usize {
        if narrow { narrow::norm_scratch_words(d_model) } else { LayerNorm::scratch_words(d_model) }
    }
}
