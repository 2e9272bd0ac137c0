//! 16-bit floats on the host, as the factors of matrix units lie packed in memory.

#![allow(dead_code)] // each test binary uses a part

use half::{bf16, f16};
use hlx::recording::Factor;

/// What gradients are multiplied by before they become f16.
pub const GRADIENT_SCALE: f32 = 16384.0;

/// The bits of the nearest 16-bit float, the even one of two.
pub fn to_half(x: f32, factor: Factor) -> u32 {
    u32::from(match factor {
        Factor::Bf16 => bf16::from_f32(x).to_bits(),
        Factor::F16 => f16::from_f32(x).to_bits(),
    })
}

/// What 16 bits stand for.
pub fn from_half(half: u32, factor: Factor) -> f32 {
    match factor {
        Factor::Bf16 => bf16::from_bits(half as u16).to_f32(),
        Factor::F16 => f16::from_bits(half as u16).to_f32(),
    }
}

/// Element `i` of what lies packed.
pub fn half_at(words: &[u32], i: usize) -> u32 {
    words[i / 2] >> (i % 2 * 16) & 0xffff
}
