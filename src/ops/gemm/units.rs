//! Products on matrix units that a subgroup at a time multiplies with, and how they are cut up.
//!
//! The order of a sum follows from the product's shape alone, so results are the same on every run.

use super::blocks::{finish, in_blocks};
use super::interface;
use super::plan::{Plan, finishing_cycles, most_blocks, rounds};
use super::problem::{Causal, Layout, Problem};
use super::{After, Gemm, Matrix};
use crate::kernels::Kernel;
use crate::kernels::gemm_f16::{Push, Specialization};
use crate::kernels::gemm_finish_packed;
use crate::ops::grid::flat_groups;
use crate::ops::narrow;
use crate::precision::Precision;
use crate::recording::{Dispatch, Factor, MatrixUnits, Traits, VIEW_ALIGNMENT_WORDS, View, align_words};

/// How a workgroup of `gemm_bf16` or `gemm_f16` works on its tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitTile {
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
    /// Rows of tiles that are worked on at a time.
    pub band: usize,
}

impl UnitTile {
    /// A tile of these sizes, parted so.
    pub const fn new([rows, columns]: [usize; 2], [part_rows, part_columns]: [usize; 2]) -> UnitTile {
        UnitTile { rows, columns, part_rows, part_columns, step: 32, band: 8 }
    }

    fn subgroups(&self) -> usize {
        self.rows / self.part_rows * (self.columns / self.part_columns)
    }

    /// Workgroups that a processor holds at a time, by the registers that their sums take in subgroups of 32.
    fn resident(&self) -> usize {
        const REGISTERS: usize = 1 << 16;
        let of_an_invocation = 70 + self.part_rows * self.part_columns / 24;
        (REGISTERS / (32 * self.subgroups() * of_an_invocation)).max(1)
    }

    /// Lines and eights of a line that a share of each factor lies in in shared memory: A's, then B's.
    fn lines(&self, [a_trans, b_trans]: [bool; 2], units: MatrixUnits) -> [[usize; 2]; 2] {
        [(self.rows, a_trans), (self.columns, !b_trans)].map(|(along, stored_along)| {
            let (lines, octs) = if stored_along { (self.step, along / 8) } else { (along, self.step / 8) };
            let fold = (8 / octs).clamp(1, lines / units.side as usize);
            [lines / fold, octs * fold]
        })
    }

    /// True if the invocations fill the shares evenly; the kernel can do nothing else.
    pub fn is_even(&self, trans: [bool; 2], units: MatrixUnits) -> bool {
        let invocations = self.subgroups() * units.subgroup_size as usize;
        let side = units.side as usize;
        let small = |along: usize| (along / side).is_power_of_two() && along <= 4 * side;
        let even = self.lines(trans, units).iter().all(|[lines, octs]| {
            invocations.is_multiple_of(*octs)
                && (lines * octs).is_multiple_of(invocations)
                && lines.is_multiple_of(side)
        });
        even && small(self.part_rows) && small(self.part_columns) && self.step <= 4 * side
    }

    /// Bytes of a workgroup's shared memory.
    pub fn shared_bytes(&self, trans: [bool; 2], units: MatrixUnits) -> u64 {
        let share: usize = self.lines(trans, units).iter().map(|[lines, octs]| lines * (octs + 1)).sum();
        let side = units.side as usize;
        let across = if (self.part_columns / side).is_multiple_of(2) { 2 } else { 1 };
        let staging = self.subgroups() * side * (across * side / 4 + 2);
        (16 * share.max(staging)) as u64
    }
}

/// The tiles to choose from, best first.
pub const TILES: [UnitTile; 4] = [
    UnitTile::new([128, 128], [64, 64]),
    UnitTile::new([64, 128], [32, 64]),
    UnitTile::new([128, 64], [64, 32]),
    UnitTile::new([64, 64], [32, 32]),
];

/// How a product is computed.
pub type UnitPlan = Plan<UnitTile>;

/// The device that plans are made for, an NVIDIA H100: the products that a processor adds up in a cycle in
/// the largest tile, and the cycles that a workgroup and an element of its result take beside their work.
const PRODUCTS_A_CYCLE: f64 = 690.0;
const CYCLES_A_US: f64 = 1755.0;
const WORKGROUP_CYCLES: f64 = 2000.0;
const CYCLES_A_RESULT: f64 = 0.25;

/// Of products of less work, packing takes longer than it saves.
const MIN_PACKED_FLOPS: u64 = 1 << 29;

