//! Floats rounded to 16 bits and laid two to a word, as the matrix units of a device take them.

use half::{bf16, f16};

use super::gemm::units::GRADIENT_SCALE;
use super::grid::flat_groups;
use super::{Recorder, word};
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

/// What a tensor's elements are multiplied by before they are rounded.
fn scale(factor: Factor, gradient: bool) -> f32 {
    if gradient && factor == Factor::F16 { GRADIENT_SCALE } else { 1.0 }
}

/// What [`pack`] makes of numbers that are not too large for `factor`, calculated here.
pub fn pack_on_host(numbers: &[f32], factor: Factor, gradient: bool) -> Vec<u32> {
    let scale = scale(factor, gradient);
    let bits = |x: f32| match factor {
        Factor::Bf16 => bf16::from_f32(x).to_bits(),
        Factor::F16 => f16::from_f32(x * scale).to_bits(),
    };
    let mut words = vec![0; packed_words(numbers.len())];
    for (at, &x) in numbers.iter().enumerate() {
        words[at / 2] |= u32::from(bits(x)) << (at % 2 * 16);
    }
    words
}

/// The numbers in packed words, two in each.
pub fn unpack_on_host(words: &[u32], factor: Factor, gradient: bool) -> Vec<f32> {
    let scale = scale(factor, gradient);
    let number = |bits: u32| match factor {
        Factor::Bf16 => bf16::from_bits(bits as u16).to_f32(),
        Factor::F16 => f16::from_bits(bits as u16).to_f32() / scale,
    };
    words.iter().flat_map(|&word| [number(word & 0xffff), number(word >> 16)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back_rounded() {
        let numbers = [1.0, -0.5, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 0.0, 3.0];
        let bf16 = unpack_on_host(&pack_on_host(&numbers, Factor::Bf16, true), Factor::Bf16, true);
        assert_eq!(bf16, [1.0, -0.5, 1.0, 1.0 + 4.0 / 256.0, 0.0, 3.0]);
        let f16 = unpack_on_host(&pack_on_host(&numbers, Factor::F16, true), Factor::F16, true);
        assert_eq!(f16, numbers);
        assert_eq!(pack_on_host(&numbers[..3], Factor::Bf16, false), [0xbf00_3f80, 0x3f80]);
    }
}
