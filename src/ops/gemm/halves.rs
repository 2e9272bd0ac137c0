//! Products of f32 factors on matrix units, by two 16-bit floats an element, and how they are cut up.
//!
//! The order of a sum follows from the product's shape alone, so results are the same on every run.

use super::blocks::{finish, in_blocks};
use super::fast::FastPlan;
use super::interface;
use super::plan::{DISPATCH_CYCLES, Plan, WORDS_A_CYCLE, finishing_cycles, most_blocks, rounds};
use super::problem::{Causal, Problem};
use super::{Gemm, Matrix};
use crate::kernels::gemm_halves::{Bindings, Push, Specialization, dispatch};
use crate::ops::split::{largest, numbers, split_words};
use crate::precision::Precision;
use crate::recording::{Dispatch, MatrixUnits, Traits, View};

/// How a workgroup of `gemm_halves` works on its tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalvesTile {
    /// Rows of the tile.
    pub rows: usize,
    /// Columns of the tile.
    pub columns: usize,
    /// Rows of a subgroup's part of it.
    pub part_rows: usize,
    /// Columns of a subgroup's part of it.
    pub part_columns: usize,
    /// Terms that shared memory holds at a time.
    pub step: usize,
    /// Shares of so many terms in shared memory: 1 or 2.
    pub shares: usize,
    /// Terms that are added up on the units, whose sums are then added as plain floats: a multiple of the
    /// matrices' side that divides `step` or is a multiple of it.
    pub chunk: usize,
    /// The factors' low parts are stored times 2 to this; 0 where chunks are longer than `step`.
    pub low_shift: u32,
    /// The next share is fetched before this one is multiplied.
    pub ahead: bool,
    /// Rows of tiles that are worked on at a time.
    pub band: usize,
}

impl HalvesTile {
    /// A tile of these sizes, parted so.
    pub const fn new([rows, columns]: [usize; 2], [part_rows, part_columns]: [usize; 2]) -> HalvesTile {
        HalvesTile {
            rows,
            columns,
            part_rows,
            part_columns,
            step: 16,
            shares: 1,
            chunk: 16,
            low_shift: LOW_SHIFT,
            ahead: true,
            band: 8,
        }
    }

    fn subgroups(&self) -> usize {
        self.rows / self.part_rows * (self.columns / self.part_columns)
    }

    /// Bytes of shared memory that it takes, at most.
    pub fn shared_bytes(&self) -> usize {
        let lines = [self.rows, self.columns].map(|side| {
            let octs = (side * (self.step / 8 + 1)).max(self.step * (side / 8 + 1));
            2 * octs.next_multiple_of(8) + 6
        });
        16 * self.shares * (lines[0] + lines[1])
    }

    /// Workgroups that a processor holds at a time, by the registers of their invocations in subgroups of 32:
    /// measured on an NVIDIA H200.
    fn resident(&self) -> usize {
        const REGISTERS: usize = 1 << 16;
        let of_an_invocation = match (self.step, self.part_rows * self.part_columns) {
            (32.., _) => 255,
            (_, 2048..) => 214,
            _ => 124,
        };
        (REGISTERS / (32 * self.subgroups() * of_an_invocation)).max(1)
    }

    /// The share of the best tile's speed that it reaches: measured on an NVIDIA H200 at 4096 x 4096 x 4096.
    fn efficiency(&self, b_transposed: bool) -> f64 {
        match (self.rows * self.columns, b_transposed) {
            (16384.., _) => 1.0,
            (8192.., false) => 0.91,
            (8192.., true) => 0.82,
            (_, false) => 0.84,
            (_, true) => 0.62,
        }
    }
}

/// What low parts are multiplied by, as a power of two: they then have as many digits as high parts wherever
/// these have all of theirs.
pub const LOW_SHIFT: u32 = 11;

