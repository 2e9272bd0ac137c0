//! How the work of a product is cut up: tiles for workgroups, blocks of terms that are summed apart, and what
//! the estimates of all kernels have in common.

use super::blocks::MAX_PARTIAL_WORDS;
use super::problem::{Causal, Problem};

/// How a product is computed by a kernel that has tiles of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan<Tile> {
    /// A workgroup's part.
    pub tile: Tile,
    /// Terms of each block that is summed apart.
    pub block_terms: usize,
}

/// The device that plans are made for, an NVIDIA H100 or H200: its processors, the words that memory moves in
/// a cycle, and the cycles that a dispatch takes beside its work.
pub(super) const PROCESSORS: usize = 132;
pub(super) const WORDS_A_CYCLE: f64 = 400.0;
pub(super) const DISPATCH_CYCLES: f64 = 5000.0;

/// Blocks are as long as a multiple of this, so that they begin where a share does.
const BLOCK_UNIT: usize = 64;

/// The most blocks that a sum is cut into.
const MAX_BLOCKS: usize = 32;

/// The most blocks that a product's sums may be cut into: one if it has batches or a triangle.
pub(super) fn most_blocks(problem: &Problem) -> usize {
    let single = problem.batches == 1 && problem.causal == Causal::None;
    if single { (MAX_PARTIAL_WORDS / (problem.m * problem.n)).clamp(1, MAX_BLOCKS) } else { 1 }
}

/// Cycles of adding up so many blocks' sums.
pub(super) fn finishing_cycles(problem: &Problem, blocks: usize) -> f64 {
    let moved = (2 * blocks * problem.m * problem.n) as f64 / WORDS_A_CYCLE;
    if blocks > 1 { moved + DISPATCH_CYCLES } else { 0.0 }
}

/// How many times as long as its share of a full processor's work so many workgroups take, if a processor
/// holds `resident` of them at a time: with fewer it waits more often for memory.
pub(super) fn rounds(workgroups: usize, resident: usize) -> f64 {
    let each = workgroups.div_ceil(PROCESSORS);
    let (full, rest) = (each / resident * resident, each % resident);
    let last = if rest == 0 { 0.0 } else { rest as f64 * libm::pow(resident as f64 / rest as f64, 0.2) };
    full as f64 + last
}

impl<Tile: Copy> Plan<Tile> {
    /// The plan that takes the least time by `cycles`, with one of these tiles and sums in at most so many
    /// blocks; `None` if there is no tile.
    pub(super) fn fastest(
        problem: &Problem,
        tiles: impl Iterator<Item = Tile>,
        most_blocks: usize,
        cycles: impl Fn(&Self) -> f64,
    ) -> Option<Self> {
        let block_terms = |blocks: usize| problem.k.div_ceil(blocks).next_multiple_of(BLOCK_UNIT);
        let plans = tiles.flat_map(|tile| {
            (1..=most_blocks).map(move |blocks| Plan { tile, block_terms: block_terms(blocks) })
        });
        plans.min_by(|x, y| cycles(x).total_cmp(&cycles(y)))
    }

    /// The plans of the same blocks with these tiles, those first that take the least time by `cycles`.
    pub(super) fn with_tiles(
        &self,
        tiles: impl Iterator<Item = Tile>,
        cycles: impl Fn(&Self) -> f64,
    ) -> Vec<Self> {
        let mut plans: Vec<_> = tiles.map(|tile| Plan { tile, ..*self }).collect();
        plans.sort_by(|x, y| cycles(x).total_cmp(&cycles(y)));
        plans
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
}
