//! Which tiles a product is computed in, and into how many sums its terms are cut: by its shape alone, so
//! that a product's bits are the same on every run.

use super::tiles::{Kind, Tile};
use crate::ops::gemm::Problem;
use crate::precision::Precision;
use crate::recording::Traits;

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// A workgroup's part.
    pub tile: Tile,
    /// Terms of each block that is summed apart.
    pub block_terms: usize,
}

/// The device that plans are made for, an NVIDIA H100: processors, words that memory moves in a cycle, and the
/// cycles that a workgroup and a dispatch take beside their work.
const PROCESSORS: usize = 132;
const WORDS_A_CYCLE: f64 = 400.0;
const WORKGROUP_CYCLES: f64 = 1500.0;
const DISPATCH_CYCLES: f64 = 5000.0;

/// Blocks are as long as a multiple of this, so that they begin where a share does.
const BLOCK_UNIT: usize = 64;

/// The most blocks that a sum is cut into.
const MAX_BLOCKS: usize = 32;

impl Plan {
    /// The plan that takes the least time by a rough estimate, with sums in at most so many blocks.
    pub fn best(problem: &Problem, traits: &Traits, max_blocks: usize) -> Plan {
        let most = max_blocks.clamp(1, MAX_BLOCKS);
        let block_terms = |blocks: usize| problem.k.div_ceil(blocks).next_multiple_of(BLOCK_UNIT);
        let tiles = match (traits.precision, traits.matrix_units) {
            (Precision::Mixed, Some(units)) => Tile::for_units(units).to_vec(),
            _ => Tile::PLAIN.to_vec(),
        };
        let plans = tiles
            .iter()
            .flat_map(|&tile| (1..=most).map(move |blocks| Plan { tile, block_terms: block_terms(blocks) }));
        plans
            .min_by(|x, y| x.cycles(problem).total_cmp(&y.cycles(problem)))
            .expect("there is always a plan of one block")
    }

    /// Blocks of terms.
    pub fn blocks(&self, problem: &Problem) -> usize {
        problem.k.div_ceil(self.block_terms)
    }

    /// Workgroups in x (columns), y (rows) and z (batches).
    pub(super) fn workgroups(&self, problem: &Problem) -> [usize; 3] {
        [problem.n.div_ceil(self.tile.columns), problem.m.div_ceil(self.tile.rows), problem.batches]
    }

    fn cycles(&self, problem: &Problem) -> f64 {
        let blocks = self.blocks(problem);
        let workgroups = self.workgroups(problem).iter().product::<usize>() * blocks;
        let terms = self.block_terms.min(problem.k.next_multiple_of(self.tile.step));
        let products = (self.tile.rows * self.tile.columns * terms) as f64;
        let one = products / products_a_cycle(&self.tile) + WORKGROUP_CYCLES;
        // A workgroup that has its processor to itself is alone with its waits.
        let rounds = (workgroups as f64 / PROCESSORS as f64).ceil().max(1.3);
        let moved = (2 * blocks * problem.m * problem.n) as f64 / WORDS_A_CYCLE;
        rounds * one + if blocks > 1 { moved + DISPATCH_CYCLES } else { 0.0 }
    }
}

/// Products that one processor adds in a cycle when its tiles are like this one.
fn products_a_cycle(tile: &Tile) -> f64 {
    let (most, smallest_good) = match tile.kind {
        Kind::Plain { row_quads: 1, .. } => (64.0, 64 * 64),
        Kind::Plain { .. } => (90.0, 128 * 128),
        Kind::Matrix { .. } => (600.0, 128 * 128),
    };
    match smallest_good / (tile.rows * tile.columns) {
        0 | 1 => most,
        2 => most * 0.85,
        3 | 4 => most * 0.7,
        _ => most * 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gemm::{Causal, Layout};

    fn plan([m, k, n]: [usize; 3], max_blocks: usize) -> (Plan, usize) {
        let layout = |ld| Layout { ld, ..Layout::default() };
        let (a, b, c) = (layout(k), layout(n), layout(n));
        let problem =
            Problem { m, k, n, use_bias: false, a, b, c, batch_inner: 1, batches: 1, causal: Causal::None };
        let traits = Traits { precision: Precision::F32, fast_shared_memory: true, ..Traits::PLAIN };
        let plan = Plan::best(&problem, &traits, max_blocks);
        (plan, plan.blocks(&problem))
    }

    #[test]
    fn large_products_take_large_tiles_and_long_sums_of_few_are_cut() {
        assert_eq!(plan([4096, 4096, 4096], 32).0.tile, Tile::plain(128, 128));
        assert_eq!(plan([4096, 4096, 4096], 32).1, 1);
        assert!(plan([128, 16384, 128], 32).1 >= 8);
        assert_eq!(plan([128, 16384, 128], 1).1, 1);
        let small = plan([512, 256, 512], 32).0.tile;
        assert!(small.rows * small.columns < 128 * 128);
    }
}
