//! The ways to compute a product: which kernel, which tile, which blocks; the one that the estimates take,
//! and those that give the same bits.
//!
//! In `exact` every tile and every split along the contract's blocks gives the same bits. Outside it the
//! blocks and the terms that matrix units add up decide the bits, and so follow from the product's shape
//! alone; rows, columns, steps and the order of tiles do not.

use super::blocks::{MAX_EXACT_PARTIAL_WORDS, Split, is_alone};
use super::fast::{self, FastPlan, FastTile};
use super::halves::{self, HalvesPlan, HalvesTile};
use super::interface::Tiling;
use super::units::{self, UnitPlan, UnitTile};
use super::{Causal, Gemm, Matrix, Problem};
use crate::exact::K_BLOCK;
use crate::recording::{Dispatch, Traits, View};

/// Ways that are tried of a product, at most.
const MOST_WAYS: usize = 5;

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the exact kernels for processors.
    Alone,
    /// By the exact kernels for GPUs; `split`: its blocks of terms are summed apart.
    Exact {
        /// A workgroup's part.
        tile: FastTile,
        /// The blocks of terms are summed apart.
        split: bool,
    },
    /// By fused multiply-add.
    Fast(FastPlan),
    /// On matrix units.
    Units(UnitPlan),
    /// On matrix units, of factors that are split.
    Halves(HalvesPlan),
}

impl Way {
    /// The way that takes the least time by the estimates. With `room`, sums may be cut into blocks that are
    /// added up afterwards, and factors split.
    pub fn best(gemm: &Gemm, traits: &Traits, room: bool) -> Way {
        let problem = gemm.problem();
        if let Some(units) = units::wanted(traits) {
            return Way::Units(UnitPlan::best(&problem, units, room));
        }
        if halves::wanted(traits).is_some()
            && room
            && let Some(plan) = halves::faster(gemm, traits)
        {
            return Way::Halves(plan);
        }
        if traits.wants_fast_kernels() {
            return Way::Fast(FastPlan::best(&problem, room));
        }
        if Tiling::alone(traits).is_some() {
            return Way::Alone;
        }
        Way::exact(&problem, FastPlan::best_exact(&problem, may_split(gemm, traits, room)))
    }

    fn exact(problem: &Problem, plan: FastPlan) -> Way {
        Way::Exact { tile: plan.tile, split: plan.blocks(problem) > 1 }
    }

    /// The ways that give the same bits, this one first, then those that are likely to be fast.
    pub fn alternatives(&self, gemm: &Gemm, traits: &Traits, room: bool) -> Vec<Way> {
        let (problem, shared) = (gemm.problem(), traits.shared_memory_bytes);
        let all: Vec<Way> = match self {
            Way::Alone => vec![],
            Way::Exact { .. } => {
                let plans = FastPlan::all_exact(&problem, may_split(gemm, traits, room)).into_iter();
                plans.map(|plan| Way::exact(&problem, plan)).collect()
            }
            Way::Fast(plan) => plan.same_sums(&problem).into_iter().map(Way::Fast).collect(),
            Way::Units(plan) => match units::wanted(traits) {
                Some(units) => plan.same_sums(&problem, units, shared).into_iter().map(Way::Units).collect(),
                None => vec![],
            },
            Way::Halves(plan) => plan.same_sums(&problem, traits).into_iter().map(Way::Halves).collect(),
        };
        let others = all.into_iter().filter(|way| way != self);
        std::iter::once(*self).chain(others).take(MOST_WAYS).collect()
    }

    /// Words of the blocks' sums; 0 if there is one block.
    pub fn partial_words(&self, gemm: &Gemm) -> usize {
        let blocks = self.blocks(&gemm.problem());
        if blocks > 1 { blocks * gemm.m * gemm.n } else { 0 }
    }

    fn blocks(&self, problem: &Problem) -> usize {
        match self {
            Way::Exact { split: true, .. } => problem.k.div_ceil(K_BLOCK),
            Way::Alone | Way::Exact { .. } => 1,
            Way::Fast(plan) => plan.blocks(problem),
            Way::Units(plan) => plan.blocks(problem),
            Way::Halves(plan) => plan.blocks(problem),
        }
    }

    /// The dispatches of a product that is computed so. `split` is where its factors lie split, which
    /// [`Way::Halves`] takes; `partials` has [`Way::partial_words`], if there are any.
    ///
    /// Panics if the numbers contradict each other or the views: a program's fault, never a user's.
    pub fn record(
        &self,
        gemm: &Gemm,
        traits: &Traits,
        split: Option<[View; 2]>,
        partials: Option<View>,
    ) -> Vec<Dispatch> {
        match (self, partials) {
            (Way::Alone, _) => {
                let tiling = Tiling::best_alone(&gemm.problem(), traits);
                vec![gemm.record_tiled(tiling.expect("subgroups work alone"))]
            }
            (Way::Exact { tile, split: true }, Some(partials)) => {
                let split = Split::any(gemm).expect("a product that is split has several blocks");
                split.record(Some(Tiling::Shared(*tile)), partials).to_vec()
            }
            (Way::Exact { tile, .. }, _) => vec![gemm.record_tiled(Tiling::Shared(*tile))],
            (Way::Fast(plan), Some(partials)) => {
                let split = Split::planned(gemm, *plan).expect("a product that is split has several blocks");
                split.record(None, partials).to_vec()
            }
            (Way::Fast(plan), None) => vec![fast::record(gemm, plan)],
            (Way::Units(plan), _) => {
                let units = units::wanted(traits).expect("matrix units are wanted");
                units::record(gemm, units, plan, partials)
            }
            (Way::Halves(plan), _) => {
                let units = halves::wanted(traits).expect("matrix units are wanted");
                halves::record(gemm, split.expect("factors that are split"), units, plan, partials)
            }
        }
    }

