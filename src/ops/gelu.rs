//! GELU in its tanh form, elementwise, and its gradient.

use rayon::prelude::*;

use super::grid::{elements_per_task, flat_groups, vectorized};
use super::{Recorder, word};
use crate::exact::{gelu, gelu_grad, snap};
use crate::kernels::{gelu_backward, gelu_forward};
use crate::recording::View;

/// output = gelu(input), any equal shapes.
pub fn forward(r: &mut Recorder, input: View, output: View) {
    assert_eq!(input.words, output.words, "gelu keeps its input's shape");
    r.add(gelu_forward::dispatch(
        gelu_forward::Push { count: word(input.words) },
        Default::default(),
        gelu_forward::Bindings { input, output },
        flat_groups(input.words, 256),
    ));
}

/// gradient *= gelu'(input), in place.
pub fn backward(r: &mut Recorder, input: View, gradient: View) {
    assert_eq!(input.words, gradient.words, "gelu's gradient has its input's shape");
    r.add(gelu_backward::dispatch(
        gelu_backward::Push { count: word(input.words) },
        Default::default(),
        gelu_backward::Bindings { input, gradient },
        flat_groups(input.words, 256),
    ));
}

/// Twin of shaders/gelu_forward.comp.
pub fn gelu_forward(a: gelu_forward::Args) {
    let task = elements_per_task();
    a.output.par_chunks_mut(task).zip(a.input.par_chunks(task)).for_each(|(output, input)| {
        vectorized!(|output: &mut [f32], input: &[f32]| {
            for (o, x) in output.iter_mut().zip(input) {
                *o = snap(gelu(*x));
            }
        })
    });
}

/// Twin of shaders/gelu_backward.comp.
pub fn gelu_backward(a: gelu_backward::Args) {
    let task = elements_per_task();
    a.gradient.par_chunks_mut(task).zip(a.input.par_chunks(task)).for_each(|(gradient, input)| {
        vectorized!(|gradient: &mut [f32], input: &[f32]| {
            for (g, x) in gradient.iter_mut().zip(input) {
                *g = snap(*g * snap(gelu_grad(*x)));
            }
        })
    });
}
