//! The matrix product: how the model asks for one, which kernel does it, and the kernels' CPU twins.

mod band;
mod blocks;
pub mod fast;
pub mod halves;
mod interface;
mod pack;
pub mod plan;
mod problem;
#[cfg(test)]
mod tests;
mod tile;
mod tuning;
mod twin;
pub mod units;
mod way;

pub use blocks::{Split, gemm_finish};
pub use interface::{
    Tiling, gemm, gemm_addressed, gemm_backward, gemm_backward_tiled, gemm_tiled, unspecified_words,
};
pub use problem::{Causal, Layout, Problem};
pub use tuning::{Tunable, Tuning};
pub use twin::{Operands, multiply};
pub use way::Way;

use crate::exact::K_BLOCK;
use crate::kernels;
use crate::recording::{Dispatch, Traits, View};

/// An operand: some words of a buffer, and how the matrices lie in them.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// The words.
    pub view: View,
    /// How the matrices lie in them.
    pub layout: Layout,
    /// The elements are pairs of 16-bit floats of the device's [`Factor`](crate::recording::Factor), two a
    /// word, the first one low. Only fast products on matrix units read them.
    pub packed: bool,
    /// The elements are gradients, so small that 16 bits may not hold them as they are.
    pub gradient: bool,
}

impl Matrix {
    /// One matrix, stored row by row, `ld` elements from one row to the next.
    pub fn new(view: View, ld: usize) -> Matrix {
        let layout = Layout { first: 0, ld, outer: 0, inner: 0, trans: false };
        Matrix { view, layout, packed: false, gradient: false }
    }

    /// The elements are 16-bit, two a word.
    pub fn packed(mut self) -> Matrix {
        self.packed = true;
        self
    }

    /// The elements are gradients.
    pub fn gradient(mut self) -> Matrix {
        self.gradient = true;
        self
    }

    /// The first element lies `first` elements into the view.
    pub fn at(mut self, first: usize) -> Matrix {
        self.layout.first = first;
        self
    }

    /// The operand is the transpose of what is stored.
    pub fn transposed(mut self) -> Matrix {
        self.layout.trans = !self.layout.trans;
        self
    }

    /// Many matrices: elements from one outer and from one inner batch to the next.
    pub fn batched(mut self, outer: usize, inner: usize) -> Matrix {
        (self.layout.outer, self.layout.inner) = (outer, inner);
        self
    }
}

/// Which pair of exact kernels a product belongs to. Both give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// `gemm`: products of activations, with or without a bias.
    Forward,
    /// `gemm_backward`: products that are gradients; never a bias.
    Backward,
}

/// `C[m,n] = snap(op(A)[m,k] * op(B)[k,n] + bias[n])`, for every batch.
///
/// Batch `z` is inner batch `z % batch_inner` of outer batch `z / batch_inner`. Outer is the coarser one: C's
/// inner batches lie inside an outer batch, one after the other or side by side in the rows, as attention
/// heads do.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    /// Which pair of kernels computes it.
    pub pass: Pass,
    /// Rows of op(A) and C.
    pub m: usize,
    /// Terms of each sum: columns of op(A), rows of op(B).
    pub k: usize,
    /// Columns of op(B) and C.
    pub n: usize,
    /// The left operand.
    pub a: Matrix,
    /// The right operand.
    pub b: Matrix,
    /// The result, never transposed.
    pub c: Matrix,
    /// `[n]`
    pub bias: Option<View>,
    /// Outer batches, at least 1.
    pub batch_outer: usize,
    /// Inner batches in each, at least 1.
    pub batch_inner: usize,
    /// The triangle that is not needed or is zero.
    pub causal: Causal,
    /// What is done to the elements before they are written.
    pub after: After,
}

/// What is done to a product's elements before they are written. Anything but nothing takes matrix units, and
/// a packed result of rows of eights, one after the other.
#[derive(Clone, Copy, Debug)]
pub enum After {
    /// They are what is wanted.
    Nothing,
    /// They go into GELU, whose result is written too, packed.
    Gelu {
        /// `[m,n]`
        act: View,
        /// Its result is to be written again in the backward pass, so they are kept. Else GELU's derivative
        /// there takes their place.
        again: bool,
    },
    /// They are the gradient of GELU's result; written is the gradient of what went into it.
    GeluGradient {
        /// `[m,n]`, packed: GELU's derivative, or, with `act`, what went into it.
        pre: View,
        /// `[m,n]`, packed: its result, to be written again.
        act: Option<View>,
        /// `[n]`: the sum of the rows of what is written.
        column_sum: View,
        /// Scratch of [`units::column_sum_words`].
        partials: View,
    },
}

