//! Sums over the rows of a matrix (a bias's gradient): 64 strided partial sums, then a fixed tree.

use rayon::prelude::*;

use super::grid::{flat_groups, vectorized};
use super::tensor::Tensor;
use super::{Recorder, narrow, word};
use crate::exact::snap;
use crate::kernels::{column_finish, column_partials};
use crate::recording::View;

pub use crate::exact::COLUMN_LANES;

/// `output[c]` = sum over rows of `input[:,c]`.
///
/// input `[N,C]`, output `[C]`; `partials` is scratch of [`scratch_words`].
pub fn column_sum(r: &mut Recorder, input: Tensor, output: View, partials: View) {
    let columns = output.words;
    let rows = input.len / columns;
    assert_eq!(input.len, rows * columns, "column_sum input is [N,C]");
    if input.narrow {
        return narrow::column_sum(r, input, output, partials);
    }
    let partials = partials.part(0, COLUMN_LANES * columns);
    column_partials_of(r, input.full(), partials);
    finish(r, partials, output);
}

/// Words of scratch that the sums of so many columns take.
pub const fn scratch_words(columns: usize, narrow: bool) -> usize {
    if narrow { narrow::column_sum_words(columns) } else { COLUMN_LANES * columns }
}

fn column_partials_of(r: &mut Recorder, input: View, partials: View) {
    let columns = partials.words / COLUMN_LANES;
    let rows = input.words / columns;
    r.add(column_partials::dispatch(
        column_partials::Push { rows: word(rows), columns: word(columns) },
        Default::default(),
        column_partials::Bindings { input, partials },
        flat_groups(partials.words, 64),
    ));
}

/// Adds the partial sums `[64,C]` into output `[C]`.
pub fn finish(r: &mut Recorder, partials: View, output: View) {
    let columns = output.words;
    assert_eq!(partials.words, COLUMN_LANES * columns, "partial sums are [64,C]");
    r.add(column_finish::dispatch(
        column_finish::Push { columns: word(columns) },
        Default::default(),
        column_finish::Bindings { partials, output },
        flat_groups(columns, 64),
    ));
}

/// Twin of shaders/column_partials.comp.
pub fn column_partials(a: column_partials::Args) {
    let columns = a.push.columns as usize;
    let (rows, input) = (a.push.rows as usize, a.input);
    a.partials.par_chunks_mut(columns).enumerate().with_min_len(8).for_each(|(lane, sums)| {
        vectorized!(|sums: &mut [f32], lane: usize, rows: usize, columns: usize, input: &[f32]| {
            sums.fill(0.0);
            for row in (lane..rows).step_by(COLUMN_LANES) {
                for (s, x) in sums.iter_mut().zip(&input[row * columns..][..columns]) {
                    *s += x;
                }
            }
        })
    });
}

/// Twin of shaders/column_finish.comp: the tree, level by level over whole rows of lanes.
pub fn column_finish(a: column_finish::Args) {
    let columns = a.push.columns as usize;
    let (part, output) = (&mut a.partials.to_vec()[..], a.output);
    vectorized!(|part: &mut [f32], output: &mut [f32], columns: usize| {
        let mut s = COLUMN_LANES / 2;
        while s > 0 {
            let (low, high) = part.split_at_mut(s * columns);
            for (x, y) in low.iter_mut().zip(high.iter()) {
                *x += y;
            }
            s /= 2;
        }
        for (o, x) in output.iter_mut().zip(part.iter()) {
            *o = snap(*x);
        }
    });
}