/// What gradients are multiplied by before they are rounded to [`Factor::F16`], whose smallest normal
/// number is 2^-14: so gradients keep all of their significand down to 2^-28, and something down to 2^-38.
/// They may be as large as 4; larger ones count as 4.
pub const GRADIENT_SCALE: f32 = (1 << 14) as f32;

impl UnitPlan {
    /// The plan that takes the least time by a rough estimate; `may_split` if the sums may be cut up.
    pub fn best(problem: &Problem, units: MatrixUnits, may_split: bool) -> UnitPlan {
        let most = if may_split { most_blocks(problem) } else { 1 };
        let trans = [problem.a.trans, problem.b.trans];
        let tiles = TILES.into_iter().filter(|tile| tile.is_even(trans, units));
        let fastest = UnitPlan::fastest(problem, tiles, most, |plan| plan.cycles(problem));
        fastest.expect("the smallest tile is possible everywhere")
    }

    /// The plans of other tiles that sum in the same order, those first that take the least time by the
    /// estimate.
    pub(super) fn same_sums(
        &self,
        problem: &Problem,
        units: MatrixUnits,
        shared_bytes: usize,
    ) -> Vec<UnitPlan> {
        let trans = [problem.a.trans, problem.b.trans];
        let possible = |tile: &UnitTile| {
            tile.is_even(trans, units) && tile.shared_bytes(trans, units) <= shared_bytes as u64
        };
        self.with_tiles(TILES.into_iter().filter(possible), |plan| plan.cycles(problem))
    }

    /// The estimate of the time that the product takes on an NVIDIA H100 or H200.
    pub fn estimate_us(&self, problem: &Problem) -> f64 {
        self.cycles(problem) / CYCLES_A_US
    }

    fn cycles(&self, problem: &Problem) -> f64 {
        let blocks = self.blocks(problem);
        let UnitTile { rows, columns, .. } = self.tile;
        let workgroups = problem.tiles([rows, columns]).iter().product::<usize>() * blocks;
        let products = (rows * columns * self.block_terms.min(problem.k)) as f64;
        // Smaller tiles read more memory for the same work: a quarter of the tile has over half the speed.
        let reuse = 2.0 * (rows * columns) as f64 / (rows + columns) as f64;
        let efficiency = libm::pow((reuse / 128.0).min(1.0), 0.8);
        let one = products / (PRODUCTS_A_CYCLE * efficiency)
            + WORKGROUP_CYCLES
            + CYCLES_A_RESULT * (rows * columns) as f64;
        rounds(workgroups, self.tile.resident()) * one + finishing_cycles(problem, blocks)
    }
}

/// The units that compute products on a device of these traits, if any do.
pub fn wanted(traits: &Traits) -> Option<MatrixUnits> {
    let wanted = traits.wants_fast_kernels() && traits.precision == Precision::Mixed;
    traits.matrix_units.filter(|_| wanted)
}

/// True if a product is faster with its factors packed beforehand, by a dispatch for each that is not yet.
pub fn worth_packing(gemm: &Gemm) -> bool {
    let single = gemm.batch_outer * gemm.batch_inner == 1 && gemm.causal == Causal::None;
    let in_eights =
        |factor: &Matrix| factor.layout.ld.is_multiple_of(8) && factor.layout.first.is_multiple_of(8);
    let both_packed = gemm.a.packed && gemm.b.packed;
    let plain = !both_packed && in_eights(&gemm.a) && in_eights(&gemm.b);
    single && plain && gemm.problem().flops() >= MIN_PACKED_FLOPS
}

/// A product; `partials` has room for [`UnitPlan::partial_words`] if there are any.
///
/// Panics if the numbers contradict each other or the views: a program's fault, never a user's.
pub fn record(gemm: &Gemm, units: MatrixUnits, plan: &UnitPlan, partials: Option<View>) -> Vec<Dispatch> {
    let blocks = plan.blocks(&gemm.problem());
    match partials {
        Some(partials) if blocks > 1 => {
            let finish = if gemm.c.packed {
                finish_packed(gemm, units, blocks, partials)
            } else {
                finish(gemm, blocks, partials)
            };
            vec![one(&in_blocks(gemm, blocks, partials), units, plan), finish]
        }
        _ => {
            let sums = column_totals(gemm, plan);
            [one(gemm, units, plan)].into_iter().chain(sums).collect()
        }
    }
}

