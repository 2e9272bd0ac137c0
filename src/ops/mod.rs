//! The operations a model is made of. Each file holds one: its shape checks, the dispatches it
//! records, and the CPU twins of its kernels.

pub mod accumulate;
pub mod adam;
pub mod admission;
pub mod attention;
pub mod column_sum;
pub mod compare;
pub mod cross_entropy;
pub mod dropout;
pub mod eights;
pub mod embedding;
pub mod exact_probe;
pub mod gelu;
pub mod gemm;
pub mod grid;
pub mod layernorm;
mod levels;
pub mod narrow;
pub mod pack;
mod recorder;
pub mod reduce;
pub mod residual;
pub mod rows;
pub mod softmax;
pub mod split;
pub mod tensor;
pub mod trial;
mod trial_attention;

pub use recorder::Recorder;

/// A size or a count as kernels are told it: no model that hlx trains has a tensor of more elements than 31
/// bits count.
fn word(number: usize) -> u32 {
    u32::try_from(number).expect("what a kernel is told fits 32 bits")
}

/// One function an exact kernel, named as its shader: what the CPU executor runs in its place.
pub mod twin {
    pub use super::accumulate::accumulate;
    pub use super::adam::{adam_update, clip};
    pub use super::column_sum::{column_finish, column_partials};
    pub use super::cross_entropy::{cross_entropy, cross_entropy_backward};
    pub use super::dropout::dropout;
    pub use super::eights::{
        accumulate_eights, adam_update_eights, column_finish_eights, column_partials_eights, dropout_eights,
        embedding_forward_eights, gelu_backward_eights, gelu_forward_eights, layernorm_backward_eights,
        layernorm_backward_params_eights, layernorm_forward_eights, reduce_sum_eights, residual_add_eights,
        softmax_backward_eights, softmax_forward_eights,
    };
    pub use super::embedding::{embedding_backward, embedding_forward, position_backward};
    pub use super::exact_probe::exact_probe;
    pub use super::gelu::{gelu_backward, gelu_forward};
    pub use super::gemm::{
        gemm, gemm_addressed, gemm_backward, gemm_backward_tiled, gemm_finish, gemm_tiled,
    };
    pub use super::layernorm::{layernorm_backward, layernorm_backward_params, layernorm_forward};
    pub use super::reduce::reduce_sum;
    pub use super::residual::residual_add;
    pub use super::softmax::{softmax_backward, softmax_forward};
}
