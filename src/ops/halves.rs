//! Packed tensors on the host: floats rounded to 16 bits, two a word, and back.

use half::{bf16, f16};

use super::gemm::units::GRADIENT_SCALE;
use super::pack::packed_words;
use crate::recording::Factor;

/// What a tensor's elements are multiplied by before they are rounded.
fn scale(factor: Factor, gradient: bool) -> f32 {
    if gradient && factor == Factor::F16 { GRADIENT_SCALE } else { 1.0 }
}

/// Numbers as words, the first of two in the low half; scaled as gradients are, if they are.
pub fn pack(numbers: &[f32], factor: Factor, gradient: bool) -> Vec<u32> {
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

/// The numbers in words, two in each.
pub fn unpack(words: &[u32], factor: Factor, gradient: bool) -> Vec<f32> {
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
        let bf16 = unpack(&pack(&numbers, Factor::Bf16, true), Factor::Bf16, true);
        assert_eq!(bf16, [1.0, -0.5, 1.0, 1.0 + 4.0 / 256.0, 0.0, 3.0]);
        let f16 = unpack(&pack(&numbers, Factor::F16, true), Factor::F16, true);
        assert_eq!(f16, numbers);
        assert_eq!(pack(&numbers[..3], Factor::Bf16, false), [0xbf00_3f80, 0x3f80]);
    }
}
