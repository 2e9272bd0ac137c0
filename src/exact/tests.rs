//! The exact arithmetic's own tests: no subnormals on the way, published random words, sums by definition.

use super::*;
use std::cmp::Ordering;
use std::ops::{Add, Mul, Neg, RangeInclusive, Sub};

/// math.rs once more, over a type that panics on a subnormal.
#[allow(clippy::duplicate_mod)]
#[path = "math.rs"]
mod checked_math;

type Real = Checked;

/// An f32 whose sums, differences and products must not be subnormal.
#[derive(Clone, Copy)]
struct Checked(f32);

impl Checked {
    const fn from_bits(bits: u32) -> Self {
        Checked(f32::from_bits(bits))
    }

    fn to_bits(self) -> u32 {
        self.0.to_bits()
    }

    fn abs(self) -> Self {
        Checked(self.0.abs())
    }

    fn new(result: f32) -> Self {
        assert!(!result.is_subnormal(), "an intermediate result is subnormal: {result:e}");
        Checked(result)
    }
}

macro_rules! checked_operator {
    ($operator:ident, $method:ident) => {
        impl $operator for Checked {
            type Output = Checked;
            fn $method(self, other: Checked) -> Checked {
                Checked::new(self.0.$method(other.0))
            }
        }

        impl $operator<Checked> for f32 {
            type Output = Checked;
            fn $method(self, other: Checked) -> Checked {
                Checked::new(self.$method(other.0))
            }
        }

        impl $operator<f32> for Checked {
            type Output = Checked;
            fn $method(self, other: f32) -> Checked {
                Checked::new(self.0.$method(other))
            }
        }
    };
}

checked_operator!(Add, add);
checked_operator!(Sub, sub);
checked_operator!(Mul, mul);

impl Neg for Checked {
    type Output = Checked;
    fn neg(self) -> Checked {
        Checked(-self.0)
    }
}

impl PartialEq for Checked {
    fn eq(&self, other: &Checked) -> bool {
        self.0 == other.0
    }
}

impl PartialOrd for Checked {
    fn partial_cmp(&self, other: &Checked) -> Option<Ordering> {
        self.0.partial_cmp(&other.0)
    }
}

