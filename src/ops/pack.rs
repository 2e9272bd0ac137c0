//! Floats rounded to 16 bits and laid two to a word, as the matrix units of a device take them.

use super::Recorder;
use super::grid::flat_groups;
use crate::kernels;
use crate::recording::View;

/// Words that hold so many floats, packed.
pub const fn packed_words(floats: usize) -> usize {
    floats.div_ceil(2)
}

/// Elements from one row of a packed transpose to the next: rows start at multiples of 16 bytes.
pub const fn transposed_pitch(rows: usize) -> usize {
    rows.next_multiple_of(8)
}

/// output `[packed_words(n)]` from input `[n]`: bfloat16, rounded to nearest even, the first of two in the
/// low half.
pub fn pack(r: &mut Recorder, input: View, output: View) {
    assert_eq!(output.words, packed_words(input.words), "two floats in a word");
    r.add(kernels::pack::dispatch(
        kernels::pack::Push { count: word(input.words) },
        Default::default(),
        kernels::pack::Bindings { input, output },
        flat_groups(input.words.div_ceil(8), 256),
    ));
}

/// The same of the transpose: output `[columns, transposed_pitch(rows)]` from input `[rows, columns]`.
pub fn pack_transposed(r: &mut Recorder, columns: usize, input: View, output: View) {
    let rows = input.words / columns;
    assert_eq!(input.words, rows * columns, "the input is [rows, columns]");
    assert_eq!(output.words, packed_words(columns * transposed_pitch(rows)), "two floats in a word");
    let pitch = transposed_pitch(rows);
    r.add(kernels::pack_transposed::dispatch(
        kernels::pack_transposed::Push { rows: word(rows), columns: word(columns), pitch: word(pitch) },
        Default::default(),
        kernels::pack_transposed::Bindings { input, output },
        [word(columns.div_ceil(64)), word(pitch.div_ceil(64)), 1],
    ));
}

fn word(number: usize) -> u32 {
    u32::try_from(number).expect("a tensor's elements are counted in 32 bits")
}
