//! Elementary functions from `+ - *`, comparisons and bit operations: the same bits everywhere.
//!
//! Each function says its domain and its largest error there in ulp (units in the last place of the exact
//! result), measured over every input; NUMERICS.md has the table. None has a branch, a table or an
//! early return, so a loop over a slice vectorizes.
//!
//! Devices keep subnormals or flush them as they like, so none may occur: in a function's domain, no value
//! computed on the way to its result is subnormal. Comments say why where it is not plain, and a test
//! compiles this file over a type that panics on one. NaN in gives NaN out, so the loss shows it.

use super::Real;

const SIGN_BIT: u32 = 0x8000_0000;
const MANTISSA_BITS: u32 = 0x007f_ffff;
const ONE_BITS: u32 = 0x3f80_0000;

const ZERO: Real = Real::from_bits(0x0000_0000);
const INFINITY: Real = Real::from_bits(0x7f80_0000);
/// 2^-50: see [`snap`].
pub const SNAP_BELOW: Real = Real::from_bits(0x2680_0000);
const SNAP_MOMENT_BELOW: Real = Real::from_bits(0x0d80_0000); // 2^-100

/// `x`, or +0 where |x| < 2^-50. A product of two snapped numbers is zero or at least 2^-100, so a multiple
/// of 2^-123, and any sum of such products is zero or at least that: never subnormal.
#[inline(always)]
pub fn snap(x: Real) -> Real {
    if x.abs() < SNAP_BELOW { ZERO } else { x }
}

/// `x`, or +0 where |x| < 2^-100: for the optimizer's moments, which are scaled and added, not multiplied
/// with one another.
#[inline(always)]
pub fn snap_moment(x: Real) -> Real {
    if x.abs() < SNAP_MOMENT_BELOW { ZERO } else { x }
}

/// `x`, but no further from zero than `bound`.
#[inline(always)]
fn limit(x: Real, bound: Real) -> Real {
    let x = if x > bound { bound } else { x };
    if x < -bound { -bound } else { x }
}

// 1/x: subtracting the bits from this constant negates the exponent and gives 1/x within 6 %.
const RECIP_SEED: u32 = 0x7ef2_5000;

/// 1/x for 2^-100 <= |x| <= 2^100. Largest error 1.17 ulp.
///
/// Three Newton steps square the seed's error each. The last is in residual form, which rounds least.
/// There x*y is a multiple of 2^-24 close to 1, so 1 - x*y is zero or at least 2^-24, and y times it at
/// least 2^-125.
#[inline(always)]
pub fn recip(x: Real) -> Real {
    let y = Real::from_bits(RECIP_SEED.wrapping_sub(x.to_bits()));
    let y = y * (2.0 - x * y);
    let y = y * (2.0 - x * y);
    y + y * (1.0 - x * y)
}

// 1/sqrt(x) within 3.5 %: halving the bits halves the exponent. The constant is Lomont's (Fast inverse
// square root, 2003).
const RSQRT_SEED: u32 = 0x5f37_5a86;

/// 1/sqrt(x) within 5e-6, by two Newton steps: what `rsqrt` and `sqrt` finish.
#[inline(always)]
fn rsqrt_rough(x: Real) -> Real {
    let x_half = 0.5 * x;
    let y = Real::from_bits(RSQRT_SEED.wrapping_sub(x.to_bits() >> 1));
    let y = y * (1.5 - x_half * y * y);
    y * (1.5 - x_half * y * y)
}

/// 1/sqrt(x) for 2^-100 <= x <= 2^100. Largest error 1.22 ulp. At 0 a finite number near 3e19.
#[inline(always)]
pub fn rsqrt(x: Real) -> Real {
    let y = rsqrt_rough(x);
    let residual = 1.0 - x * y * y;
    y + y * (0.5 * residual)
}

/// sqrt(x) for 2^-100 <= x <= 2^100, and sqrt(0) = 0. Largest error 0.85 ulp; squares of
/// integers up to 4096 give the integer.
///
/// x and s*s are multiples of 2^-124, so their difference is zero or at least that.
#[inline(always)]
pub fn sqrt(x: Real) -> Real {
    let y = rsqrt_rough(x);
    let s = x * y;
    s + (x - s * s) * (0.5 * y)
}