impl Gemm {
    /// One plain product; `..Gemm::new(...)` leaves room for a bias, batches and a triangle.
    pub fn new(pass: Pass, [m, k, n]: [usize; 3], a: Matrix, b: Matrix, c: Matrix) -> Gemm {
        Gemm {
            pass,
            m,
            k,
            n,
            a,
            b,
            c,
            bias: None,
            batch_outer: 1,
            batch_inner: 1,
            causal: Causal::None,
            after: After::Nothing,
        }
    }

    /// The numbers without the buffers.
    pub fn problem(&self) -> Problem {
        Problem {
            m: self.m,
            k: self.k,
            n: self.n,
            use_bias: self.bias.is_some(),
            a: self.a.layout,
            b: self.b.layout,
            c: self.c.layout,
            batch_inner: self.batch_inner,
            batches: self.batch_outer * self.batch_inner,
            causal: self.causal,
        }
    }

    /// True if nothing is done to the elements that a sum in blocks could not be finished with.
    pub fn is_plain(&self) -> bool {
        matches!(self.after, After::Nothing)
    }

    /// Chooses the kernel and its tiles. Panics if the numbers contradict each other or the views:
    /// a program's fault, never a user's.
    pub fn record(&self, traits: &Traits) -> Dispatch {
        Way::best(self, traits, false).record(self, traits, None, None).remove(0)
    }

    /// [`Gemm::record`] with the tiles given: any choice gives the same bits.
    pub fn record_tiled(&self, tiling: Tiling) -> Dispatch {
        assert!(self.pass == Pass::Forward || self.bias.is_none(), "a gradient has no bias");
        let packed = [&self.a, &self.b, &self.c].iter().any(|matrix| matrix.packed);
        assert!(!packed && self.is_plain(), "exact products read and write 32-bit elements");
        let problem = self.problem();
        let bias_words = self.bias.map_or(0, |bias| bias.words);
        problem.check(self.a.view.words, self.b.view.words, self.c.view.words, bias_words);
        assert!(
            problem.causal != Causal::Blocks || problem.batches == problem.k.div_ceil(K_BLOCK),
            "a batch for each block: {problem:?}"
        );
        // Nothing else checks what is loaded by address.
        if let Tiling::Addressed { lanes, rows } = tiling {
            let whole = problem.m.is_multiple_of(rows) && Tiling::addressed(&problem, lanes).is_some();
            assert!(whole, "{tiling:?} comes out whole: {problem:?}");
        }
        let push = interface::push(&problem).to_bytes();
        let words = interface::specialization(&problem, tiling);
        let groups = tiling.groups(&problem);
        let (a, b, c) = (self.a.view, self.b.view, self.c.view);
        // Something must be bound where there is no bias; it is not read.
        let bias = self.bias.unwrap_or(b);
        match (self.pass, tiling) {
            (Pass::Forward, Tiling::Alone { .. }) => {
                use kernels::gemm::{Bindings, Push, Specialization, dispatch};
                let bindings = Bindings { a, b, c, bias };
                dispatch(Push::from_bytes(&push), Specialization::from_words(&words), bindings, groups)
            }
            (_, Tiling::Addressed { .. }) => {
                use kernels::gemm_addressed::{Bindings, Push, Specialization, dispatch};
                let bindings = Bindings { a, b, c, bias };
                dispatch(Push::from_bytes(&push), Specialization::from_words(&words), bindings, groups)
            }
            (Pass::Forward, Tiling::Shared(_)) => {
                use kernels::gemm_tiled::{Bindings, Push, Specialization, dispatch};
                let bindings = Bindings { a, b, c, bias };
                dispatch(Push::from_bytes(&push), Specialization::from_words(&words), bindings, groups)
            }
            (Pass::Backward, Tiling::Alone { .. }) => {
                use kernels::gemm_backward::{Bindings, Push, Specialization, dispatch};
                let bindings = Bindings { input1: a, input2: b, output: c };
                dispatch(Push::from_bytes(&push), Specialization::from_words(&words), bindings, groups)
            }
            (Pass::Backward, Tiling::Shared(_)) => {
                use kernels::gemm_backward_tiled::{Bindings, Push, Specialization, dispatch};
                let bindings = Bindings { input1: a, input2: b, output: c };
                dispatch(Push::from_bytes(&push), Specialization::from_words(&words), bindings, groups)
            }
        }
    }
}
