//! The operations a model is made of. Each file holds one: its shape checks, the dispatches it
//! records, and the CPU twins of its kernels.

pub mod accumulate;
pub mod adam;
pub mod admission;
pub mod attention;
pub mod column_sum;
pub mod cross_entropy;
pub mod dropout;
pub mod embedding;
pub mod exact_probe;
pub mod gelu;
pub mod gemm;
pub mod grid;
pub mod layernorm;
pub mod reduce;
pub mod residual;
pub mod rows;
pub mod softmax;

use crate::ops::gemm::{Gemm, Split};
use crate::recording::{BufferId, Dispatch, Program, RecordingId, Traits, View, align_words};

/// Words that the partial sums of products rotate through, so that neighbours do not wait for each other.
const PARTIAL_WORDS: usize = 1 << 24;

/// Collects dispatches in the order they are to take effect.
pub struct Recorder {
    /// What may be known of the device.
    pub traits: Traits,
    /// What was recorded so far.
    pub dispatches: Vec<Dispatch>,
    /// The buffer for partial sums of products, where the next ones go, and how long it must be.
    partials: Option<BufferId>,
    next_partial: usize,
    partial_words: usize,
}

impl Recorder {
    /// An empty recorder. Without a buffer for partial sums, no product is split.
    pub fn new(traits: Traits, partials: Option<BufferId>) -> Recorder {
        Recorder { traits, dispatches: Vec::new(), partials, next_partial: 0, partial_words: 0 }
    }

    /// Adds a matrix product, in two dispatches where that keeps the device busier.
    pub fn multiply(&mut self, gemm: &Gemm) {
        let split = self.partials.and_then(|buffer| Some((buffer, Split::new(gemm, &self.traits)?)));
        let Some((buffer, split)) = split else {
            return self.add(gemm.record(&self.traits));
        };
        let words = split.partial_words();
        if self.next_partial + words > PARTIAL_WORDS {
            self.next_partial = 0;
        }
        let partials = View { buffer, offset: self.next_partial, words };
        self.next_partial += align_words(words);
        self.partial_words = self.partial_words.max(self.next_partial);
        self.dispatches.extend(split.record(None, partials));
    }

    /// Adds what was recorded to a program.
    pub fn finish(self, program: &mut Program, name: &str) -> RecordingId {
        if let Some(partials) = self.partials {
            program.lengthen(partials, self.partial_words);
        }
        program.add_recording(name, self.dispatches)
    }

    /// Adds a dispatch after those before.
    pub fn add(&mut self, dispatch: Dispatch) {
        self.dispatches.push(dispatch);
    }
}

/// One function an exact kernel, named as its shader: what the CPU executor runs in its place.
pub mod twin {
    pub use super::accumulate::accumulate;
    pub use super::adam::{adam_update, clip};
    pub use super::column_sum::{column_finish, column_partials};
    pub use super::cross_entropy::{cross_entropy, cross_entropy_backward};
    pub use super::dropout::dropout;
    pub use super::embedding::{embedding_backward, embedding_forward, position_backward};
    pub use super::exact_probe::exact_probe;
    pub use super::gelu::{gelu_backward, gelu_forward};
    pub use super::gemm::{gemm, gemm_backward, gemm_backward_tiled, gemm_finish, gemm_tiled};
    pub use super::layernorm::{layernorm_backward, layernorm_backward_params, layernorm_forward};
    pub use super::reduce::reduce_sum;
    pub use super::residual::residual_add;
    pub use super::softmax::{softmax_backward, softmax_forward};
}
