//! f32 tensors split into two 16-bit floats an element, as products of `f32` on matrix units take them.

use super::grid::flat_groups;
use super::{Recorder, word};
use crate::kernels::{halves_largest, halves_pack};
use crate::recording::{VIEW_ALIGNMENT_WORDS, View};

/// Workgroups that look for the largest magnitude: MAX_PARTS in `shaders/include/halves.glsl`.
const MAX_PARTS: usize = 256;

/// Elements that each of them looks at, at least.
const ELEMENTS_A_PART: usize = 16 * 1024;

/// Elements that a workgroup splits: 256 invocations, four eights each.
const SPLIT_ELEMENTS: usize = 256 * 4 * 8;

/// Where the parts' largest magnitudes lie in a split tensor, and where its numbers begin.
const PARTS: usize = VIEW_ALIGNMENT_WORDS;
const NUMBERS: usize = PARTS + MAX_PARTS;

/// Words of so many elements, split: the bits of the largest magnitude, then the numbers.
pub const fn split_words(elements: usize) -> usize {
    NUMBERS + elements.next_multiple_of(8)
}

/// The word that holds the largest magnitude of a split tensor.
pub fn largest(split: View) -> View {
    split.part(0, 1)
}

/// The numbers of a split tensor.
pub fn numbers(split: View) -> View {
    split.part(NUMBERS, split.words - NUMBERS)
}

/// output `[split_words(n)]` from input `[n]`: two dispatches. Low parts are stored times 2^`low_shift`.
pub fn split(r: &mut Recorder, input: View, output: View, low_shift: u32) {
    assert_eq!(output.words, split_words(input.words), "room for the split tensor");
    let count = word(input.words);
    let groups = input.words.div_ceil(ELEMENTS_A_PART).min(MAX_PARTS);
    let parts = output.part(PARTS, groups);
    r.add(halves_largest::dispatch(
        halves_largest::Push { count },
        Default::default(),
        halves_largest::Bindings { input, parts },
        [word(groups), 1, 1],
    ));
    r.add(halves_pack::dispatch(
        halves_pack::Push { count, parts: word(groups) },
        halves_pack::Specialization { low_shift },
        halves_pack::Bindings { input, parts, largest: largest(output), output: numbers(output) },
        flat_groups(input.words, word(SPLIT_ELEMENTS)),
    ));
}
