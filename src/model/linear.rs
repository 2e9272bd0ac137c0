//! A linear layer: y = x W + b with W stored [in, out], forward and backward.

use crate::model::arena::Arena;
use crate::ops::Recorder;
use crate::ops::column_sum;
use crate::ops::gemm::{After, Gemm, Matrix, Pass};
use crate::ops::tensor::Tensor;
use crate::recording::View;

/// One linear layer and its gradients' places. weight `[in,out]`, bias `[out]`.
#[derive(Clone, Copy)]
pub struct Linear {
    /// Channels of the input.
    pub d_in: usize,
    /// Channels of the output.
    pub d_out: usize,
    weight: usize,
    bias: usize,
}

/// The gradient of a branch that ends with a linear layer.
#[derive(Clone, Copy)]
pub struct BranchGradient {
    /// `[N,C]`
    pub d_output: Tensor,
    /// Whether the gradient of the bias that is added last is still wanted.
    pub with_bias: bool,
}

impl Linear {
    /// `name` without `.weight`.
    pub fn new(arena: &Arena, name: &str, d_in: usize, d_out: usize) -> Linear {
        let find = |suffix: &str| {
            let full = format!("{name}.{suffix}");
            arena.specs.iter().position(|s| s.name == full).unwrap_or_else(|| panic!("there is no {full}"))
        };
        Linear { d_in, d_out, weight: arena.offsets[find("weight")], bias: arena.offsets[find("bias")] }
    }

    fn weight(&self, arena: View) -> View {
        arena.part(self.weight, self.d_in * self.d_out)
    }

    /// The bias's place in an arena, `[out]`.
    pub fn bias(&self, arena: View) -> View {
        arena.part(self.bias, self.d_out)
    }

    /// output `[N,out]` = input `[N,in]` W + b, and what is done to its elements.
    pub fn forward(&self, r: &mut Recorder, params: View, input: Tensor, output: Tensor, after: After) {
        let rows = input.len / self.d_in;
        let product = Gemm::new(
            Pass::Forward,
            [rows, self.d_in, self.d_out],
            input.matrix(self.d_in),
            Matrix::new(self.weight(params), self.d_out),
            output.matrix(self.d_out),
        );
        r.multiply(&Gemm { bias: Some(self.bias(params)), after, ..product });
    }

    /// From d_output `[N,out]`: d_input `[N,in]`, and the parameters' gradients into the arena `grads`.
    /// `partials` is scratch of [`column_sum::scratch_words`]; without it, the bias's gradient is left to the
    /// caller.
    pub fn backward(
        &self,
        r: &mut Recorder,
        params: View,
        grads: View,
        input: Tensor,
        d_output: Tensor,
        d_input: Tensor,
        partials: Option<View>,
    ) {
        self.input_backward(r, params, d_output, d_input, After::Nothing);
        self.parameters_backward(r, grads, input, d_output, partials);
    }

    /// The first part of [`Linear::backward`], and what is done to d_input's elements.
    pub fn input_backward(
        &self,
        r: &mut Recorder,
        params: View,
        d_output: Tensor,
        d_input: Tensor,
        after: After,
    ) {
        let rows = d_output.len / self.d_out;
        let product = Gemm::new(
            Pass::Backward,
            [rows, self.d_out, self.d_in],
            d_output.matrix(self.d_out).gradient(),
            Matrix::new(self.weight(params), self.d_out).transposed(),
            d_input.matrix(self.d_in).gradient(),
        );
        r.multiply(&Gemm { after, ..product });
    }

    /// The second part.
    pub fn parameters_backward(
        &self,
        r: &mut Recorder,
        grads: View,
        input: Tensor,
        d_output: Tensor,
        partials: Option<View>,
    ) {
        let rows = d_output.len / self.d_out;
        let product = Gemm::new(
            Pass::Backward,
            [self.d_in, rows, self.d_out],
            input.matrix(self.d_in).transposed(),
            d_output.matrix(self.d_out).gradient(),
            Matrix::new(self.weight(grads), self.d_out),
        );
        r.multiply(&product);
        if let Some(partials) = partials {
            column_sum::column_sum(r, d_output, self.bias(grads), partials);
        }
    }
}
