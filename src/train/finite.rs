//! NaN and infinity never travel: what is said of a step that met one, and which tensor is named.

use crate::error::Error;
use crate::kernels::Element;
use crate::model::parameters::ParameterSpec;
use crate::ops::adam::{LARGEST_SUM_OF_SQUARES, NONE_SPOILED};
use crate::ops::gemm::unspecified_words;
use crate::recording::{Program, RecordingId, Residence, View};
use crate::train::digest::tensor_name;
use crate::train::session::TrainState;

/// What a step reports about its numbers.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    pub loss: f32,
    pub grad_norm: f32,
    pub sum_of_squares: f32,
    /// See [`Update::spoiled`](crate::train::program::Update::spoiled).
    pub spoiled: u32,
}

impl Health {
    /// True if the gradient is finite but past what can be worked with.
    pub fn is_gradient_too_large(&self) -> bool {
        self.sum_of_squares.is_finite() && self.sum_of_squares > LARGEST_SUM_OF_SQUARES
    }

    /// What is not finite, if anything is.
    pub fn fault(&self) -> Option<&'static str> {
        if !self.loss.is_finite() {
            Some("the loss")
        } else if !self.sum_of_squares.is_finite() || !self.grad_norm.is_finite() {
            Some("the gradient norm")
        } else if self.spoiled != NONE_SPOILED {
            Some("the update")
        } else {
            None
        }
    }
}

/// The first tensor of a state that holds a number which is not finite: a parameter, or a moment.
pub fn first_in_state(specs: &[ParameterSpec], state: &TrainState) -> Option<String> {
    first_broken(state.tensors()).map(|index| tensor_name(specs, index))
}

/// The first parameter whose gradient is not finite. `grads` are in canonical order.
pub fn first_in_gradients(specs: &[ParameterSpec], grads: &[Vec<f32>]) -> Option<String> {
    first_broken(grads.iter()).map(|index| format!("the gradient of {}", specs[index].name))
}

fn first_broken<'a>(mut tensors: impl Iterator<Item = &'a Vec<f32>>) -> Option<usize> {
    tensors.position(|tensor| !tensor.iter().all(|x| x.is_finite()))
}

/// What an error of this file says was met, without what a training run is to do about it: others verify what
/// is trained. `None` of any other error.
pub fn met(error: &Error) -> Option<&str> {
    let Error::Input(text) = error else { return None };
    text.strip_suffix(REMEDY)?.strip_suffix(": ")
}

/// The error that ends a run whose gradient has grown past the functions' domains.
pub fn gradient_too_large(step: u64, sum_of_squares: f32) -> Error {
    Error::Input(format!(
        "the gradient norm is {:.1e} at step {step}, and hlx works with norms up to 2^50 = 1.1e15: {REMEDY}",
        f64::from(sum_of_squares).sqrt()
    ))
}

const REMEDY: &str = "nothing of it was saved; lower --lr, raise --warmup-steps or set --grad-clip, and go \
                      on with --resume";

/// Where a number that is not finite was found.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The first tensor of the state that holds one, or else of the gradient.
    pub tensor: Option<String>,
    /// The first operation of the step whose result still does.
    pub operation: Option<String>,
}

/// The error that ends a run: `what` is not finite.
pub fn not_finite(what: &str, step: u64, place: Place) -> Error {
    let tensor =
        place.tensor.map_or(String::new(), |name| format!(", and first of all tensors {name} is not"));
    let operation = place
        .operation
        .map_or(String::new(), |name| format!("; the first operation that shows it is {name}"));
    Error::Input(format!("{what} is not a finite number at step {step}{tensor}{operation}: {REMEDY}"))
}

/// A float result of an operation, as far as the operations after it left it.
pub struct Remains {
    /// The operation's kernel, its place, and the buffer it writes.
    pub operation: String,
    pub view: View,
    /// Words of the view that nothing depends on.
    unspecified: Vec<usize>,
}

impl Remains {
    /// True if one of these words, the view's, is a float that is not finite.
    pub fn are_broken(&self, words: &[u32]) -> bool {
        let mut left_out = self.unspecified.iter().peekable();
        words.iter().enumerate().any(|(i, &word)| {
            left_out.next_if(|&&next| next == i).is_none() && !f32::from_bits(word).is_finite()
        })
    }
}

/// What is left of a step when its recordings have run, in the order of its operations: the results in device
/// memory that no later operation wrote into.
pub fn remains(program: &Program, recordings: &[RecordingId]) -> Vec<Remains> {
    let (mut remains, mut written_later) = (Vec::new(), Vec::<View>::new());
    for recording in recordings.iter().rev().map(|id| &program.recordings[id.0]) {
        for (place, dispatch) in recording.dispatches.iter().enumerate().rev() {
            let written = dispatch.kernel.bindings().iter().zip(&dispatch.views);
            let written: Vec<_> = written.filter(|(binding, _)| binding.access.writes()).collect();
            for (_, view) in written.iter().filter(|(binding, _)| binding.element == Element::F32) {
                let spec = program.spec(view.buffer);
                let is_last = !written_later.iter().any(|later| later.overlaps(view));
                if is_last && spec.residence == Residence::Device {
                    let kernel = dispatch.kernel.name();
                    let operation =
                        format!("{kernel}, dispatch {place} of {}, in {}", recording.name, spec.name);
                    remains.push(Remains {
                        operation,
                        view: **view,
                        unspecified: unspecified_words(dispatch),
                    });
                }
            }
            written_later.extend(written.iter().map(|(_, view)| **view));
        }
    }
    remains.reverse();
    remains
}
