//! The sum of a long array, or of its squares: rows of 4,096 elements, then rows of their sums, down to one.

use rayon::prelude::*;

use super::grid::{row_layout, vectorized};
use super::rows::row_sum;
use super::{Recorder, word};
use crate::exact::snap_moment;
use crate::kernels::reduce_sum;
use crate::recording::{VIEW_ALIGNMENT_WORDS, View, align_words};

/// Elements that one row of a long sum has.
const ROW_LENGTH: usize = 4096;

/// A sum is cut into dispatches between rows, where the rows' sums may start a view.
const UNIT: usize = ROW_LENGTH * VIEW_ALIGNMENT_WORDS;

/// Words of scratch that summing `count` elements takes.
pub fn scratch_words(count: usize) -> usize {
    let mut words = 0;
    let mut left = count;
    while left > 1 {
        left = left.div_ceil(ROW_LENGTH);
        words += align_words(left);
    }
    words.max(1)
}

/// output`[0]` = sum over input, or over input's squares. `scratch` has `scratch_words(input.words)`.
pub fn sum(r: &mut Recorder, input: View, square: bool, scratch: View, output: View) {
    assert_eq!(output.words, 1, "a sum is one number");
    let mut source = input;
    let mut at = 0;
    let mut square = square;
    loop {
        let rows = source.words.div_ceil(ROW_LENGTH);
        let target = if rows == 1 { output } else { scratch.part(at, rows) };
        for (start, piece) in source.pieces(r.traits.max_view_words, UNIT) {
            let sums = target.part(start / ROW_LENGTH, piece.words.div_ceil(ROW_LENGTH));
            record_rows(r, piece, square, sums);
        }
        if rows == 1 {
            return;
        }
        at += align_words(rows);
        source = target;
        square = false;
    }
}

/// output[i] = sum of row i of input.
fn record_rows(r: &mut Recorder, input: View, square: bool, output: View) {
    let layout = row_layout(output.words, ROW_LENGTH, &r.traits);
    r.add(reduce_sum::dispatch(
        reduce_sum::Push { count: word(input.words), row_length: word(ROW_LENGTH), square: square.into() },
        reduce_sum::Specialization { local_size_x: layout.row_width, local_size_y: layout.rows_per_group },
        reduce_sum::Bindings { input, output },
        layout.groups,
    ));
}

/// Twin of shaders/reduce_sum.comp.
pub fn reduce_sum(a: reduce_sum::Args) {
    let square = a.push.square != 0;
    let input = &a.input[..a.push.count as usize];
    let rows = input.par_chunks(a.push.row_length as usize).with_min_len(4);
    a.output.par_iter_mut().zip(rows).for_each(|(sum, row)| {
        vectorized!(|sum: &mut f32, row: &[f32], square: bool| {
            let total = if square { row_sum([row], |[x]| x * x) } else { row_sum([row], |[x]| x) };
            *sum = snap_moment(total);
        })
    });
}
