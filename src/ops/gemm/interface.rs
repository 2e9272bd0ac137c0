//! Between a product's numbers and the kernels' interface: push constants, specialization, workgroups, twins.
//!
//! The kernels share their push constants, and what a product is of their specialization constants (a test
//! holds this), so one conversion through the plain words serves all.

use super::fast::FastTile;
use super::problem::{Causal, Layout, Problem};
use super::twin::{Operands, multiply};
use crate::exact::K_BLOCK;
use crate::kernels;
use crate::recording::{Dispatch, Traits};

/// Which kernel's tiles compute a product. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiling {
    /// `gemm`, `gemm_backward`: a subgroup computes a tile alone, in its registers.
    Alone {
        /// Invocations of a subgroup.
        lanes: u32,
    },
    /// `gemm_addressed`: the same, and it loads by address. Tiles must be whole ([`Tiling::addressed`]).
    Addressed {
        /// Invocations of a subgroup.
        lanes: u32,
        /// Rows of a tile.
        rows: usize,
    },
    /// `gemm_tiled`, `gemm_backward_tiled`: a workgroup computes a tile through shared memory.
    Shared(FastTile),
}

/// The tile of a subgroup of `lanes` that works alone: its rows, and the fours of columns of an invocation.
/// As large as its sums may be, so that an element that is loaded is used often, and no larger than the
/// product.
fn lone_tile(problem: &Problem, lanes: u32) -> (usize, usize) {
    let rows = match problem.m {
        0..=8 => 8,
        9..=16 => 16,
        _ => 32,
    };
    (rows, if problem.n > 4 * lanes as usize { 2 } else { 1 })
}

impl Tiling {
    /// The tiling without shared memory, for a device where that is faster and possible.
    pub fn alone(traits: &Traits) -> Option<Tiling> {
        let lanes = traits.lanes;
        (traits.wants_eights() && lanes > 0).then_some(Tiling::Alone { lanes })
    }

    /// The tiling by addresses, if a product's tiles for subgroups of `lanes` come out whole.
    pub fn addressed(problem: &Problem, lanes: u32) -> Option<Tiling> {
        const STEP: usize = 4;
        let Problem { m, k, n, b, c, causal, .. } = *problem;
        // Less of a triangle's other half is calculated by smaller tiles.
        let sizes: &[usize] = if causal == Causal::None { &[64, 32] } else { &[32] };
        let rows = sizes.iter().copied().find(|&rows| m.is_multiple_of(rows))?;
        let quads = n.is_multiple_of(4 * lanes as usize) && b.rows_start_at(4) && c.rows_start_at(4);
        let whole = quads && k.is_multiple_of(STEP) && causal != Causal::Blocks;
        whole.then_some(Tiling::Addressed { lanes, rows })
    }

    /// The tiling without shared memory that is the fastest for a product, where there is one.
    pub fn best_alone(problem: &Problem, traits: &Traits) -> Option<Tiling> {
        let alone = Tiling::alone(traits)?;
        Tiling::addressed(problem, traits.lanes).filter(|_| traits.addresses).or(Some(alone))
    }

    /// Rows and columns of a workgroup's tile.
    fn tile(self, problem: &Problem) -> (usize, usize) {
        match self {
            Tiling::Alone { lanes } => {
                let (rows, quads) = lone_tile(problem, lanes);
                (rows, 4 * quads * lanes as usize)
            }
            Tiling::Addressed { lanes, rows } => (rows, 4 * lanes as usize),
            Tiling::Shared(tile) => (tile.rows, tile.columns),
        }
    }

    /// Workgroups in x and y (columns and rows; alone, rows and columns) and z (batches).
    pub fn groups(self, problem: &Problem) -> [u32; 3] {
        let (rows, columns) = self.tile(problem);
        let [across, down, batches] = problem.workgroups([rows, columns]);
        match self {
            Tiling::Alone { .. } | Tiling::Addressed { .. } => [down, across, batches],
            Tiling::Shared(_) => [across, down, batches],
        }
    }
}

