//! Floats rounded to 16 bits and laid two to a word, as the matrix units of a device take them.

use super::Recorder;
use super::grid::flat_groups;
use crate::kernels;
use crate::recording::View;

/// Words that hold so many floats, packed.
pub const fn packed_words(floats: usize) -> usize {
    floats.div_ceil(2)
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

fn word(number: usize) -> u32 {
    u32::try_from(number).expect("a tensor's elements are counted in 32 bits")
}