/// The tiles to choose from, best first.
pub const TILES: [HalvesTile; 4] = [
    HalvesTile { step: 32, chunk: 32, ..HalvesTile::new([128, 128], [64, 32]) },
    HalvesTile::new([64, 128], [32, 64]),
    HalvesTile::new([128, 64], [64, 32]),
    HalvesTile::new([64, 64], [32, 32]),
];

/// How a product is computed.
pub type HalvesPlan = Plan<HalvesTile>;

/// The device that plans are made for, an NVIDIA H200: the products that a processor adds up in a cycle in
/// the largest tile; the terms that it could add up in the time that a tile's start and end take, and cycles
/// that a workgroup takes besides.
const PRODUCTS_A_CYCLE: f64 = 210.0;
const TERMS_OF_A_TILE: usize = 120;
const WORKGROUP_CYCLES: f64 = 1000.0;

/// Factors of more words are not split, as it takes as much memory again (4 GiB).
const MAX_SPLIT_WORDS: usize = 1 << 30;

impl HalvesPlan {
    /// The plan that takes the least time by a rough estimate; `None` if no tile fits shared memory.
    pub fn best(problem: &Problem, traits: &Traits) -> Option<HalvesPlan> {
        let tiles = TILES.into_iter().filter(|tile| tile.shared_bytes() <= traits.shared_memory_bytes);
        HalvesPlan::fastest(problem, tiles, most_blocks(problem), |plan| plan.cycles(problem))
    }

    /// The plans of other tiles that sum in the same order, those first that take the least time by the
    /// estimate: as many terms are added up on the units at a time.
    pub(super) fn same_sums(&self, problem: &Problem, traits: &Traits) -> Vec<HalvesPlan> {
        let possible = |tile: &HalvesTile| {
            let same = (tile.chunk, tile.low_shift) == (self.tile.chunk, self.tile.low_shift);
            same && tile.shared_bytes() <= traits.shared_memory_bytes
        };
        self.with_tiles(TILES.into_iter().filter(possible), |plan| plan.cycles(problem))
    }

    /// Cycles of the product without splitting its factors.
    fn cycles(&self, problem: &Problem) -> f64 {
        let blocks = self.blocks(problem);
        let HalvesTile { rows, columns, .. } = self.tile;
        let workgroups = problem.tiles([rows, columns]).iter().product::<usize>() * blocks;
        let terms = self.block_terms.min(problem.k) + TERMS_OF_A_TILE;
        let products = (rows * columns * terms) as f64;
        let efficiency = self.tile.efficiency(problem.b.trans);
        let one = products / (PRODUCTS_A_CYCLE * efficiency) + WORKGROUP_CYCLES;
        rounds(workgroups, self.tile.resident()) * one + finishing_cycles(problem, blocks)
    }
}

/// Cycles of splitting a factor: it is read twice and written once, in two dispatches. Most are used by two
/// products.
fn splitting_cycles(words: usize) -> f64 {
    ((3 * words) as f64 / WORDS_A_CYCLE + 2.0 * DISPATCH_CYCLES) / 2.0
}

/// The units that products of split factors are computed by on a device of these traits, if any are.
pub fn wanted(traits: &Traits) -> Option<MatrixUnits> {
    let wanted = traits.wants_fast_kernels() && traits.precision == Precision::F32;
    traits.half_units.filter(|_| wanted)
}

/// True if the kernel can compute a product: stored rows are whole eights of elements.
pub fn is_possible(gemm: &Gemm) -> bool {
    let in_eights = |factor: &Matrix, (_, columns): (usize, usize)| {
        factor.layout.rows_start_at(8) && columns.is_multiple_of(8) && !factor.packed
    };
    let problem = gemm.problem();
    in_eights(&gemm.a, problem.stored_a()) && in_eights(&gemm.b, problem.stored_b()) && !gemm.c.packed
}

