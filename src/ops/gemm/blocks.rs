//! Products summed block by block: for a GPU that one product's tiles would leave idle.
//!
//! The contract adds a product's blocks of terms one after the other, but each block's own sum stands
//! alone. So the blocks are summed side by side, as batches, and then added up.

use rayon::prelude::*;

use super::fast::{self, FastPlan};
use super::problem::{Causal, Layout, Problem};
use super::{Gemm, Matrix, Tiling};
use crate::exact::{K_BLOCK, snap};
use crate::kernels::gemm_finish;
use crate::ops::grid::flat_groups;
use crate::ops::word;
use crate::recording::{Dispatch, View};

/// Blocks are summed apart only if their sums take at most this many words: 32 MiB, and 64 MiB of the
/// contract's blocks, which are many.
pub(super) const MAX_PARTIAL_WORDS: usize = 1 << 23;
pub(super) const MAX_EXACT_PARTIAL_WORDS: usize = 1 << 24;

/// A product cut into its blocks of terms.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    gemm: Gemm,
    blocks: usize,
    /// How the blocks are computed if not by exact kernels.
    fast: Option<FastPlan>,
}

impl Split {
    /// The product cut up, if it is one product of several blocks.
    pub fn any(gemm: &Gemm) -> Option<Split> {
        let blocks = gemm.k.div_ceil(K_BLOCK);
        (is_alone(gemm) && blocks > 1).then_some(Split { gemm: *gemm, blocks, fast: None })
    }

    /// The product cut up as planned for the fast kernels, if it is one product of several blocks.
    pub fn planned(gemm: &Gemm, plan: FastPlan) -> Option<Split> {
        let blocks = plan.blocks(&gemm.problem());
        (is_alone(gemm) && blocks > 1).then_some(Split { gemm: *gemm, blocks, fast: Some(plan) })
    }

    /// Words of the blocks' sums: `[blocks, m, n]`.
    pub fn partial_words(&self) -> usize {
        self.blocks * self.gemm.m * self.gemm.n
    }

    /// The blocks' sums into `partials`, with these tiles or the best, then their total.
    pub fn record(&self, tiling: Option<Tiling>, partials: View) -> [Dispatch; 2] {
        let blocks = in_blocks(&self.gemm, self.blocks, partials);
        let summed = match self.fast {
            Some(plan) => fast::record(&blocks, &plan),
            None => {
                let best = || Tiling::Shared(FastPlan::best_exact(&self.gemm.problem(), true).tile);
                blocks.record_tiled(tiling.unwrap_or_else(best))
            }
        };
        [summed, finish(&self.gemm, self.blocks, partials)]
    }
}

/// The product of each block of terms, as one of a batch, `[blocks, m, n]`.
pub(super) fn in_blocks(gemm: &Gemm, blocks: usize, partials: View) -> Gemm {
    let Gemm { m, n, .. } = *gemm;
    let layout = Layout { first: 0, ld: n, outer: 0, inner: m * n, trans: false };
    Gemm {
        a: gemm.a.batched(0, 0),
        b: gemm.b.batched(0, 0),
        c: Matrix { view: partials, layout, packed: false, gradient: false },
        bias: None,
        batch_inner: blocks,
        causal: Causal::Blocks,
        ..*gemm
    }
}

/// Adds up the blocks `[blocks, m, n]` and finishes the product.
pub(super) fn finish(gemm: &Gemm, blocks: usize, partials: View) -> Dispatch {
    let Gemm { m, n, c, bias, .. } = *gemm;
    gemm_finish::dispatch(
        gemm_finish::Push {
            m: word(m),
            n: word(n),
            blocks: word(blocks),
            use_bias: bias.is_some().into(),
            ldc: word(c.layout.ld),
            c_first: word(c.layout.first),
        },
        Default::default(),
        // Something must be bound where there is no bias; it is not read.
        gemm_finish::Bindings { partials, bias: bias.unwrap_or(partials), output: c.view },
        flat_groups(m * n, 256),
    )
}

/// True if a product has one batch and no triangle.
pub(super) fn is_alone(gemm: &Gemm) -> bool {
    gemm.batch_outer * gemm.batch_inner == 1 && gemm.causal == Causal::None
}

/// The blocks' sums, one batch a block.
pub fn multiply(problem: &Problem, a: &[f32], b: &[f32], c: &mut [f32]) {
    let Problem { m, k, n, .. } = *problem;
    let at = |layout: Layout, i: usize, j: usize| {
        layout.first + if layout.trans { j * layout.ld + i } else { i * layout.ld + j }
    };
    let (first, ld, step) = (problem.c.first, problem.c.ld, problem.c.inner);
    let blocks = c[first..].par_chunks_mut(step.max(1)).take(problem.batches).enumerate();
    blocks.for_each(|(z, c)| {
        let terms = z * K_BLOCK..((z + 1) * K_BLOCK).min(k);
        for (i, row) in c.chunks_mut(ld).take(m).enumerate() {
            for (j, sum) in row[..n].iter_mut().enumerate() {
                *sum = 0.0;
                for p in terms.clone() {
                    *sum += a[at(problem.a, i, p)] * b[at(problem.b, p, j)];
                }
            }
        }
    });
}

/// Twin of `shaders/gemm_finish.comp`.
pub fn gemm_finish(args: gemm_finish::Args<'_>) {
    let gemm_finish::Push { m, n, blocks, use_bias, ldc, c_first } = args.push;
    let [m, n, ldc, c_first] = [m, n, ldc, c_first].map(|word| word as usize);
    for (i, row) in args.output[c_first..].chunks_mut(ldc).take(m).enumerate() {
        for (j, element) in row[..n].iter_mut().enumerate() {
            let mut total = 0.0;
            for block in 0..blocks as usize {
                total += args.partials[(block * m + i) * n + j];
            }
            *element = snap(if use_bias != 0 { total + args.bias[j] } else { total });
        }
    }
}
