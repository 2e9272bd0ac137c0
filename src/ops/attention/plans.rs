//! Which kernels of fused attention a device takes, and how they cut up their work.

use crate::kernels::Kernel;
use crate::precision::Precision;
use crate::recording::{Factor, MatrixUnits, Traits};

/// Channels of the widest head that the kernels on matrix units keep in matrices.
const MAX_MATRIX_CHANNELS: usize = 128;

/// A part of the work, each a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The heads' outputs.
    Forward,
    /// The gradient of queries.
    BackwardQueries,
    /// The gradients of keys and values.
    BackwardKeys,
}

/// In the order of their dispatches.
pub const PARTS: [Part; 3] = [Part::Forward, Part::BackwardQueries, Part::BackwardKeys];

/// Positions in a block of scores: queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Rows of scores.
    pub queries: usize,
    /// Columns of scores.
    pub keys: usize,
}

/// How a kernel goes about its work. Not all kernels have all choices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plan {
    /// How it cuts a head's scores.
    pub blocks: Blocks,
    /// Whether it fetches a block while it works on the one before.
    pub prefetch: bool,
    /// Tiles of rows that a subgroup owns, and tiles of a block's columns that it works on at once.
    pub own: usize,
    pub at_once: usize,
    /// Heads that are worked on at a time; 0: all.
    pub heads: usize,
}

/// Which kernels do the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernels {
    /// In f32, with plain multiply-adds.
    F32,
    /// On matrix units, with factors rounded to 16 bits.
    Matrix(MatrixUnits),
}

impl Kernels {
    /// What the precision asks for and the device offers.
    pub fn of(traits: &Traits, d_head: usize) -> Kernels {
        let units = traits.matrix_units.filter(|_| traits.precision == Precision::Mixed);
        match units {
            Some(units) if d_head.is_multiple_of(units.side as usize) && d_head <= MAX_MATRIX_CHANNELS => {
                Kernels::Matrix(units)
            }
            _ => Kernels::F32,
        }
    }

    pub fn kernel(self, part: Part) -> Kernel {
        let of_each_part = match self {
            Kernels::F32 => {
                [Kernel::AttentionForward, Kernel::AttentionBackwardQueries, Kernel::AttentionBackwardKeys]
            }
            Kernels::Matrix(units) => match (units.factor, units.in_registers) {
                (Factor::Bf16, false) => [
                    Kernel::AttentionForwardBf16,
                    Kernel::AttentionBackwardQueriesBf16,
                    Kernel::AttentionBackwardKeysBf16,
                ],
                (Factor::Bf16, true) => [
                    Kernel::AttentionForwardBf16Registers,
                    Kernel::AttentionBackwardQueriesBf16Registers,
                    Kernel::AttentionBackwardKeysBf16Registers,
                ],
                (Factor::F16, false) => [
                    Kernel::AttentionForwardF16,
                    Kernel::AttentionBackwardQueriesF16,
                    Kernel::AttentionBackwardKeysF16,
                ],
                (Factor::F16, true) => [
                    Kernel::AttentionForwardF16Registers,
                    Kernel::AttentionBackwardQueriesF16Registers,
                    Kernel::AttentionBackwardKeysF16Registers,
                ],
            },
        };
        of_each_part[part as usize]
    }

    /// Plans of a part, the best first as measured on an H200 for heads of 64 channels, of short contexts
    /// also of 32.
    pub fn plans(self, part: Part, context: usize) -> Vec<Plan> {
        let in_registers = matches!(self, Kernels::Matrix(units) if units.in_registers);
        let plan = |&(owned, other, own, at_once): &(usize, usize, usize, usize)| {
            let blocks = part.blocks(owned, other);
            // Sums that pass through memory leave room to fetch ahead; else more workgroups are worth more.
            let prefetch = self != Kernels::F32 && !in_registers;
            Plan { blocks, prefetch, own, at_once, heads: if in_registers { 64 } else { 32 } }
        };
        let sizes: &[_] = match (self, part) {
            (Kernels::F32, _) => &[(64, 32, 1, 1), (32, 32, 1, 1), (32, 16, 1, 1), (16, 16, 1, 1)],
            (Kernels::Matrix(units), _) if !in_registers || units.side != 16 => {
                &[(64, 32, 1, 1), (32, 32, 1, 1), (32, 32, 2, 2), (16, 16, 1, 1)]
            }
            (Kernels::Matrix(_), Part::Forward) if context <= 256 => {
                &[(64, 32, 1, 2), (32, 32, 1, 2), (16, 16, 1, 1)]
            }
            (Kernels::Matrix(_), Part::BackwardQueries) if context <= 256 => {
                &[(64, 32, 1, 1), (32, 32, 1, 2), (16, 16, 1, 1)]
            }
            (Kernels::Matrix(_), Part::BackwardKeys) if context <= 128 => {
                &[(64, 64, 1, 1), (64, 32, 1, 1), (32, 32, 1, 1), (16, 16, 1, 1)]
            }
            (Kernels::Matrix(_), Part::Forward) => {
                &[(128, 64, 1, 2), (64, 32, 1, 2), (128, 64, 2, 2), (32, 32, 1, 2), (16, 16, 1, 1)]
            }
            (Kernels::Matrix(_), Part::BackwardQueries) => {
                &[(128, 64, 1, 2), (64, 32, 1, 2), (128, 64, 2, 1), (32, 32, 1, 2), (16, 16, 1, 1)]
            }
            (Kernels::Matrix(_), Part::BackwardKeys) => {
                &[(64, 32, 1, 1), (64, 32, 1, 2), (64, 64, 1, 1), (32, 32, 1, 1), (16, 16, 1, 1)]
            }
        };
        sizes.iter().map(plan).collect()
    }

