//! Products of packed factors on matrix units that a whole workgroup shares, and how they are cut up.
//!
//! The order of a sum follows from the product's shape alone, so results are the same on every run.

use super::blocks::{finish, in_blocks};
use super::interface;
use super::problem::{Causal, Problem};
use super::{Gemm, Matrix};
use crate::kernels::gemm_bf16_wide::{Bindings, Push, Specialization, dispatch};
use crate::precision::Precision;
use crate::recording::{Dispatch, Factor, Traits, View};

/// A workgroup's tile: rows, columns, and the terms of a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WideTile {
    /// Rows of the tile.
    pub rows: usize,
    /// Columns of the tile.
    pub columns: usize,
    /// Terms that the driver moves through shared memory at a time.
    pub step: usize,
    /// Rows of tiles that are worked on at a time.
    pub band: usize,
}

impl WideTile {
    /// A tile of these sizes.
    pub const fn new(rows: usize, columns: usize) -> WideTile {
        WideTile { rows, columns, step: 64, band: 8 }
    }

    fn workgroups(&self, problem: &Problem) -> [usize; 3] {
        [problem.n.div_ceil(self.columns), problem.m.div_ceil(self.rows), problem.batches]
    }
}

/// The tiles to choose from, best first.
pub const TILES: [WideTile; 5] = [
    WideTile::new(128, 256),
    WideTile::new(256, 128),
    WideTile::new(128, 128),
    WideTile::new(64, 128),
    WideTile::new(64, 64),
];

/// Words that the partial sums of a product may take (128 MiB).
const MAX_PARTIAL_WORDS: usize = 1 << 25;

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WidePlan {
    /// A workgroup's part.
    pub tile: WideTile,
    /// Terms of each block that is summed apart.
    pub block_terms: usize,
}

/// The device that plans are made for, an NVIDIA H100: its processors, the products that one adds up in a
/// cycle in the largest tile, words that memory moves in a cycle, and the cycles that a workgroup and a
/// dispatch take beside their work.
const PROCESSORS: f64 = 132.0;
const PRODUCTS_A_CYCLE: f64 = 800.0;
const WORDS_A_CYCLE: f64 = 400.0;
const WORKGROUP_CYCLES: f64 = 2500.0;
const DISPATCH_CYCLES: f64 = 5000.0;

/// The most blocks that a sum is cut into.
const MAX_BLOCKS: usize = 32;

impl WidePlan {
    /// The plan that takes the least time by a rough estimate.
    pub fn best(problem: &Problem) -> WidePlan {
        let most = (MAX_PARTIAL_WORDS / (problem.m * problem.n)).clamp(1, MAX_BLOCKS);
        let block_terms = |blocks: usize, step| problem.k.div_ceil(blocks).next_multiple_of(step);
        let plans = TILES.iter().flat_map(|&tile| {
            (1..=most).map(move |blocks| WidePlan { tile, block_terms: block_terms(blocks, tile.step) })
        });
        let least = plans.min_by(|x, y| x.cycles(problem).total_cmp(&y.cycles(problem)));
        least.expect("there is always a plan of one block")
    }

    /// Blocks of terms.
    pub fn blocks(&self, problem: &Problem) -> usize {
        problem.k.div_ceil(self.block_terms)
    }

    /// Words of the blocks' sums; 0 if there is one block.
    pub fn partial_words(&self, problem: &Problem) -> usize {
        match self.blocks(problem) {
            1 => 0,
            blocks => blocks * problem.m * problem.n,
        }
    }

    fn cycles(&self, problem: &Problem) -> f64 {
        let blocks = self.blocks(problem);
        let WideTile { rows, columns, .. } = self.tile;
        let workgroups = (self.tile.workgroups(problem).iter().product::<usize>() * blocks) as f64;
        let products = (rows * columns * self.block_terms.min(problem.k)) as f64;
        // Smaller tiles read more memory for the same work.
        let reuse = 2.0 * (rows * columns) as f64 / (rows + columns) as f64;
        let efficiency = (reuse / 170.0).min(1.0);
        let one = products / (PRODUCTS_A_CYCLE * efficiency) + WORKGROUP_CYCLES;
        let rounds = (workgroups / PROCESSORS).ceil();
        let moved = (2 * blocks * problem.m * problem.n) as f64 / WORDS_A_CYCLE;
        rounds * one + if blocks > 1 { moved + DISPATCH_CYCLES } else { 0.0 }
    }
}

/// True if a product is one for this kernel, on a device of these traits: one batch, no triangle.
pub fn suits(gemm: &Gemm, traits: &Traits) -> bool {
    let units = traits.matrix_units.filter(|units| units.workgroup_scope && units.factor == Factor::Bf16);
    let single = gemm.batch_outer * gemm.batch_inner == 1 && gemm.causal == Causal::None;
    // What is packed is packed whole.
    let whole = |factor: &Matrix| {
        factor.layout.first == 0 && factor.view.words.is_multiple_of(factor.layout.ld) && !factor.packed
    };
    let mixed = traits.wants_fast_kernels() && traits.precision == Precision::Mixed;
    mixed && units.is_some() && single && whole(&gemm.a) && whole(&gemm.b)
}

/// A product of packed factors; `partials` has room for [`WidePlan::partial_words`] if there are any.
pub fn record(gemm: &Gemm, plan: &WidePlan, partials: Option<View>) -> Vec<Dispatch> {
    let blocks = plan.blocks(&gemm.problem());
    match partials {
        Some(partials) if blocks > 1 => {
            vec![one(&in_blocks(gemm, blocks, partials), plan), finish(gemm, blocks, partials)]
        }
        _ => vec![one(gemm, plan)],
    }
}

fn one(gemm: &Gemm, plan: &WidePlan) -> Dispatch {
    let (problem, tile) = (gemm.problem(), plan.tile);
    assert!(gemm.a.packed && gemm.b.packed && !gemm.c.packed, "factors are packed, the result is not");
    let bias_words = gemm.bias.map_or(0, |bias| bias.words);
    problem.check(2 * gemm.a.view.words, 2 * gemm.b.view.words, gemm.c.view.words, bias_words);
    let word = |number: usize| u32::try_from(number).expect("a product's numbers fit 32 bits");
    let push = Push::from_bytes(
        &[interface::push(&problem).to_bytes(), word(plan.block_terms).to_ne_bytes().to_vec()].concat(),
    );
    let in_eights = |number: usize| number.is_multiple_of(8);
    let rows_in_eights =
        [problem.a, problem.b].iter().all(|factor| in_eights(factor.first) && in_eights(factor.ld));
    let whole = problem.m.is_multiple_of(tile.rows)
        && problem.n.is_multiple_of(tile.columns)
        && problem.k.is_multiple_of(tile.step)
        && rows_in_eights
        && problem.c.rows_start_at_quads();
    let specialization = Specialization {
        trans_a: problem.a.trans.into(),
        trans_b: problem.b.trans.into(),
        wide_a: 1,
        wide_b: 1,
        wide_c: 1,
        tile_rows: word(tile.rows),
        tile_columns: word(tile.columns),
        whole: whole.into(),
        band: word(tile.band),
        step: word(tile.step),
    };
    let (a, b, c) = (gemm.a.view, gemm.b.view, gemm.c.view);
    // Something must be bound where there is no bias; it is not read.
    let bindings = Bindings { a, b, c, bias: gemm.bias.unwrap_or(b) };
    dispatch(push, specialization, bindings, tile.workgroups(&problem).map(word))
}
