//! Products outside the exact contract: f32 by fused multiply-add, or 16-bit factors on matrix units.

mod plan;
mod tiles;

pub use plan::Plan;
pub use tiles::{Kind, Tile};

use super::interface;
use super::{Causal, Gemm, Matrix, Side};
use crate::kernels::{self, gemm_f16, gemm_fast};
use crate::recording::{Dispatch, Factor};

/// What gradients are multiplied by before they are rounded to [`Factor::F16`], whose smallest normal number is
/// 2^-14: so gradients keep all of their significand down to 2^-28, and something down to 2^-38. They may be as
/// large as 4; larger ones count as 4.
const GRADIENT_SCALE: f32 = (1 << 14) as f32;

/// One dispatch. A product of [`Causal::Blocks`] has a batch for each `block_terms` terms.
///
/// Panics if the numbers contradict each other or the views: a program's fault, never a user's.
pub fn record(gemm: &Gemm, plan: &Plan) -> Dispatch {
    let problem = gemm.problem();
    let elements = |matrix: &Matrix| matrix.view.words * if matrix.packed { 2 } else { 1 };
    let bias_words = gemm.bias.map_or(0, |bias| bias.words);
    problem.check(elements(&gemm.a), elements(&gemm.b), elements(&gemm.c), bias_words);
    assert!(
        gemm.causal != Causal::Blocks || problem.batches == plan.blocks(&problem),
        "a batch for each block: {problem:?}"
    );
    assert!(!gemm.c.packed, "the result is 32-bit");
    match plan.tile.kind {
        Kind::Plain { .. } => record_plain(gemm, plan),
        Kind::Matrix { .. } => record_matrix(gemm, plan),
    }
}

fn record_plain(gemm: &Gemm, plan: &Plan) -> Dispatch {
    use gemm_fast::{Bindings, Push, Specialization, dispatch};
    let Kind::Plain { row_quads, column_quads, near_across, unrolled } = plan.tile.kind else {
        unreachable!("the caller has looked");
    };
    assert!(!gemm.a.packed && !gemm.b.packed, "`gemm_fast` reads 32-bit factors");
    let push = [interface::push(&gemm.problem()).to_bytes(), bytes(plan.block_terms)].concat();
    let own = [row_quads, column_quads, plan.tile.step, plan.tile.shares, near_across, unrolled];
    let words = specialization(gemm, plan, &own);
    let (a, b, c) = (gemm.a.view, gemm.b.view, gemm.c.view);
    // Something must be bound where there is no bias; it is not read.
    let bindings = Bindings { a, b, c, bias: gemm.bias.unwrap_or(b) };
    dispatch(Push::from_bytes(&push), Specialization::from_words(&words), bindings, groups(gemm, plan))
}

fn record_matrix(gemm: &Gemm, plan: &Plan) -> Dispatch {
    use gemm_f16::{Bindings, Push, Specialization, dispatch};
    let Kind::Matrix { part_rows, part_columns, units } = plan.tile.kind else {
        unreachable!("the caller has looked");
    };
    let scale = |side: Side, matrix: &Matrix| {
        let scaled = units.factor == Factor::F16 && gemm.gradient == Some(side) && !matrix.packed;
        if scaled { GRADIENT_SCALE } else { 1.0 }
    };
    let (a_scale, b_scale) = (scale(Side::A, &gemm.a), scale(Side::B, &gemm.b));
    let scales = [a_scale, b_scale, 1.0 / (a_scale * b_scale)];
    let push = [
        interface::push(&gemm.problem()).to_bytes(),
        bytes(plan.block_terms),
        scales.iter().flat_map(|scale| scale.to_ne_bytes()).collect(),
    ];
    let (a_packed, b_packed) = (gemm.a.packed.into(), gemm.b.packed.into());
    let scaled = usize::from(scales != [1.0; 3]);
    let invocations = plan.tile.invocations();
    let tile = plan.tile;
    let side = units.side as usize;
    let matrices = [part_rows / side, part_columns / side];
    let rest = [tile.step, tile.shares, a_packed, b_packed, scaled, side, invocations];
    let own = [&matrices[..], &rest].concat();
    let words = specialization(gemm, plan, &own);
    let (a, b, c) = (gemm.a.view, gemm.b.view, gemm.c.view);
    // Something must be bound where there is no bias; it is not read.
    let bindings = Bindings { a, b, c, bias: gemm.bias.unwrap_or(b) };
    let (push, words) = (Push::from_bytes(&push.concat()), Specialization::from_words(&words));
    let recorded = dispatch(push, words, bindings, groups(gemm, plan));
    // The kernels of the two types differ in nothing that is said here; a test holds this.
    match units.factor {
        Factor::F16 => recorded,
        Factor::Bf16 => Dispatch { kernel: kernels::Kernel::GemmBf16, ..recorded },
    }
}

