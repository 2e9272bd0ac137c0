//! 16-bit floats on the host, as the factors of matrix units lie packed in memory.

#![allow(dead_code)] // each test binary uses a part

use hlx::recording::Factor;

/// What gradients are multiplied by before they become f16.
pub const GRADIENT_SCALE: f32 = 16384.0;

/// The bits of the nearest 16-bit float, the even one of two.
pub fn to_half(x: f32, factor: Factor) -> u32 {
    let bits = x.to_bits();
    match factor {
        Factor::Bf16 if x.is_nan() => bits >> 16 | 0x40,
        Factor::Bf16 => (bits + 0x7fff + (bits >> 16 & 1)) >> 16,
        Factor::F16 => {
            let (sign, magnitude) = (bits >> 16 & 0x8000, x.abs());
            let half = if x.is_nan() {
                0x7e00
            } else if magnitude < 2.0_f32.powi(-14) {
                (magnitude * 2.0_f32.powi(24)).round_ties_even() as u32
            } else if magnitude >= 65_520.0 {
                0x7c00
            } else {
                let bits = magnitude.to_bits();
                ((bits + 0xfff + (bits >> 13 & 1)) >> 13) - (112 << 10)
            };
            sign | half
        }
    }
}

/// What 16 bits stand for.
pub fn from_half(half: u32, factor: Factor) -> f32 {
    match factor {
        Factor::Bf16 => f32::from_bits(half << 16),
        Factor::F16 => {
            let (exponent, significand) = (half >> 10 & 0x1f, half & 0x3ff);
            let magnitude = match exponent {
                0 => significand as f32 * 2.0_f32.powi(-24),
                31 if significand == 0 => f32::INFINITY,
                31 => f32::NAN,
                _ => f32::from_bits((exponent + 112) << 23 | significand << 13),
            };
            if half & 0x8000 == 0 { magnitude } else { -magnitude }
        }
    }
}

/// Element `i` of what lies packed.
pub fn half_at(words: &[u32], i: usize) -> u32 {
    words[i / 2] >> (i % 2 * 16) & 0xffff
}

/// Numbers packed two to a word.
pub fn packed(values: &[f32], factor: Factor) -> Vec<u32> {
    let half = |x: &f32| to_half(*x, factor);
    values.chunks(2).map(|pair| half(&pair[0]) | pair.get(1).map_or(0, half) << 16).collect()
}