// Adding 1.5 * 2^23 rounds to an integer, whose two's complement is then in the sum's low bits.
const ROUND: Real = Real::from_bits(0x4b40_0000);
const ROUND_BITS: u32 = 0x4b40_0000;

const LOG2_E: Real = Real::from_bits(0x3fb8_aa3b);
// ln 2 in two parts (Cody and Waite). The first has 15 bits: its products with integers below 2^9 are exact.
const LN2_HIGH: Real = Real::from_bits(0x3f31_7200); // 0.69314575
const LN2_LOW: Real = Real::from_bits(0x35bf_be8e); // 1.4286068e-6

// (e^r - 1 - r) / r^2 for |r| <= ln(2)/2, with least largest relative error in e^r: 4e-9. This and the
// polynomials below are from tests/fit_polynomials.py.
const EXP_0: Real = Real::from_bits(0x3eff_fffe);
const EXP_1: Real = Real::from_bits(0x3e2a_aa49);
const EXP_2: Real = Real::from_bits(0x3d2a_ac79);
const EXP_3: Real = Real::from_bits(0x3c09_1cee);
const EXP_4: Real = Real::from_bits(0x3ab5_122c);

const EXP_LOWEST: Real = Real::from_bits(0xc2ae_0000); // -87
const EXP_HIGHEST: Real = Real::from_bits(0x42b0_0000); // 88

/// e^x for -87 <= x <= 88.
///
/// x = n ln 2 + r, and e^x = 2^n e^r. Snapping x first changes no result (below 2^-50 it is 1) and makes
/// r*r*q zero or at least 2^-101: if n = 0, r is x; else r is a multiple of 2^-43, as x and n * LN2_LOW are.
/// 2^n is put together from bits.
#[inline(always)]
fn exp_limited(x: Real) -> Real {
    let x = snap(x);
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let q = (((EXP_4 * r + EXP_3) * r + EXP_2) * r + EXP_1) * r + EXP_0;
    let e_r = 1.0 + (r + r * (r * q));
    let two_n = Real::from_bits((shifted.to_bits() << 23).wrapping_add(ONE_BITS));
    e_r * two_n
}

/// e^x for every x: +0 below -87, where the result nears the subnormals, and infinity above 88. Largest
/// error between them 1 ulp.
#[inline(always)]
pub fn exp(x: Real) -> Real {
    let limited = if x < EXP_LOWEST { EXP_LOWEST } else { x };
    let limited = if limited > EXP_HIGHEST { EXP_HIGHEST } else { limited };
    let y = exp_limited(limited);
    let y = if x < EXP_LOWEST { ZERO } else { y };
    if x > EXP_HIGHEST { INFINITY } else { y }
}

const SQRT_HALF_BITS: u32 = 0x3f35_04f3;

// (log(1 + f) - f + f^2/2) / f^3 for sqrt(1/2) <= 1 + f < sqrt(2), with least largest relative
// error in log: 7e-9.
const LOG_0: Real = Real::from_bits(0x3eaa_aaaa);
const LOG_1: Real = Real::from_bits(0xbe80_0113);
const LOG_2: Real = Real::from_bits(0x3e4c_d005);
const LOG_3: Real = Real::from_bits(0xbe2a_3925);
const LOG_4: Real = Real::from_bits(0x3e11_6d05);
const LOG_5: Real = Real::from_bits(0xbe06_c282);
const LOG_6: Real = Real::from_bits(0x3e02_ade3);
const LOG_7: Real = Real::from_bits(0xbd9c_5bc7);

/// Natural logarithm of a normal x > 0; infinity at infinity. Largest error 0.86 ulp.
///
/// x = 2^n (1 + f), and f is zero or at least 2^-24, so f^3 at least 2^-72 and every sum a multiple of
/// 2^-97.
#[inline(always)]
pub fn log(x: Real) -> Real {
    let above = x.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let f = Real::from_bits((above & MANTISSA_BITS) + SQRT_HALF_BITS) - 1.0;
    let n = Real::from_bits(ROUND_BITS.wrapping_add(((above as i32) >> 23) as u32)) - ROUND;
    let p = ((LOG_7 * f + LOG_6) * f + LOG_5) * f + LOG_4;
    let p = (((p * f + LOG_3) * f + LOG_2) * f + LOG_1) * f + LOG_0;
    let z = f * f;
    let y = f + ((f * z * p + n * LN2_LOW) - 0.5 * z);
    let y = y + n * LN2_HIGH;
    if x < INFINITY { y } else { x }
}

