//! Kernels that move eight elements at a time, as four words of 64 bits, in the place of those that move one:
//! for CPU-type devices, and shapes in eights. Same push constants, same bindings, same bits.

use super::column_sum::COLUMN_LANES;
use super::grid::flat_groups;
use super::{accumulate, adam, column_sum, dropout, embedding, gelu, layernorm, reduce, residual, softmax};
use crate::exact::ROW_LANES;
use crate::kernels::{self, Kernel};
use crate::recording::{Dispatch, Traits};

/// Elements of the longest row that is left to one invocation: it takes 32 of them at a step, and software
/// drivers end an invocation after 65,535 steps of its loops.
const LONGEST_ROW: usize = 1 << 18;

/// Rows that a column sum may have: 64 of them are one step.
const MOST_ROWS: usize = 1 << 21;

/// The dispatch, or the one that is to be recorded for a device of these traits in its place.
pub fn in_place_of(dispatch: Dispatch, traits: &Traits) -> Dispatch {
    let wide = if traits.wants_eights() { eights(&dispatch) } else { None };
    match wide {
        None => dispatch,
        Some((kernel, invocations)) => Dispatch {
            kernel,
            specialization: Vec::new(),
            groups: flat_groups(invocations, kernel.local_size()[0]),
            ..dispatch
        },
    }
}

/// The kernel of eights that does what a dispatch does, and how many invocations it takes.
fn eights(dispatch: &Dispatch) -> Option<(Kernel, usize)> {
    let push = |member: &str| {
        let members = dispatch.kernel.push_members();
        let offset = members.iter().find(|m| m.name == member).expect("the kernel has it").offset as usize;
        let bytes = dispatch.push[offset..][..4].try_into().expect("four bytes");
        u32::from_ne_bytes(bytes) as usize
    };
    let elements = |kernel, count: usize| count.is_multiple_of(8).then_some((kernel, count / 8));
    let row = |kernel, rows, width: usize| {
        (width.is_multiple_of(ROW_LANES) && width <= LONGEST_ROW).then_some((kernel, rows))
    };
    let columns = |kernel, rows, columns: usize| {
        elements(kernel, columns).filter(|_| rows <= MOST_ROWS).map(|(k, eights)| (k, COLUMN_LANES * eights))
    };
    match dispatch.kernel {
        Kernel::Accumulate => elements(Kernel::AccumulateEights, push("count")),
        Kernel::Dropout => elements(Kernel::DropoutEights, push("count")),
        Kernel::EmbeddingForward => elements(Kernel::EmbeddingForwardEights, push("d_model"))
            .map(|(kernel, eights)| (kernel, push("num_positions") * eights)),
        Kernel::GeluForward => elements(Kernel::GeluForwardEights, push("count")),
        Kernel::GeluBackward => elements(Kernel::GeluBackwardEights, push("count")),
        Kernel::ResidualAdd => elements(Kernel::ResidualAddEights, push("count")),
        Kernel::AdamUpdate => elements(Kernel::AdamUpdateEights, push("num_params")),
        Kernel::ColumnFinish => elements(Kernel::ColumnFinishEights, push("columns")),
        Kernel::ColumnPartials => columns(Kernel::ColumnPartialsEights, push("rows"), push("columns")),
        Kernel::LayernormBackwardParams => {
            columns(Kernel::LayernormBackwardParamsEights, push("num_positions"), push("d_model"))
        }
        Kernel::LayernormForward => {
            row(Kernel::LayernormForwardEights, push("num_positions"), push("d_model"))
        }
        Kernel::LayernormBackward => {
            row(Kernel::LayernormBackwardEights, push("num_positions"), push("d_model"))
        }
        Kernel::SoftmaxForward => row(Kernel::SoftmaxForwardEights, push("rows"), push("context")),
        Kernel::SoftmaxBackward if push("d_head").is_multiple_of(8) => {
            row(Kernel::SoftmaxBackwardEights, push("rows"), push("context"))
        }
        // A row at the end may be shorter.
        Kernel::ReduceSum if push("row_length").is_multiple_of(ROW_LANES) => {
            let rows = push("count").div_ceil(push("row_length"));
            elements(Kernel::ReduceSumEights, push("count")).map(|(kernel, _)| (kernel, rows))
        }
        _ => None,
    }
}

/// A kernel's twin is that of the kernel in whose place it stands.
macro_rules! twins {
    ($(pub fn $eights:ident($module:ident::$plain:ident: $($binding:ident),*);)*) => {$(
        #[doc = concat!("Twin of shaders/", stringify!($eights), ".comp.")]
        pub fn $eights(a: kernels::$eights::Args) {
            $module::$plain(kernels::$plain::Args {
                push: kernels::$plain::Push::from_bytes(&a.push.to_bytes()),
                specialization: Default::default(),
                groups: a.groups,
                $($binding: a.$binding,)*
            });
        }
    )*};
}

twins! {
    pub fn accumulate_eights(accumulate::accumulate: addend, sum);
    pub fn dropout_eights(dropout::dropout: input, step_number, output);
    pub fn embedding_forward_eights(embedding::embedding_forward: tokens, wte, wpe, output);
    pub fn gelu_forward_eights(gelu::gelu_forward: input, output);
    pub fn gelu_backward_eights(gelu::gelu_backward: input, gradient);
    pub fn residual_add_eights(residual::residual_add: stream, branch, output);
    pub fn adam_update_eights(adam::adam_update: params, grads, m, v, schedule, factor, spoiled);
    pub fn column_partials_eights(column_sum::column_partials: input, partials);
    pub fn column_finish_eights(column_sum::column_finish: partials, output);
    pub fn reduce_sum_eights(reduce::reduce_sum: input, output);
    pub fn layernorm_forward_eights(layernorm::layernorm_forward: input, output, gamma, beta, stats);
    pub fn layernorm_backward_eights(layernorm::layernorm_backward: d_output, input, gamma, stats, d_input);
    pub fn layernorm_backward_params_eights(
        layernorm::layernorm_backward_params: d_output, input, stats, partials
    );
    pub fn softmax_forward_eights(softmax::softmax_forward: input, output);
    pub fn softmax_backward_eights(softmax::softmax_backward: probs, output, d_output, gradient);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_of_eights_are_told_what_the_others_are() {
        let mut pairs = 0;
        for eights in Kernel::ALL {
            let Some(name) = eights.name().strip_suffix("_eights") else { continue };
            let plain = Kernel::from_name(name).expect("a kernel in whose place it stands");
            assert_eq!(eights.push_members(), plain.push_members(), "{name}");
            let bindings = |kernel: Kernel| {
                kernel.bindings().iter().map(|b| (b.name, b.element, b.access.writes())).collect::<Vec<_>>()
            };
            assert_eq!(bindings(*eights), bindings(plain), "{name}");
            pairs += 1;
        }
        assert_eq!(pairs, 15);
    }
}
