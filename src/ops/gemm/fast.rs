//! Products in shared memory: their tiles, how a product is cut up, and the kernel outside the exact
//! contract.
//!
//! The order of a sum follows from the product's shape alone, so results are the same on every run.

use super::interface::{self, Tiling};
use super::plan::{PROCESSORS, Plan, finishing_cycles, most_blocks, rounds};
use super::problem::Problem;
use super::{Causal, Gemm};
use crate::exact::K_BLOCK;
use crate::kernels::gemm_fast::{Bindings, Push, Specialization, dispatch};
use crate::ops::word;
use crate::recording::Dispatch;

/// The order in which an invocation writes out the products of one term. The sums do not depend on it, but
/// the driver gives out registers by it, and an instruction waits where two registers that it reads lie in
/// the same bank of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Row by row.
    Rows = 0,
    /// In strips four columns wide, each row by row.
    Strips = 1,
    /// In squares of four by four, each column by column.
    ColumnsOfFours = 2,
}

/// How a workgroup of `gemm_fast` computes its tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastTile {
    /// Rows of the tile.
    pub rows: usize,
    /// Columns of the tile.
    pub columns: usize,
    /// Fours of rows that an invocation sums.
    pub row_quads: usize,
    /// Fours of columns that an invocation sums.
    pub column_quads: usize,
    /// Terms that shared memory holds at a time, a multiple of 8.
    pub step: usize,
    /// Shares of so many terms in shared memory: 1 or 2.
    pub shares: usize,
    /// Invocations side by side in a patch of 32.
    pub near_across: usize,
    /// Rows of tiles that are worked on at a time.
    pub band: usize,
    /// Terms whose sums the kernel writes out, a divisor of `step`.
    pub unrolled: usize,
    /// In which order.
    pub order: Order,
}

impl FastTile {
    /// A tile of these sizes, 8 x 8 elements an invocation.
    pub const fn large(rows: usize, columns: usize) -> FastTile {
        FastTile {
            rows,
            columns,
            row_quads: 2,
            column_quads: 2,
            step: 16,
            shares: 2,
            near_across: 8,
            band: 8,
            unrolled: 16,
            order: Order::Rows,
        }
    }

    /// The same, 4 x 4 elements an invocation.
    pub const fn small(rows: usize, columns: usize) -> FastTile {
        FastTile { row_quads: 1, column_quads: 1, ..FastTile::large(rows, columns) }
    }

    /// The same sums an invocation, with less in shared memory and fewer registers: what is fast where two
    /// operations are one instruction.
    const fn lean(rows: usize, columns: usize, row_quads: usize, column_quads: usize) -> FastTile {
        let large = FastTile::large(rows, columns);
        FastTile { row_quads, column_quads, step: 8, shares: 1, unrolled: 8, ..large }
    }

    /// 4 x 4 elements an invocation and many terms at a time, for products that are over so soon that waiting
    /// for memory takes longest.
    const fn short(rows: usize, columns: usize) -> FastTile {
        FastTile { step: 32, ..FastTile::small(rows, columns) }
    }

    /// Invocations of a workgroup.
    fn invocations(&self) -> usize {
        self.rows * self.columns / (16 * self.row_quads * self.column_quads)
    }

    /// How much of its multiplying power a processor reaches with these tiles and fused multiply-add:
    /// measured on an NVIDIA H200 with 4096 x 4096 x 4096.
    fn efficiency(&self) -> f64 {
        match (self.rows * self.columns, self.row_quads * self.column_quads) {
            (16384.., _) => 0.62,
            (_, 2..) => 0.55,
            (4096.., _) => 0.47,
            (2048.., _) => 0.42,
            _ => 0.35,
        }
    }

    /// Workgroups that a processor holds at a time, by the registers that their invocations take.
    fn resident(&self) -> usize {
        const REGISTERS: usize = 1 << 16;
        (REGISTERS / (self.invocations() * (64 + 16 * self.row_quads * self.column_quads))).max(1)
    }

    /// The specialization constants of a product's kernel after those of its layouts.
    pub(super) fn specialization(&self, problem: &Problem) -> [u32; 12] {
        // Invocations fetch as many fours of elements each.
        let even = |side: usize| (side * self.step).is_multiple_of(4 * self.invocations());
        assert!(even(self.rows) && even(self.columns), "{self:?} is not fetched evenly");
        let layouts = [problem.a, problem.b, problem.c];
        let whole = problem.m.is_multiple_of(self.rows)
            && problem.n.is_multiple_of(self.columns)
            && problem.k.is_multiple_of(self.step)
            && layouts.iter().all(|layout| layout.rows_start_at_quads());
        [
            self.rows,
            self.columns,
            whole.into(),
            self.band,
            self.row_quads,
            self.column_quads,
            self.step,
            self.shares,
            self.near_across,
            self.unrolled,
            self.invocations(),
            self.order as usize,
        ]
        .map(word)
    }
}

/// The tiles to choose from, best first.
pub const TILES: [FastTile; 7] = [
    FastTile::lean(128, 128, 2, 2),
    FastTile::lean(64, 128, 2, 2),
    FastTile::lean(128, 64, 2, 2),
    FastTile::lean(64, 64, 2, 1),
    FastTile::short(64, 64),
    FastTile::short(32, 64),
    FastTile::short(32, 32),
];

