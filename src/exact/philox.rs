//! Counter-based random numbers, Philox4x32-10: a number is a function of seed, purpose, step and index
//! alone, so there is no generator state to save, to share between threads or to bring to the device.
//!
//! Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
//! Twin of `shaders/include/philox.glsl`.

use rayon::prelude::*;

const MULTIPLIER_0: u32 = 0xd251_1f53;
const MULTIPLIER_1: u32 = 0xcd9e_8d57;
const WEYL_0: u32 = 0x9e37_79b9; // the golden ratio
const WEYL_1: u32 = 0xbb67_ae85; // sqrt(3) - 1

/// The low and high words of a product.
#[inline(always)]
fn multiply(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    (product as u32, (product >> 32) as u32)
}

/// Ten rounds of Philox4x32: four random words for each counter and key.
#[inline(always)]
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut x, mut y, mut z, mut w] = counter;
    let [mut key_0, mut key_1] = key;
    for _ in 0..10 {
        let (low_0, high_0) = multiply(MULTIPLIER_0, x);
        let (low_1, high_1) = multiply(MULTIPLIER_1, z);
        (x, y, z, w) = (high_1 ^ y ^ key_0, low_1, high_0 ^ w ^ key_1, low_0);
        key_0 = key_0.wrapping_add(WEYL_0);
        key_1 = key_1.wrapping_add(WEYL_1);
    }
    [x, y, z, w]
}

/// The four words of block `block` of the stream that `seed`, `purpose` and `step` name. hlx's convention:
/// the key is the seed's low and high word; the counter is block, purpose, and the step's low and high word.
#[inline(always)]
pub fn random_words(seed: u64, purpose: u32, step: u64, block: u32) -> [u32; 4] {
    philox([block, purpose, step as u32, (step >> 32) as u32], [seed as u32, (seed >> 32) as u32])
}

/// Word `index` of a stream: word `index % 4` of block `index / 4`.
#[inline(always)]
pub fn random_u32(seed: u64, purpose: u32, step: u64, index: u32) -> u32 {
    random_words(seed, purpose, step, index / 4)[(index % 4) as usize]
}

/// The 32 words of eight blocks from `first_block` on, in order. Side by side the blocks vectorize, which
/// makes a word three times as fast as from [`random_words`].
#[inline(always)]
pub fn random_words_of_8(seed: u64, purpose: u32, step: u64, first_block: u32) -> [u32; 32] {
    let mut columns = [[0; 8]; 4];
    for block in 0..8 {
        let words = random_words(seed, purpose, step, first_block.wrapping_add(block as u32));
        for (column, word) in columns.iter_mut().zip(words) {
            column[block] = word;
        }
    }
    std::array::from_fn(|i| columns[i % 4][i / 4])
}

/// A word as a number in (0, 1]: (word + 1) / 2^32.
pub fn unit(word: u32) -> f64 {
    (f64::from(word) + 1.0) / 4_294_967_296.0
}

/// Numbers 4 * block to 4 * block + 3 of a stream of standard normal ones: Box and Muller's pairs
/// (cosine, sine) from words 0 and 1, then from words 2 and 3, in f64.
pub fn normal_block(seed: u64, purpose: u32, step: u64, block: u32) -> [f64; 4] {
    let words = random_words(seed, purpose, step, block);
    let pair = |first: u32, second: u32| {
        let radius = libm::sqrt(-2.0 * libm::log(unit(first)));
        let (sin, cos) = libm::sincos(2.0 * std::f64::consts::PI * unit(second));
        [radius * cos, radius * sin]
    };
    let ([a, b], [c, d]) = (pair(words[0], words[1]), pair(words[2], words[3]));
    [a, b, c, d]
}

/// Fills `out` with the first numbers of a normal stream of mean 0 and standard deviation `std_dev`, each
/// rounded to f32 once.
pub fn fill_normal(out: &mut [f32], std_dev: f64, seed: u64, purpose: u32, step: u64) {
    const TASK_BLOCKS: usize = 1024;
    out.par_chunks_mut(4 * TASK_BLOCKS).enumerate().for_each(|(task, out)| {
        for (block, out) in (task * TASK_BLOCKS..).zip(out.chunks_mut(4)) {
            let numbers = normal_block(seed, purpose, step, block as u32);
            for (out, number) in out.iter_mut().zip(numbers) {
                *out = (number * std_dev) as f32;
            }
        }
    });
}

/// An element is dropped with probability `p` (0 <= p < 1) if its word is below this: round(p * 2^32).
pub fn dropout_threshold(p: f64) -> u32 {
    libm::round(p * 4_294_967_296.0) as u32
}

/// What a kept element is multiplied with: 1 / (1 - p).
pub fn dropout_scale(p: f64) -> f32 {
    (1.0 / (1.0 - p)) as f32
}
