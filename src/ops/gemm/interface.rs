//! Between a product's numbers and the kernels' interface: push constants, specialization, workgroups, twins.
//!
//! The four kernels share their push constants and, but for the tile's size, their specialization constants
//! (a test holds this), so one conversion through the plain words serves all.

use super::problem::{Causal, Layout, Problem};
use super::twin::{Operands, multiply};
use crate::exact::K_BLOCK;
use crate::kernels;
use crate::recording::Dispatch;

/// Which kernel's tiles compute a product. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiling {
    /// `gemm`, `gemm_backward`: an invocation computes 8 x 8 elements alone.
    Alone,
    /// `gemm_tiled`, `gemm_backward_tiled`: a workgroup computes `64 * row_quads` x `64 * column_quads`
    /// elements through shared memory.
    Shared {
        /// Fours of rows that an invocation sums.
        row_quads: u32,
        /// Fours of columns that an invocation sums.
        column_quads: u32,
        /// Totals of blocks of terms stand in the result's memory until the last, not in registers.
        totals_in_result: bool,
    },
}

/// Rows and columns that one workgroup of `gemm` computes: an invocation's 8 x 8, for 8 invocations in a row.
const ALONE_ROWS: usize = 8;
const ALONE_COLUMNS: usize = 64;

/// Rows (columns) of a shared tile for each of its row (column) quads.
const SHARED_SIDE: usize = 64;

/// Large tiles read less memory; but a device needs many workgroups to be busy: an NVIDIA H100 has 132
/// multiprocessors, each for one workgroup or two of this size.
const BUSY_WORKGROUPS: usize = 256;

impl Tiling {
    /// The largest shared tile that still leaves the device enough workgroups.
    pub fn shared(problem: &Problem) -> Tiling {
        const BY_SIZE: [(u32, u32); 3] = [(2, 2), (1, 2), (2, 1)];
        let busy = |&(row_quads, column_quads): &(u32, u32)| {
            let [x, y, z] = Tiling::tile_of(row_quads, column_quads).workgroups(problem);
            // No tile should lie mostly outside.
            let fits = problem.m >= SHARED_SIDE * row_quads as usize
                && problem.n >= SHARED_SIDE * column_quads as usize;
            fits && x * y * z >= BUSY_WORKGROUPS
        };
        let (row_quads, column_quads) = BY_SIZE.into_iter().find(busy).unwrap_or((1, 1));
        let totals_in_result = row_quads * column_quads > 2 && problem.k > K_BLOCK;
        Tiling::Shared { row_quads, column_quads, totals_in_result }
    }

    /// A shared tile of `64 * row_quads` x `64 * column_quads` elements, its totals in registers.
    pub const fn tile_of(row_quads: u32, column_quads: u32) -> Tiling {
        Tiling::Shared { row_quads, column_quads, totals_in_result: false }
    }

    /// True if even the smallest shared tiles of this product are too few to keep a device busy.
    pub fn leaves_device_idle(problem: &Problem) -> bool {
        let [x, y, z] = Tiling::tile_of(1, 1).workgroups(problem);
        x * y * z < BUSY_WORKGROUPS / 2
    }

    /// Rows and columns of a workgroup's tile.
    fn tile(self) -> (usize, usize) {
        match self {
            Tiling::Alone => (ALONE_ROWS, ALONE_COLUMNS),
            Tiling::Shared { row_quads, column_quads, .. } => {
                (SHARED_SIDE * row_quads as usize, SHARED_SIDE * column_quads as usize)
            }
        }
    }

    fn workgroups(self, problem: &Problem) -> [usize; 3] {
        let (rows, columns) = self.tile();
        [problem.n.div_ceil(columns), problem.m.div_ceil(rows), problem.batches]
    }

    /// Workgroups in x (columns), y (rows) and z (batches).
    pub fn groups(self, problem: &Problem) -> [u32; 3] {
        self.workgroups(problem).map(|count| {
            assert!(count <= 65_535, "a product of {count} workgroups in a row: {problem:?}");
            count as u32
        })
    }
}

/// The push constants of all four kernels.
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

/// The specialization constants' values: those of all four kernels, then the shared tile's.
pub fn specialization(problem: &Problem, tiling: Tiling) -> Vec<u32> {
    let Problem { a, b, c, .. } = problem;
    let mut words = kernels::gemm::Specialization {
        trans_a: a.trans.into(),
        trans_b: b.trans.into(),
        wide_a: a.rows_start_at_quads().into(),
        wide_b: b.rows_start_at_quads().into(),
        wide_c: c.rows_start_at_quads().into(),
    }
    .to_words();
    if let Tiling::Shared { row_quads, column_quads, totals_in_result } = tiling {
        words.extend([row_quads, column_quads, totals_in_result.into()]);
    }
    words
}

/// The inverse of [`push`] and [`specialization`], with the batches from the workgroups.
fn problem(push: &[u8], specialization: &[u32], groups: [u32; 3]) -> Problem {
    let push = kernels::gemm::Push::from_bytes(push);
    let specialization = kernels::gemm::Specialization::from_words(specialization);
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
        a: layout(push.a_first, push.lda, push.a_outer, push.a_inner, specialization.trans_a),
        b: layout(push.b_first, push.ldb, push.b_outer, push.b_inner, specialization.trans_b),
        c: layout(push.c_first, push.ldc, push.c_outer, push.c_inner, 0),
        batch_inner: size(push.batch_inner),
        batches: size(groups[2]),
        causal: Causal::from_code(push.causal),
    }
}

/// The words of a product's result that its kernel may leave as it likes: what stands above the diagonal of
/// a causal result. Empty for every other dispatch.
pub fn unspecified_words(dispatch: &Dispatch) -> Vec<usize> {
    use kernels::Kernel::{Gemm, GemmBackward, GemmBackwardTiled, GemmTiled};
    if ![Gemm, GemmTiled, GemmBackward, GemmBackwardTiled].contains(&dispatch.kernel) {
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
        for other in [Kernel::GemmTiled, Kernel::GemmBackward, Kernel::GemmBackwardTiled] {
            assert_eq!(other.push_members(), gemm.push_members(), "{}", other.name());
            let shared = &other.specialization()[..gemm.specialization().len()];
            assert_eq!(shared, gemm.specialization(), "{}", other.name());
        }
        for tiled in [Kernel::GemmTiled, Kernel::GemmBackwardTiled] {
            let names: Vec<_> = tiled.specialization()[5..].iter().map(|constant| constant.name).collect();
            assert_eq!(names, ["row_quads", "column_quads", "totals_in_result"]);
        }
    }

    #[test]
    fn the_tiles_are_the_shaders() {
        let [alone, _, _] = Kernel::Gemm.local_size();
        assert_eq!(alone as usize * 8, ALONE_COLUMNS);
        let [shared, _, _] = Kernel::GemmTiled.local_size();
        assert_eq!(shared as usize * 16, SHARED_SIDE * SHARED_SIDE);
    }
}
