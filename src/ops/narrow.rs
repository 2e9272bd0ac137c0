//! Operations on tensors kept in 16 bits, for devices whose matrix units are used; not of the exact contract.

use super::grid::flat_groups;
use super::layernorm::LayerNorm;
use super::tensor::Tensor;
use super::{Recorder, word};
use crate::kernels::{
    column_partials_narrow, column_totals, layernorm_add_narrow, layernorm_backward_narrow,
    layernorm_finish_narrow, layernorm_narrow,
};
use crate::recording::{Dispatch, Factor, MatrixUnits, Traits, View};

/// Workgroups that share the rows of LayerNorm's backward pass, each of which leaves sums over its rows.
const BACKWARD_GROUPS: usize = 256;

/// Workgroups that share the rows of its forward pass, at most.
const FORWARD_GROUPS: usize = 2048;

/// Parts that the rows are summed in, to be added up then: enough to keep a GPU busy.
const COLUMN_PARTS: usize = 256;

/// Invocations of a workgroup of the kernels that give a row to a subgroup.
const ROW_INVOCATIONS: usize = 256;

/// Words of scratch that [`layernorm_backward`] leaves sums in.
pub const fn norm_scratch_words(d_model: usize) -> usize {
    // One row more, for a sum that nobody wants.
    (BACKWARD_GROUPS * 3 + 1) * d_model
}

/// True if tensors of rows of so many elements can be kept in 16 bits.
pub fn fits(row: usize) -> bool {
    row.is_multiple_of(8)
}

/// `output[c]` = sum over rows of a gradient `[N,C]`; `partials` has [`column_sum_words`].
pub fn column_sum(r: &mut Recorder, input: Tensor, output: View, partials: View) {
    let columns = output.words;
    assert!(columns.is_multiple_of(8), "columns in eights");
    let rows = input.len / columns;
    let parts = rows.min(COLUMN_PARTS);
    let partials = partials.part(0, parts * columns);
    r.add(column_partials_narrow::dispatch(
        column_partials_narrow::Push { rows: word(rows), columns: word(columns), parts: word(parts) },
        column_partials_narrow::Specialization { f16: f16(&r.traits) },
        column_partials_narrow::Bindings { input: input.view, partials },
        flat_groups(partials.words / 8, 64),
    ));
    r.add(column_totals(partials, parts, output));
}

/// Words of scratch that [`column_sum`] leaves sums in.
pub const fn column_sum_words(columns: usize) -> usize {
    COLUMN_PARTS * columns
}

/// output `[C]`: the sums of the columns of partials `[parts,C]`.
pub(crate) fn column_totals(partials: View, parts: usize, output: View) -> Dispatch {
    column_totals::dispatch(
        column_totals::Push { parts: word(parts), columns: word(output.words) },
        Default::default(),
        column_totals::Bindings { partials, output },
        [word(output.words.div_ceil(32)), 1, 1],
    )
}

/// output = norm(stream + branch), with the sum in `sum`; without a branch, norm(stream).
pub fn layernorm_forward(
    r: &mut Recorder,
    norm: &LayerNorm,
    stream: View,
    added: Option<(Tensor, View)>,
    output: Tensor,
) {
    let rows = stream.words / norm.d_model;
    let (quads_here, f16) = (quads_here(norm.d_model, &r.traits), f16(&r.traits));
    let (num_positions, d_model) = (word(rows), word(norm.d_model));
    let (eps, inv_d_model) = (norm.eps, norm.inv_d_model());
    let LayerNorm { gamma, beta, stats, .. } = *norm;
    let groups = row_groups(rows);
    let (input, output) = (stream, output.view);
    r.add(match added {
        None => layernorm_narrow::dispatch(
            layernorm_narrow::Push { num_positions, d_model, eps, inv_d_model },
            layernorm_narrow::Specialization { quads_here, f16 },
            layernorm_narrow::Bindings { input, output, gamma, beta, stats },
            groups,
        ),
        Some((branch, sum)) => layernorm_add_narrow::dispatch(
            layernorm_add_narrow::Push { num_positions, d_model, eps, inv_d_model },
            layernorm_add_narrow::Specialization { quads_here, f16, branch_narrow: branch.narrow.into() },
            layernorm_add_narrow::Bindings { input, output, gamma, beta, stats, branch: branch.view, sum },
            groups,
        ),
    });
}

/// What LayerNorm's backward pass writes.
#[derive(Clone, Copy)]
pub struct NormGradients {
    /// `[N,C]`, in 32 bits: stored, or added to what it holds if `add_residual`.
    pub d_input: View,
    /// See `d_input`.
    pub add_residual: bool,
    /// The same in 16 bits.
    pub narrow: Tensor,
    /// `[C]`: the gain's gradient.
    pub d_gamma: View,
    /// `[C]`: the bias's gradient.
    pub d_beta: View,
    /// `[C]`: the sum of d_input over the positions, which is the gradient of a bias added to the input.
    pub column_sum: Option<View>,
}

/// Gradients from d_output `[N,C]`; `scratch` has [`norm_scratch_words`].
pub fn layernorm_backward(
    r: &mut Recorder,
    norm: &LayerNorm,
    input: View,
    d_output: Tensor,
    gradients: &NormGradients,
    scratch: View,
) {
    let (rows, d_model) = (input.words / norm.d_model, norm.d_model);
    let NormGradients { d_input, add_residual, narrow, d_gamma, d_beta, column_sum } = *gradients;
    let groups = rows.div_ceil(ROW_INVOCATIONS / 32).min(BACKWARD_GROUPS);
    let partials = scratch.part(0, groups * 3 * d_model);
    r.add(layernorm_backward_narrow::dispatch(
        layernorm_backward_narrow::Push {
            num_positions: word(rows),
            d_model: word(d_model),
            inv_d_model: norm.inv_d_model(),
            add_residual: add_residual.into(),
        },
        layernorm_backward_narrow::Specialization {
            quads_here: quads_here(d_model, &r.traits),
            quads: word(d_model / 4),
            f16: f16(&r.traits),
        },
        layernorm_backward_narrow::Bindings {
            d_output: d_output.view,
            input,
            gamma: norm.gamma,
            stats: norm.stats,
            d_input,
            narrow: narrow.view,
            partials,
        },
        [word(groups), 1, 1],
    ));
    let unwanted = scratch.part(scratch.words - d_model, d_model);
    r.add(layernorm_finish_narrow::dispatch(
        layernorm_finish_narrow::Push { groups: word(groups), d_model: word(d_model) },
        Default::default(),
        layernorm_finish_narrow::Bindings {
            partials,
            d_gamma,
            d_beta,
            d_bias: column_sum.unwrap_or(unwanted),
        },
        [word(d_model.div_ceil(32)), if column_sum.is_some() { 3 } else { 2 }, 1],
    ));
}

/// Workgroups that give a row at a time to a subgroup.
pub(super) fn row_groups(rows: usize) -> [u32; 3] {
    [word(rows.div_ceil(ROW_INVOCATIONS / 32).min(FORWARD_GROUPS)), 1, 1]
}

/// The constant F16 of `shaders/include/packed.glsl`.
pub(super) fn f16(traits: &Traits) -> u32 {
    (units(traits).factor == Factor::F16).into()
}

fn quads_here(d_model: usize, traits: &Traits) -> u32 {
    word((d_model / 4).div_ceil(units(traits).subgroup_size as usize))
}

fn units(traits: &Traits) -> MatrixUnits {
    traits.matrix_units.expect("tensors are kept in 16 bits for matrix units")
}