/// The same for the exact kernels, whose sums take more instructions, each with its share of the best one's
/// speed on an NVIDIA H200: where B is stored as it is, and where its transpose is.
const EXACT_TILES: [(FastTile, [f64; 2]); 6] = [
    (FastTile { near_across: 4, order: Order::Strips, ..FastTile::lean(128, 64, 2, 2) }, [1.0, 0.95]),
    (FastTile { order: Order::ColumnsOfFours, ..FastTile::lean(128, 64, 2, 2) }, [0.99, 0.97]),
    (FastTile { shares: 1, ..FastTile::large(64, 128) }, [0.97, 0.9]),
    (FastTile { shares: 1, order: Order::Strips, ..FastTile::small(64, 64) }, [0.9, 0.87]),
    (FastTile { order: Order::Strips, ..FastTile::small(32, 64) }, [0.8, 0.78]),
    (FastTile { order: Order::Strips, ..FastTile::small(32, 32) }, [0.6, 0.6]),
];

/// How a product is computed.
pub type FastPlan = Plan<FastTile>;

/// The device that plans are made for, an NVIDIA H100: multiplications of a processor in a cycle, and the
/// cycles that a workgroup takes beside its work.
const PRODUCTS_A_CYCLE: f64 = 128.0;
// A multiplication and an addition take twice as long as both in one, and the best tile reaches this.
const EXACT_PRODUCTS_A_CYCLE: f64 = 0.8 * 64.0;
const WORKGROUP_CYCLES: f64 = 1500.0;

impl FastPlan {
    /// The same for the exact kernels, whose blocks are the contract's: all of them apart, or none.
    pub fn best_exact(problem: &Problem, may_split: bool) -> FastPlan {
        FastPlan::all_exact(problem, may_split)[0]
    }

    /// Every plan for the exact kernels, those first that take the least time by the estimate. All give the
    /// same bits.
    pub(super) fn all_exact(problem: &Problem, may_split: bool) -> Vec<FastPlan> {
        let plan = |tile, block_terms| Plan { tile, block_terms };
        let plans = EXACT_TILES.iter().flat_map(|&(tile, speed)| {
            let split = (may_split && problem.k > K_BLOCK).then_some(plan(tile, K_BLOCK));
            split
                .into_iter()
                .chain([plan(tile, problem.k)])
                .map(move |plan| (plan, speed[usize::from(problem.b.trans)]))
        });
        let cycles = |(plan, speed): &(FastPlan, f64)| {
            // A workgroup that has its processor to itself is alone with its waits.
            plan.cycles(problem, EXACT_PRODUCTS_A_CYCLE * speed, |workgroups| {
                (workgroups as f64 / PROCESSORS as f64).ceil().max(1.3)
            })
        };
        let mut plans: Vec<_> = plans.collect();
        plans.sort_by(|x, y| cycles(x).total_cmp(&cycles(y)));
        plans.into_iter().map(|(plan, _)| plan).collect()
    }

    /// The plans of other tiles that sum in the same order, those first that take the least time by the
    /// estimate.
    pub(super) fn same_sums(&self, problem: &Problem) -> Vec<FastPlan> {
        self.with_tiles(TILES.into_iter(), |plan| plan.estimate(problem))
    }

    /// The plan that takes the least time by a rough estimate; `may_split` if the sums may be cut up.
    pub fn best(problem: &Problem, may_split: bool) -> FastPlan {
        let most = if may_split { most_blocks(problem) } else { 1 };
        let fastest = FastPlan::fastest(problem, TILES.into_iter(), most, |plan| plan.estimate(problem));
        fastest.expect("there is a tile")
    }

    /// Cycles that a product takes by fused multiply-add, by a rough estimate.
    pub(super) fn estimate(&self, problem: &Problem) -> f64 {
        self.cycles(problem, PRODUCTS_A_CYCLE * self.tile.efficiency(), |workgroups| {
            rounds(workgroups, self.tile.resident())
        })
    }

    /// `rounds`: how many times as long as one workgroup so many take.
    fn cycles(&self, problem: &Problem, products_a_cycle: f64, rounds: impl Fn(usize) -> f64) -> f64 {
        let blocks = self.blocks(problem);
        let FastTile { rows, columns, .. } = self.tile;
        let workgroups = problem.tiles([rows, columns]).iter().product::<usize>() * blocks;
        let terms = self.block_terms.min(problem.k.next_multiple_of(self.tile.step));
        let products = (rows * columns * terms) as f64;
        // Elements that are moved one by one need many invocations to be on their way at once.
        let scattered = [problem.a, problem.b, problem.c].iter().any(|layout| !layout.rows_start_at_quads());
        let few = self.tile.row_quads * self.tile.column_quads > 1;
        let slowed = if scattered && few { 4.0 } else { 1.0 };
        let one = products * slowed / products_a_cycle + WORKGROUP_CYCLES;
        rounds(workgroups) * one + finishing_cycles(problem, blocks)
    }
}

/// One dispatch by `gemm_fast`. A product of [`Causal::Blocks`] has a batch for each `block_terms` terms.
pub fn record(gemm: &Gemm, plan: &FastPlan) -> Dispatch {
    let (problem, tile) = (gemm.problem(), plan.tile);
    let bias_words = gemm.bias.map_or(0, |bias| bias.words);
    problem.check(gemm.a.view.words, gemm.b.view.words, gemm.c.view.words, bias_words);
    let push = Push::from_bytes(
        &[interface::push(&problem).to_bytes(), word(plan.block_terms).to_ne_bytes().to_vec()].concat(),
    );
    let words = interface::specialization(&problem, Tiling::Shared(tile));
    let specialization = Specialization::from_words(&words);
    let (a, b, c) = (gemm.a.view, gemm.b.view, gemm.c.view);
    // Something must be bound where there is no bias; it is not read.
    let bindings = Bindings { a, b, c, bias: gemm.bias.unwrap_or(b) };
    assert!(
        gemm.causal != Causal::Blocks || problem.batches == plan.blocks(&problem),
        "a batch for each block: {problem:?}"
    );
    dispatch(push, specialization, bindings, problem.workgroups([tile.rows, tile.columns]))
}