fn groups(gemm: &Gemm, plan: &Plan) -> [u32; 3] {
    plan.workgroups(&gemm.problem()).map(|count| {
        assert!(count <= 65_535, "a product of {count} workgroups in a row: {:?}", gemm.problem());
        count as u32
    })
}

fn word(number: usize) -> u32 {
    u32::try_from(number).expect("a product's numbers fit 32 bits")
}

fn bytes(number: usize) -> Vec<u8> {
    word(number).to_ne_bytes().to_vec()
}

/// The specialization constants' values: those of all fast kernels, then a kernel's `own`, then the workgroup's
/// size.
fn specialization(gemm: &Gemm, plan: &Plan, own: &[usize]) -> Vec<u32> {
    let (problem, tile) = (gemm.problem(), plan.tile);
    let wide = |matrix: &Matrix| {
        let unit = if matrix.packed { 8 } else { 4 };
        let layout = matrix.layout;
        [layout.first, layout.ld, layout.outer, layout.inner].iter().all(|step| step.is_multiple_of(unit))
    };
    let wide = [&gemm.a, &gemm.b, &gemm.c].map(wide);
    let whole = problem.m.is_multiple_of(tile.rows)
        && problem.n.is_multiple_of(tile.columns)
        && problem.k.is_multiple_of(tile.step)
        && wide == [true; 3];
    let [wide_a, wide_b, wide_c] = wide.map(u32::from);
    let mut words = vec![problem.a.trans.into(), problem.b.trans.into(), wide_a, wide_b, wide_c];
    words.extend([word(tile.rows), word(tile.columns), whole.into(), word(tile.band)]);
    words.extend(own.iter().map(|&number| word(number)));
    words.push(word(tile.invocations()));
    words
}

#[cfg(test)]
mod tests {
    use crate::kernels::Kernel::{self, Gemm, GemmBf16, GemmF16, GemmFast};

    /// What is passed as plain words arrives where it is meant to.
    #[test]
    fn the_kernels_share_their_numbers() {
        let names = |kernel: Kernel| kernel.specialization().iter().map(|c| c.name).collect::<Vec<_>>();
        let shared =
            ["trans_a", "trans_b", "wide_a", "wide_b", "wide_c", "tile_rows", "tile_columns", "whole"];
        for kernel in [GemmFast, GemmF16] {
            assert_eq!(kernel.push_members()[..18], *Gemm.push_members(), "{}", kernel.name());
            assert_eq!(kernel.push_members()[18].name, "block_terms");
            assert_eq!(names(kernel)[..8], shared, "{}", kernel.name());
            assert_eq!(names(kernel)[8], "band");
        }
        assert_eq!(
            names(GemmFast)[9..],
            ["row_quads", "column_quads", "step", "shares", "near_across", "unrolled", "local_size_x"]
        );
        assert_eq!(
            names(GemmF16)[9..],
            [
                "row_matrices",
                "column_matrices",
                "step",
                "shares",
                "a_packed",
                "b_packed",
                "scaled",
                "side",
                "invocations",
                "local_size_x"
            ]
        );
        let scales: Vec<_> = GemmF16.push_members()[19..].iter().map(|member| member.name).collect();
        assert_eq!(scales, ["a_scale", "b_scale", "c_scale"]);
        assert_eq!(GemmBf16.specialization(), GemmF16.specialization());
        assert_eq!(GemmBf16.push_members(), GemmF16.push_members());
        assert_eq!(GemmBf16.bindings(), GemmF16.bindings());
    }
}