/// How a product is computed if that is possible and faster with its factors split.
pub fn faster(gemm: &Gemm, traits: &Traits) -> Option<HalvesPlan> {
    let problem = gemm.problem();
    let single = problem.batches == 1 && problem.causal == Causal::None;
    let words = [gemm.a.view.words, gemm.b.view.words];
    let most = MAX_SPLIT_WORDS.min(traits.max_view_words);
    if !single || !is_possible(gemm) || words.iter().any(|&words| split_words(words) > most) {
        return None;
    }
    let plan = HalvesPlan::best(&problem, traits)?;
    let splitting: f64 = words.into_iter().map(splitting_cycles).sum();
    let plain = FastPlan::best(&problem, true).estimate(&problem);
    (plan.cycles(&problem) + splitting < plain).then_some(plan)
}

/// A product of factors that lie split in `split`; `partials` has room for [`HalvesPlan::partial_words`] if
/// there are any.
///
/// Panics if the numbers contradict each other or the views: a program's fault, never a user's.
pub fn record(
    gemm: &Gemm,
    split: [View; 2],
    units: MatrixUnits,
    plan: &HalvesPlan,
    partials: Option<View>,
) -> Vec<Dispatch> {
    let blocks = plan.blocks(&gemm.problem());
    match partials {
        Some(partials) if blocks > 1 => {
            let parts = one(&in_blocks(gemm, blocks, partials), split, units, plan);
            vec![parts, finish(gemm, blocks, partials)]
        }
        _ => vec![one(gemm, split, units, plan)],
    }
}

fn one(gemm: &Gemm, [a, b]: [View; 2], units: MatrixUnits, plan: &HalvesPlan) -> Dispatch {
    let (problem, tile) = (gemm.problem(), plan.tile);
    assert!(is_possible(gemm), "rows that are not whole eights: {problem:?}");
    let bias_words = gemm.bias.map_or(0, |bias| bias.words);
    problem.check(gemm.a.view.words, gemm.b.view.words, gemm.c.view.words, bias_words);
    let side = units.side as usize;
    let long_chunks = tile.chunk.is_multiple_of(tile.step) && tile.low_shift == 0;
    let fits = tile.step.is_multiple_of(tile.chunk) || long_chunks;
    assert!(tile.chunk.is_multiple_of(side) && fits, "{tile:?} of matrices of {side}");
    let push = [interface::push(&problem).to_bytes(), word(plan.block_terms).to_ne_bytes().to_vec()].concat();
    let wide_c = problem.c.rows_start_at_quads();
    let whole = problem.m.is_multiple_of(tile.rows)
        && problem.n.is_multiple_of(tile.columns)
        && problem.k.is_multiple_of(tile.step)
        && wide_c;
    let invocations = word(tile.subgroups()) * units.subgroup_size;
    // Invocations fetch as many fours of words each.
    let even = |side: usize| (side * tile.step).is_multiple_of(4 * invocations as usize);
    assert!(even(tile.rows) && even(tile.columns), "{tile:?} by {invocations} invocations");
    let specialization = Specialization {
        trans_a: problem.a.trans.into(),
        trans_b: problem.b.trans.into(),
        wide_a: 1,
        wide_b: 1,
        wide_c: wide_c.into(),
        tile_rows: word(tile.rows),
        tile_columns: word(tile.columns),
        whole: whole.into(),
        band: word(tile.band),
        row_matrices: word(tile.part_rows) / units.side,
        column_matrices: word(tile.part_columns) / units.side,
        step: word(tile.step),
        shares: word(tile.shares),
        chunk: word(tile.chunk),
        low_shift: tile.low_shift,
        ahead: tile.ahead.into(),
        side: units.side,
        invocations,
        local_size_x: invocations,
    };
    let bindings = Bindings {
        a: numbers(a),
        b: numbers(b),
        c: gemm.c.view,
        // Something must be bound where there is no bias; it is not read.
        bias: gemm.bias.unwrap_or(gemm.b.view),
        a_largest: largest(a),
        b_largest: largest(b),
    };
    let groups = problem.workgroups([tile.rows, tile.columns]);
    dispatch(Push::from_bytes(&push), specialization, bindings, groups)
}

fn word(number: usize) -> u32 {
    u32::try_from(number).expect("a product's numbers fit 32 bits")
}
