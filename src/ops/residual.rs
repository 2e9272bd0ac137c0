//! Adding a branch's output to the residual stream.

use rayon::prelude::*;

use super::grid::{elements_per_task, flat_groups, vectorized};
use super::{Recorder, word};
use crate::exact::snap;
use crate::kernels::residual_add;
use crate::recording::View;

/// output = stream + branch, any equal shapes.
pub fn add(r: &mut Recorder, stream: View, branch: View, output: View) {
    assert!(stream.words == branch.words && branch.words == output.words, "residual shapes differ");
    r.add(residual_add::dispatch(
        residual_add::Push { count: word(output.words) },
        Default::default(),
        residual_add::Bindings { stream, branch, output },
        flat_groups(output.words, 256),
    ));
}

/// Twin of shaders/residual_add.comp.
pub fn residual_add(a: residual_add::Args) {
    let task = elements_per_task();
    let inputs = a.stream.par_chunks(task).zip(a.branch.par_chunks(task));
    a.output.par_chunks_mut(task).zip(inputs).for_each(|(output, (stream, branch))| {
        vectorized!(|output: &mut [f32], stream: &[f32], branch: &[f32]| {
            for ((o, x), y) in output.iter_mut().zip(stream).zip(branch) {
                *o = snap(x + y);
            }
        })
    });
}
