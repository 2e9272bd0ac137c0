//! Floats rounded to 16 bits and laid two to a word, as the matrix units of a device take them.

use super::Recorder;
use super::grid::flat_groups;
use crate::kernels;
use crate::recording::{Factor, View};

/// Words that hold so many floats, packed.
pub const fn packed_words(floats: usize) -> usize {
    floats.div_ceil(2)
}

/// output `[packed_words(n)]` from input `[n]`: rounded to the nearest `factor`, the first of two in the low
/// half; scaled as gradients are, if they are.
pub fn pack(r: &mut Recorder, factor: Factor, gradient: bool, input: View, output: View) {
    assert_eq!(output.words, packed_words(input.words), "two floats in a word");
    r.add(kernels::pack::dispatch(
        kernels::pack::Push { count: word(input.words), gradient: gradient.into() },
        kernels::pack::Specialization { f16: (factor == Factor::F16).into() },
        kernels::pack::Bindings { input, output },
        flat_groups(input.words.div_ceil(8), 256),
    ));
}

fn word(number: usize) -> u32 {
    u32::try_from(number).expect("a tensor's elements are counted in 32 bits")
}