/// Words of scratch for the sums of the columns of a result: a row for the rows of a subgroup in the smallest
/// tile, and a view that nothing is written into.
pub const fn column_sum_words(m: usize, n: usize) -> usize {
    const LEAST_ROWS: usize = 16;
    align_words(m.div_ceil(LEAST_ROWS) * n) + VIEW_ALIGNMENT_WORDS
}

/// Adds up the sums of a result's columns over the rows of its subgroups, if they are wanted.
fn column_totals(gemm: &Gemm, plan: &UnitPlan) -> Option<Dispatch> {
    let After::GeluGradient { column_sum, partials, .. } = gemm.after else { return None };
    let parts = gemm.m.div_ceil(plan.tile.part_rows);
    Some(narrow::column_totals(partials.part(0, parts * gemm.n), parts, column_sum))
}

/// The kernel of a product, the views after the first four, and the constants after the last one's.
fn kernel(gemm: &Gemm, units: MatrixUnits, plan: &UnitPlan) -> (Kernel, Vec<View>, Vec<u32>) {
    let f16 = units.factor == Factor::F16;
    let of = |bf16, half| if f16 { half } else { bf16 };
    let rows = Layout { first: 0, ld: gemm.n, outer: 0, inner: 0, trans: false };
    let rows_of_eights = gemm.c.packed && gemm.n.is_multiple_of(8) && gemm.c.layout == rows;
    assert!(gemm.is_plain() || rows_of_eights, "a packed result of rows of eights: {gemm:?}");
    match gemm.after {
        After::Nothing => (of(Kernel::GemmBf16, Kernel::GemmF16), vec![], vec![]),
        After::Gelu { act, again } => {
            assert_eq!(act.words, gemm.c.view.words, "GELU keeps its input's shape");
            (of(Kernel::GemmBf16Gelu, Kernel::GemmF16Gelu), vec![act], vec![again.into()])
        }
        After::GeluGradient { pre, act, partials, .. } => {
            assert_eq!(pre.words, gemm.c.view.words, "GELU's gradient has its input's shape");
            let parts = gemm.m.div_ceil(plan.tile.part_rows);
            let (sums, unused) = (parts * gemm.n, partials.words - VIEW_ALIGNMENT_WORDS);
            let views =
                vec![pre, act.unwrap_or(partials.part(unused, VIEW_ALIGNMENT_WORDS)), partials.part(0, sums)];
            let kernel = of(Kernel::GemmBf16GeluBackward, Kernel::GemmF16GeluBackward);
            (kernel, views, vec![act.is_some().into()])
        }
    }
}

fn one(gemm: &Gemm, units: MatrixUnits, plan: &UnitPlan) -> Dispatch {
    let (problem, tile) = (gemm.problem(), plan.tile);
    let elements = |matrix: &Matrix| matrix.view.words * if matrix.packed { 2 } else { 1 };
    let bias_words = gemm.bias.map_or(0, |bias| bias.words);
    problem.check(elements(&gemm.a), elements(&gemm.b), elements(&gemm.c), bias_words);
    if gemm.c.packed {
        assert_whole_words(gemm);
    }
    let [a_scale, b_scale, out_scale] = [&gemm.a, &gemm.b, &gemm.c].map(|matrix| scale(matrix, units));
    let numbers = interface::push(&problem).to_bytes();
    let scales = [a_scale, b_scale, 1.0 / (a_scale * b_scale), out_scale];
    let held = gemm.c.packed && units.factor == Factor::F16;
    let scale_bytes = scales.iter().flat_map(|scale| scale.to_ne_bytes()).collect::<Vec<u8>>();
    let push = [&numbers[..], &word(plan.block_terms).to_ne_bytes(), &scale_bytes].concat();
    let [wide_a, wide_b, wide_c] = [&gemm.a, &gemm.b, &gemm.c].map(is_wide);
    let whole = problem.m.is_multiple_of(tile.rows)
        && problem.n.is_multiple_of(tile.columns)
        && problem.k.is_multiple_of(tile.step)
        && [wide_a, wide_b, wide_c] == [true; 3];
    let invocations = word(tile.subgroups()) * units.subgroup_size;
    let specialization = Specialization {
        trans_a: problem.a.trans.into(),
        trans_b: problem.b.trans.into(),
        wide_a: wide_a.into(),
        wide_b: wide_b.into(),
        wide_c: wide_c.into(),
        tile_rows: word(tile.rows),
        tile_columns: word(tile.columns),
        whole: whole.into(),
        band: word(tile.band),
        row_matrices: word(tile.part_rows) / units.side,
        column_matrices: word(tile.part_columns) / units.side,
        step: word(tile.step),
        a_packed: gemm.a.packed.into(),
        b_packed: gemm.b.packed.into(),
        scaled: (held || scales != [1.0; 4]).into(),
        side: units.side,
        invocations,
        local_size_x: invocations,
        c_packed: gemm.c.packed.into(),
        spare: may_have_spare_subgroups(units).into(),
    };
    let trans = [problem.a.trans, problem.b.trans];
    assert!(tile.is_even(trans, units), "{tile:?} with {units:?}");
    // The kernels differ in nothing that is said here: a test holds this.
    let (kernel, more_views, more_constants) = kernel(gemm, units, plan);
    // Something must be bound where there is no bias; it is not read.
    let views = [gemm.a.view, gemm.b.view, gemm.c.view, gemm.bias.unwrap_or(gemm.b.view)];
    Dispatch {
        kernel,
        specialization: [specialization.to_words(), more_constants].concat(),
        push: Push::from_bytes(&push).to_bytes(),
        views: [views.to_vec(), more_views].concat(),
        groups: problem.workgroups([tile.rows, tile.columns]),
    }
}