/// The push constants of all the kernels.
pub fn push(problem: &Problem) -> kernels::gemm::Push {
    let word = |number: usize| u32::try_from(number).expect("a product's numbers fit 32 bits");
    kernels::gemm::Push {
        m: word(problem.m),
        k: word(problem.k),
        n: word(problem.n),
        use_bias: problem.use_bias.into(),
        lda: word(problem.a.ld),
        ldb: word(problem.b.ld),
        ldc: word(problem.c.ld),
        batch_inner: word(problem.batch_inner),
        a_outer: word(problem.a.outer),
        a_inner: word(problem.a.inner),
        b_outer: word(problem.b.outer),
        b_inner: word(problem.b.inner),
        c_outer: word(problem.c.outer),
        c_inner: word(problem.c.inner),
        causal: problem.causal.code(),
        a_first: word(problem.a.first),
        b_first: word(problem.b.first),
        c_first: word(problem.c.first),
    }
}

/// The specialization constants' values: what the product is, then the tile's.
pub fn specialization(problem: &Problem, tiling: Tiling) -> Vec<u32> {
    let Problem { a, b, c, n, .. } = problem;
    let trans = [a.trans, b.trans].map(u32::from);
    let one_block = problem.k <= K_BLOCK || problem.causal == Causal::Blocks;
    match tiling {
        Tiling::Alone { lanes } => {
            let (rows, quads) = lone_tile(problem, lanes);
            let ends = [problem.stored_a().1, problem.stored_b().1, *n];
            let wide = [0, 1, 2].map(|i| match [a, b, c][i] {
                rows if rows.rows_start_at(8) && ends[i].is_multiple_of(8) => 2,
                rows if rows.rows_start_at(4) && ends[i].is_multiple_of(4) => 1,
                _ => 0,
            });
            let tail = !problem.k.is_multiple_of(4);
            [&trans[..], &wide, &[rows as u32, quads as u32, tail.into(), lanes, one_block.into()]].concat()
        }
        // It asks for rows that start at multiples of four, and for no more.
        Tiling::Addressed { lanes, rows } => {
            [&trans[..], &[1, 1, 1, rows as u32, lanes, one_block.into()]].concat()
        }
        Tiling::Shared(tile) => {
            let wide = [a, b, c].map(|rows| u32::from(rows.rows_start_at_quads()));
            [&trans[..], &wide, &tile.specialization(problem)].concat()
        }
    }
}

/// The inverse of [`push`] and [`specialization`], with the batches from the workgroups.
fn problem(push: &[u8], specialization: &[u32], groups: [u32; 3]) -> Problem {
    let push = kernels::gemm::Push::from_bytes(push);
    let [trans_a, trans_b, ..] = *specialization else { panic!("a product has two layouts") };
    let size = |word: u32| word as usize;
    let layout = |first, ld, outer, inner, trans: u32| Layout {
        first: size(first),
        ld: size(ld),
        outer: size(outer),
        inner: size(inner),
        trans: trans != 0,
    };
    Problem {
        m: size(push.m),
        k: size(push.k),
        n: size(push.n),
        use_bias: push.use_bias != 0,
        a: layout(push.a_first, push.lda, push.a_outer, push.a_inner, trans_a),
        b: layout(push.b_first, push.ldb, push.b_outer, push.b_inner, trans_b),
        c: layout(push.c_first, push.ldc, push.c_outer, push.c_inner, 0),
        batch_inner: size(push.batch_inner),
        batches: size(groups[2]),
        causal: Causal::from_code(push.causal),
    }
}

