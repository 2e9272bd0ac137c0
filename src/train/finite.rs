//! NaN and infinity never travel: what is said of a step that met one, and which tensor is named.

use crate::error::Error;
use crate::model::parameters::ParameterSpec;
use crate::ops::adam::{LARGEST_SUM_OF_SQUARES, NONE_SPOILED};
use crate::train::digest::tensor_name;
use crate::train::session::TrainState;

/// What a step reports about its numbers.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    pub loss: f32,
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
        } else if !self.sum_of_squares.is_finite() {
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

/// The error that ends a run. `what` is not finite, and `tensor` is where it was first found.
pub fn not_finite(what: &str, step: u64, tensor: Option<String>) -> Error {
    let place = tensor.map_or(String::new(), |tensor| format!(", and first of all tensors {tensor} is not"));
    Error::Input(format!("{what} is not a finite number at step {step}{place}: {REMEDY}"))
}