/// False where subgroups are known to be of one size: on devices that have NVIDIA's extensions.
fn may_have_spare_subgroups(units: MatrixUnits) -> bool {
    !units.in_registers && !units.workgroup_scope
}

/// What the elements of a matrix are multiplied by before they are rounded.
fn scale(matrix: &Matrix, units: MatrixUnits) -> f32 {
    let scaled = units.factor == Factor::F16 && matrix.gradient;
    if scaled { GRADIENT_SCALE } else { 1.0 }
}

/// A packed result has no word that is half another's.
fn assert_whole_words(gemm: &Gemm) {
    let Layout { first, ld, outer, inner, .. } = gemm.c.layout;
    let even = [gemm.n, first, ld, outer, inner].iter().all(|number| number.is_multiple_of(2));
    assert!(even, "a packed result has rows of whole words: {gemm:?}");
}

/// Adds up the blocks `[blocks, m, n]` and finishes a product whose result is packed.
fn finish_packed(gemm: &Gemm, units: MatrixUnits, blocks: usize, partials: View) -> Dispatch {
    assert_whole_words(gemm);
    let Gemm { m, n, c, bias, .. } = *gemm;
    gemm_finish_packed::dispatch(
        gemm_finish_packed::Push {
            m: word(m),
            n: word(n),
            blocks: word(blocks),
            use_bias: bias.is_some().into(),
            ldc: word(c.layout.ld),
            c_first: word(c.layout.first),
            gradient: c.gradient.into(),
        },
        gemm_finish_packed::Specialization { f16: (units.factor == Factor::F16).into() },
        // Something must be bound where there is no bias; it is not read.
        gemm_finish_packed::Bindings { partials, bias: bias.unwrap_or(partials), output: c.view },
        flat_groups(m * n / 2, 256),
    )
}

/// True if every stored row starts where as many elements as are moved at a time begin.
fn is_wide(matrix: &Matrix) -> bool {
    matrix.layout.rows_start_at(if matrix.packed { 8 } else { 4 })
}

fn word(number: usize) -> u32 {
    u32::try_from(number).expect("a product's numbers fit 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_share_their_numbers() {
        assert_eq!(Kernel::GemmF16.push_members()[..18], *Kernel::Gemm.push_members());
        let others: Vec<_> = Kernel::GemmF16.push_members()[18..].iter().map(|member| member.name).collect();
        assert_eq!(others, ["block_terms", "a_scale", "b_scale", "c_scale", "out_scale"]);
        let constants = Kernel::GemmF16.specialization().len();
        for kernel in [
            Kernel::GemmBf16,
            Kernel::GemmBf16Gelu,
            Kernel::GemmF16Gelu,
            Kernel::GemmBf16GeluBackward,
            Kernel::GemmF16GeluBackward,
        ] {
            assert_eq!(kernel.push_members(), Kernel::GemmF16.push_members());
            assert_eq!(kernel.specialization()[..constants], *Kernel::GemmF16.specialization());
            assert_eq!(kernel.bindings()[..4], *Kernel::GemmF16.bindings());
        }
    }
}