/// The words of a product's result that its kernel may leave as it likes: what stands above the diagonal of
/// a causal result. Empty for every other dispatch.
pub fn unspecified_words(dispatch: &Dispatch) -> Vec<usize> {
    use kernels::Kernel::{Gemm, GemmAddressed, GemmBackward, GemmBackwardTiled, GemmTiled};
    if ![Gemm, GemmAddressed, GemmTiled, GemmBackward, GemmBackwardTiled].contains(&dispatch.kernel) {
        return Vec::new();
    }
    let problem = problem(&dispatch.push, &dispatch.specialization, dispatch.groups);
    if problem.causal != Causal::LowerOutput {
        return Vec::new();
    }
    let row = |z: usize, i: usize| {
        let start = problem.start(problem.c, z) + i * problem.c.ld;
        start + i + 1..start + problem.n
    };
    (0..problem.batches).flat_map(|z| (0..problem.m).flat_map(move |i| row(z, i))).collect()
}

/// Twin of `shaders/gemm.comp`.
pub fn gemm(args: kernels::gemm::Args<'_>) {
    let problem = problem(&args.push.to_bytes(), &args.specialization.to_words(), args.groups);
    multiply(&problem, Operands { a: args.a, b: args.b, c: args.c, bias: args.bias });
}

/// Twin of `shaders/gemm_addressed.comp`.
pub fn gemm_addressed(args: kernels::gemm_addressed::Args<'_>) {
    let problem = problem(&args.push.to_bytes(), &args.specialization.to_words(), args.groups);
    multiply(&problem, Operands { a: args.a, b: args.b, c: args.c, bias: args.bias });
}

/// Twin of `shaders/gemm_tiled.comp`.
pub fn gemm_tiled(args: kernels::gemm_tiled::Args<'_>) {
    let problem = problem(&args.push.to_bytes(), &args.specialization.to_words(), args.groups);
    multiply(&problem, Operands { a: args.a, b: args.b, c: args.c, bias: args.bias });
}

/// Twin of `shaders/gemm_backward.comp`.
pub fn gemm_backward(args: kernels::gemm_backward::Args<'_>) {
    let problem = problem(&args.push.to_bytes(), &args.specialization.to_words(), args.groups);
    multiply(&problem, Operands { a: args.input1, b: args.input2, c: args.output, bias: &[] });
}

/// Twin of `shaders/gemm_backward_tiled.comp`.
pub fn gemm_backward_tiled(args: kernels::gemm_backward_tiled::Args<'_>) {
    let problem = problem(&args.push.to_bytes(), &args.specialization.to_words(), args.groups);
    multiply(&problem, Operands { a: args.input1, b: args.input2, c: args.output, bias: &[] });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Kernel;

    #[test]
    fn the_kernels_share_their_numbers() {
        let gemm = Kernel::Gemm;
        let others =
            [Kernel::GemmTiled, Kernel::GemmBackward, Kernel::GemmBackwardTiled, Kernel::GemmAddressed];
        for other in others {
            assert_eq!(other.push_members(), gemm.push_members(), "{}", other.name());
            const SHARED: usize = 5;
            let [its, gemms] = [other, gemm].map(|kernel| &kernel.specialization()[..SHARED]);
            assert_eq!(its, gemms, "{}", other.name());
        }
        for tiled in [Kernel::GemmTiled, Kernel::GemmBackwardTiled] {
            assert_eq!(tiled.specialization(), Kernel::GemmFast.specialization(), "{}", tiled.name());
        }
    }

    #[test]
    fn tiles_are_no_larger_than_products_need() {
        let tile = |m, n, lanes| {
            let layout = Layout { ld: 100, ..Layout::default() };
            let [a, b, c] = [layout; 3];
            let problem = Problem {
                m,
                k: 1,
                n,
                use_bias: false,
                a,
                b,
                c,
                batch_inner: 1,
                batches: 1,
                causal: Causal::None,
            };
            Tiling::Alone { lanes }.tile(&problem)
        };
        for (m, n, lanes, expected) in [
            (1, 1, 8, (8, 32)),
            (8, 32, 8, (8, 32)),
            (9, 33, 8, (16, 64)),
            (17, 64, 16, (32, 64)),
            (768, 512, 4, (32, 32)),
        ] {
            assert_eq!(tile(m, n, lanes), expected, "{m} x {n}, subgroups of {lanes}");
        }
    }
}