/// A function, the same over the checking type, and its domain as ranges of values of one sign.
type Pair = (fn(f32) -> f32, fn(Checked) -> Checked, &'static [RangeInclusive<f32>]);

const TINY: f32 = f32::from_bits(0x2680_0000); // 2^-50: the least that snap leaves
const LEAST: f32 = f32::from_bits(0x0d80_0000); // 2^-100
const MOST: f32 = f32::from_bits(0x7180_0000); // 2^100
const SNAPPED: &[RangeInclusive<f32>] = &[0.0..=0.0, TINY..=f32::MAX, -TINY..=f32::MIN];
const EVERY: &[RangeInclusive<f32>] = &[0.0..=f32::INFINITY, -0.0..=f32::NEG_INFINITY];

const PAIRS: &[Pair] = &[
    (snap, checked_math::snap, EVERY),
    (snap_moment, checked_math::snap_moment, EVERY),
    (recip, checked_math::recip, &[LEAST..=MOST, -LEAST..=-MOST]),
    (rsqrt, checked_math::rsqrt, &[0.0..=0.0, LEAST..=MOST]),
    (sqrt, checked_math::sqrt, &[0.0..=0.0, LEAST..=MOST]),
    (exp, checked_math::exp, EVERY),
    (log, checked_math::log, &[f32::MIN_POSITIVE..=f32::INFINITY]),
    (sigmoid, checked_math::sigmoid, EVERY),
    (gelu, checked_math::gelu, SNAPPED),
    (gelu_grad, checked_math::gelu_grad, SNAPPED),
    (tanh, checked_math::tanh, SNAPPED),
];

#[test]
fn no_intermediate_result_is_subnormal() {
    for (function, checked, domain) in PAIRS {
        for range in *domain {
            let (first, last) = (range.start().to_bits(), range.end().to_bits());
            // Each 1021st bit pattern, and the range's edges whole.
            let edges = (first..=last.min(first + 4096)).chain(last.saturating_sub(4096).max(first)..=last);
            for bits in edges.chain((first..=last).step_by(1021)) {
                let result = checked(Checked::from_bits(bits));
                assert_eq!(result.to_bits(), function(f32::from_bits(bits)).to_bits());
            }
        }
    }
}

#[test]
#[should_panic(expected = "subnormal")]
fn the_checking_type_sees_a_subnormal() {
    checked_math::gelu(Checked(f32::from_bits(0x0000_1234)));
}

#[test]
fn nan_stays_nan() {
    for (function, _, _) in PAIRS {
        assert!(function(f32::NAN).is_nan());
        assert!(function(-f32::NAN).is_nan());
    }
}

#[test]
fn landmarks_are_exact() {
    assert_eq!(snap(-0.0).to_bits(), 0);
    assert_eq!(snap(-TINY), -TINY);
    assert_eq!(snap(-TINY.next_down()).to_bits(), 0);
    assert_eq!(snap_moment(LEAST), LEAST);
    assert_eq!(snap_moment(LEAST.next_down()).to_bits(), 0);
    for power in -99..=99 {
        let x = libm::ldexpf(1.0, power);
        assert_eq!(recip(x), libm::ldexpf(1.0, -power));
        assert_eq!(recip(-x), -libm::ldexpf(1.0, -power));
    }
    for n in 0..=4096u16 {
        assert_eq!(sqrt(f32::from(n) * f32::from(n)), f32::from(n));
    }
    assert_eq!((exp(0.0), exp(-87.1).to_bits(), exp(88.1)), (1.0, 0, f32::INFINITY));
    assert_eq!((log(1.0).to_bits(), log(f32::INFINITY)), (0, f32::INFINITY));
    assert_eq!((sigmoid(0.0), sigmoid(1e38), snap(sigmoid(-1e38)).to_bits()), (0.5, 1.0, 0));
    assert_eq!((gelu(1e38), gelu(-1e38).to_bits(), gelu(0.0).to_bits()), (1e38, 0, 0));
    assert_eq!((gelu_grad(1e38), gelu_grad(-1e38).to_bits(), gelu_grad(0.0)), (1.0, 0, 0.5));
    assert_eq!((tanh(1e38), tanh(-1e38), tanh(TINY)), (1.0, -1.0, TINY));
}

/// The constants of both languages, by name: `NAME ... = from_bits(0x...)`, or the bits alone.
fn constants(source: &str) -> Vec<(String, u32)> {
    let declaration = |line: &str| {
        let (left, right) =
            line.trim_start().trim_start_matches("pub ").strip_prefix("const ")?.split_once(" = ")?;
        let name = left.split([' ', ':']).find(|word| word.chars().all(|c| !c.is_lowercase()))?;
        let digits = right.split_once("0x")?.1.replace('_', "");
        let digits: String = digits.chars().take_while(char::is_ascii_hexdigit).collect();
        Some((name.to_owned(), u32::from_str_radix(&digits, 16).ok()?))
    };
    source.lines().filter_map(declaration).collect()
}

#[test]
fn constants_are_the_same_in_both_languages() {
    let mut rust = constants(include_str!("math.rs"));
    let glsl = constants(include_str!("../../shaders/include/exact.glsl"));
    rust.retain(|(name, _)| name != "ZERO"); // a literal in GLSL
    assert!(rust.len() > 40, "only {} constants were found", rust.len());
    assert_eq!(rust, glsl);
}

/// The known answers that Random123, the authors' library, publishes for philox4x32-10.
#[test]
fn philox_gives_the_published_words() {
    let all_ones = u32::MAX;
    let known: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([all_ones; 4], [all_ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    for (counter, key, words) in known {
        assert_eq!(philox(counter, key), words);
    }
    // The third, through hlx's convention: index 4 * block + 2 has the block's third word.
    let (seed, step) = (0x299f_31d0_a409_3822, 0x0370_7344_1319_8a2e);
    assert_eq!(random_words(seed, 0x85a3_08d3, step, 0x243f_6a88), known[2].2);
    assert_eq!(random_u32(7, 8, 9, 4 * 10 + 2), random_words(7, 8, 9, 10)[2]);
    for (i, word) in random_words_of_8(7, 8, 9, 10).into_iter().enumerate() {
        assert_eq!(word, random_u32(7, 8, 9, 4 * 10 + i as u32));
    }
}

#[test]
fn normal_numbers_are_box_muller_of_the_words() {
    // From the published words of counter 0 and key 0, calculated with 100 bits.
    let known = [
        0.991_137_680_449_366_6,
        -0.924_662_586_793_741_2,
        -0.617_608_958_947_368_5,
        -0.482_068_587_814_666_6,
    ];
    for (number, known) in normal_block(0, 0, 0, 0).iter().zip(known) {
        assert!((number - known).abs() < 1e-14, "{number} is not {known}");
    }
    let mut numbers = vec![0.0; 100_001];
    fill_normal(&mut numbers, 0.02, 42, 1, 0);
    for i in [5, 4095, 4096, 8191, 50_002, 100_000] {
        assert_eq!(numbers[i], (normal_block(42, 1, 0, i as u32 / 4)[i % 4] * 0.02) as f32, "number {i}");
    }
    let mean = numbers.iter().map(|&x| f64::from(x)).sum::<f64>() / 100_001.0;
    let variance = numbers.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / 100_001.0;
    assert!(mean.abs() < 3e-4, "mean {mean}");
    assert!((variance / 0.0004 - 1.0).abs() < 0.02, "variance {variance}");
}

#[test]
fn dropout_helpers_round_once() {
    assert_eq!((dropout_threshold(0.0), dropout_scale(0.0)), (0, 1.0));
    assert_eq!((dropout_threshold(0.1), dropout_scale(0.1)), (429_496_730, 1.111_111_2));
    assert_eq!((dropout_threshold(0.5), dropout_scale(0.5)), (1 << 31, 2.0));
    assert_eq!((unit(0), unit(u32::MAX)), (1.0 / 4_294_967_296.0, 1.0));
}
