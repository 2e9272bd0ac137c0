//! Gradient accumulation: the ordered sum over micro-batches.

use rayon::prelude::*;

use super::grid::{elements_per_task, flat_groups, vectorized};
use super::{Recorder, word};
use crate::exact::snap;
use crate::kernels::accumulate;
use crate::recording::{VIEW_ALIGNMENT_WORDS, View};

/// sum += addend, any equal shapes.
pub fn add(r: &mut Recorder, addend: View, sum: View) {
    assert_eq!(addend.words, sum.words, "a sum has its addend's shape");
    for (at, sum) in sum.pieces(r.traits.max_view_words, VIEW_ALIGNMENT_WORDS) {
        r.add(accumulate::dispatch(
            accumulate::Push { count: word(sum.words), first: 0 },
            Default::default(),
            accumulate::Bindings { addend: addend.part(at, sum.words), sum },
            flat_groups(sum.words, 256),
        ));
    }
}

/// Twin of shaders/accumulate.comp: the first micro-batch starts the sum, a further one is added to it.
pub fn accumulate(a: accumulate::Args) {
    let first = a.push.first != 0;
    let task = elements_per_task();
    a.sum.par_chunks_mut(task).zip(a.addend.par_chunks(task)).for_each(|(sum, addend)| {
        vectorized!(|sum: &mut [f32], addend: &[f32], first: bool| {
            for (sum, addend) in sum.iter_mut().zip(addend) {
                *sum = snap(if first { *addend } else { *sum + *addend });
            }
        })
    });
}