// e^40 is 2.4e17: beyond this, 1 + e^-t is 1 to the bit, or its reciprocal far below what snap leaves.
const LOGISTIC_LIMIT: Real = Real::from_bits(0x4220_0000); // 40

/// 1/(1 + e^-x) for every x; 4e-18 below -40. Largest error above that 2.93 ulp.
///
/// The exponential of -x, not of -|x|, keeps full relative accuracy where the result is small.
#[inline(always)]
pub fn sigmoid(x: Real) -> Real {
    recip(1.0 + exp_limited(-limit(x, LOGISTIC_LIMIT)))
}

// GELU's tanh form is a logistic one: 0.5 (1 + tanh u) = 1/(1 + e^-2u), so with t = 2u,
// t = 2 sqrt(2/pi) (x + 0.044715 x^3) = x (GELU_1 + GELU_3 x^2).
const GELU_1: Real = Real::from_bits(0x3fcc_422a); // 1.5957692
const GELU_3: Real = Real::from_bits(0x3d92_2279); // 0.071354814
const GELU_3_TIMES_3: Real = Real::from_bits(0x3e5b_33b6); // 0.21406445
const GELU_LIMIT: Real = Real::from_bits(0x4100_0000); // 8: t is 49 there, past the logistic's limit

/// GELU in its tanh form (Hendrycks and Gimpel, Gaussian Error Linear Units, 2016), for every snapped
/// x:
/// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). Exactly x for large x, +0 below about -7.3.
///
/// Largest error 3.33 ulp for x >= -1. Below, where the result vanishes, 0.43 ulp of x.
#[inline(always)]
pub fn gelu(x: Real) -> Real {
    let a = limit(x, GELU_LIMIT);
    let t = a * (GELU_1 + GELU_3 * (a * a));
    let e = exp_limited(-limit(t, LOGISTIC_LIMIT));
    let y = x * recip(1.0 + e);
    if t < -LOGISTIC_LIMIT { ZERO } else { y }
}

/// The derivative of [`gelu`] for every snapped x: s + x s (1 - s) dt/dx with s = 1/(1 + e^-t), where 1 - s
/// is taken as e^-t s so that nothing cancels. 1 for large x, +0 below about -7.3.
///
/// Largest error 2.53 ulp of 1, that is 3e-7.
#[inline(always)]
pub fn gelu_grad(x: Real) -> Real {
    let a = limit(x, GELU_LIMIT);
    let z = a * a;
    let t = a * (GELU_1 + GELU_3 * z);
    let dt = GELU_1 + GELU_3_TIMES_3 * z;
    let e = exp_limited(-limit(t, LOGISTIC_LIMIT));
    let s = recip(1.0 + e);
    let y = s * (1.0 + (a * dt) * (e * s));
    if t < -LOGISTIC_LIMIT { ZERO } else { y }
}

// (tanh(x) - x) / x^3 in powers of x^2 for |x| <= 0.625, with least largest relative error in tanh: 9e-9.
const TANH_0: Real = Real::from_bits(0xbeaa_aa99);
const TANH_1: Real = Real::from_bits(0x3e08_8393);
const TANH_2: Real = Real::from_bits(0xbd5c_1e2c);
const TANH_3: Real = Real::from_bits(0x3ca9_134a);
const TANH_4: Real = Real::from_bits(0xbbba_f0d7);

const TANH_NEAR: Real = Real::from_bits(0x3f20_0000); // 0.625
const TANH_LIMIT: Real = Real::from_bits(0x41a0_0000); // 20

/// tanh(x) for every snapped x. Largest error 1.63 ulp.
///
/// Near zero x + x^3 p(x^2), elsewhere 1 - 2/(1 + e^(2|x|)). Where x^2 is snapped, x is the result.
#[inline(always)]
pub fn tanh(x: Real) -> Real {
    let a = limit(x, TANH_LIMIT).abs();
    let z = snap(a * a);
    let p = (((TANH_4 * z + TANH_3) * z + TANH_2) * z + TANH_1) * z + TANH_0;
    let near = a + a * (z * p);
    let far = 1.0 - 2.0 * recip(1.0 + exp_limited(2.0 * a));
    let y = if a < TANH_NEAR { near } else { far };
    Real::from_bits(y.to_bits() | (x.to_bits() & SIGN_BIT))
}