    /// What is chosen among the ways that give the same bits, in words that tell any two apart.
    pub fn name(&self) -> String {
        match self {
            Way::Alone => "alone".to_owned(),
            Way::Exact { tile, split: false } => fast_name(tile),
            Way::Exact { tile, split: true } => format!("{}, blocks apart", fast_name(tile)),
            Way::Fast(plan) => fast_name(&plan.tile),
            Way::Units(plan) => unit_name(&plan.tile),
            Way::Halves(plan) => halves_name(&plan.tile),
        }
    }

    /// What the bits depend on, beside the product.
    fn sums(&self, problem: &Problem) -> String {
        match self {
            Way::Alone | Way::Exact { .. } => "exact".to_owned(),
            Way::Fast(plan) => format!("fused in {} of {}", plan.blocks(problem), plan.block_terms),
            Way::Units(plan) => format!("units in {} of {}", plan.blocks(problem), plan.block_terms),
            Way::Halves(plan) => {
                let HalvesTile { chunk, low_shift, .. } = plan.tile;
                let (blocks, terms) = (plan.blocks(problem), plan.block_terms);
                format!("halves in {blocks} of {terms}, chunks of {chunk}, shift {low_shift}")
            }
        }
    }
}

// Every field that tells two tiles apart is named.

fn fast_name(tile: &FastTile) -> String {
    let FastTile { rows, columns, row_quads, column_quads, step, .. } = tile;
    let FastTile { shares, near_across, band, unrolled, order, .. } = tile;
    format!(
        "{rows}x{columns} by {row_quads}x{column_quads} quads, {shares}x{step} terms, unrolled {unrolled}, \
         near {near_across}, band {band}, {order:?}"
    )
}

fn unit_name(tile: &UnitTile) -> String {
    let UnitTile { rows, columns, part_rows, part_columns, step, band } = tile;
    format!("{rows}x{columns} by {part_rows}x{part_columns}, {step} terms, band {band}")
}

fn halves_name(tile: &HalvesTile) -> String {
    let HalvesTile { rows, columns, part_rows, part_columns, step, shares, chunk, low_shift, ahead, band } =
        tile;
    let ahead = if *ahead { ", ahead" } else { "" };
    format!(
        "{rows}x{columns} by {part_rows}x{part_columns}, {shares}x{step} terms, chunks of {chunk}, \
         shift {low_shift}{ahead}, band {band}"
    )
}

/// True if the exact kernels may sum a product's blocks apart.
fn may_split(gemm: &Gemm, traits: &Traits, room: bool) -> bool {
    let blocks = gemm.k.div_ceil(K_BLOCK);
    room && traits.fast_shared_memory
        && is_alone(gemm)
        && blocks > 1
        && blocks * gemm.m * gemm.n <= MAX_EXACT_PARTIAL_WORDS
}

/// [`Tunable::key`](super::Tunable::key) of a product whose best way by the estimates this is.
pub(super) fn key(gemm: &Gemm, way: &Way) -> String {
    let problem = gemm.problem();
    let Problem { m, k, n, use_bias, a, b, c, batch_inner, batches, causal } = problem;
    let letter = |trans| if trans { 't' } else { 'n' };
    let mut text = format!("{m}x{k}x{n} {}{}", letter(a.trans), letter(b.trans));
    if batches > 1 {
        text += &format!(" x{}x{batch_inner}", batches / batch_inner);
    }
    text += &format!(", rows of {} {} {}", a.ld, b.ld, c.ld);
    text += match causal {
        Causal::None => "",
        Causal::LowerOutput => ", lower result",
        Causal::LowerA => ", lower factor",
        Causal::UpperA => ", upper factor",
        Causal::Blocks => ", blocks",
    };
    for (name, matrix) in [("a", &gemm.a), ("b", &gemm.b), ("c", &gemm.c)] {
        let unit = unit_of_moves(matrix);
        let packed = if matrix.packed { " packed" } else { "" };
        if unit < 8 || matrix.packed {
            text += &format!(", {name}{packed} by {unit}");
        }
    }
    if use_bias {
        text += ", bias";
    }
    format!("{text}, {}", way.sums(&problem))
}

/// Elements that all rows of a matrix start at a multiple of: 8, 4 or 1.
fn unit_of_moves(matrix: &Matrix) -> usize {
    [8, 4].into_iter().find(|unit| matrix.layout.rows_start_at(*unit)).unwrap_or(1)
}