    /// The plans of a part, and the same gone about otherwise: to be timed.
    pub fn variants(self, part: Part, context: usize) -> Vec<Plan> {
        let plans = self.plans(part, context);
        let otherwise = |plan: &Plan| match self {
            Kernels::F32 => Plan { heads: 0, ..*plan },
            Kernels::Matrix(_) => Plan { prefetch: !plan.prefetch, ..*plan },
        };
        let others: Vec<Plan> = plans.iter().map(otherwise).collect();
        [plans, others].concat()
    }

    /// D, rounded up to what a kernel's invocations share among them; the channels past D are zeros.
    pub fn channels(self, part: Part, blocks: Blocks, d_head: usize) -> usize {
        match self {
            Kernels::F32 => d_head.next_multiple_of(part.owned_and_other(blocks).1),
            Kernels::Matrix(_) => d_head,
        }
    }

    pub fn invocations(self, part: Part, plan: Plan) -> usize {
        /// With fewer subgroups than there are units, subgroups work on several.
        const MOST: usize = 512;
        let blocks = plan.blocks;
        match self {
            Kernels::F32 => blocks.queries / 4 * (blocks.keys / 4),
            Kernels::Matrix(units) => {
                let parts = part.owned_and_other(blocks).0 / (plan.own * units.side as usize);
                let subgroup = units.subgroup_size as usize;
                parts.min((MOST / subgroup).max(1)) * subgroup
            }
        }
    }

    /// Shared memory of a workgroup, as the shaders declare it.
    pub fn shared_bytes(self, part: Part, plan: Plan, d_head: usize) -> usize {
        let blocks = plan.blocks;
        let (owned, other) = part.owned_and_other(blocks);
        let channels = self.channels(part, blocks, d_head);
        match self {
            Kernels::F32 => {
                let rows = 16 * (channels / 4 + 1);
                let scores = 16 * owned * (other / 4 + 1);
                match part {
                    Part::Forward => rows * (owned + 2 * other) + scores + owned * other,
                    Part::BackwardQueries => 2 * rows * (owned + other) + scores + 4 * owned,
                    Part::BackwardKeys => 2 * rows * (owned + other) + 2 * scores,
                }
            }
            Kernels::Matrix(units) => {
                let side = units.side as usize;
                let (side_rows, units_of_rows) = (side * plan.own, owned / (side * plan.own));
                let staged = (units_of_rows * side).max(2 * other) * 16 * (channels / 8 + 1);
                let packed = if units.in_registers { 0 } else { 16 * (side / 8 + 1) };
                let scratch = side * (16 * (side / 4 + 1) + packed) + 4 * side_rows;
                staged + (units_of_rows + 1) * scratch + 4 * side + 8 * other
            }
        }
    }
}

impl Part {
    /// Positions that a workgroup owns, and positions that it goes over.
    pub(super) fn owned_and_other(self, blocks: Blocks) -> (usize, usize) {
        match self {
            Part::Forward | Part::BackwardQueries => (blocks.queries, blocks.keys),
            Part::BackwardKeys => (blocks.keys, blocks.queries),
        }
    }

    /// The inverse of `Part::owned_and_other`.
    fn blocks(self, owned: usize, other: usize) -> Blocks {
        match self {
            Part::Forward | Part::BackwardQueries => Blocks { queries: owned, keys: other },
            Part::BackwardKeys => Blocks { queries: other, keys: owned },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kernels_take_the_same_constants_and_those_of_a_part_the_same_views() {
        let forward = Kernel::AttentionForward;
        let units = |factor, in_registers| {
            Kernels::Matrix(MatrixUnits { in_registers, ..MatrixUnits::usual(factor) })
        };
        let matrix = [Factor::Bf16, Factor::F16].map(|factor| [false, true].map(|r| units(factor, r)));
        for part in PARTS {
            let plain = Kernels::F32.kernel(part);
            for kernels in matrix.into_iter().flatten() {
                let kernel = kernels.kernel(part);
                assert_eq!(kernel.push_members(), forward.push_members(), "{}", kernel.name());
                let names = |k: Kernel| k.specialization().iter().map(|c| c.name).collect::<Vec<_>>();
                assert_eq!(names(kernel), names(forward), "{}", kernel.name());
                assert_eq!(kernel.bindings(), plain.bindings(), "{}", kernel.name());
            }
        }
    }
}
