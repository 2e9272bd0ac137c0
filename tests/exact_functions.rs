//! Holds every exact function to its stated error against f64, over a strided set of inputs at each run and
//! over every f32 on demand: `cargo test --release --test exact_functions -- --ignored --nocapture`.

use hlx::exact;
use rayon::prelude::*;
use std::ops::RangeInclusive;

/// What an error is counted in.
#[derive(Clone, Copy)]
enum Unit {
    /// Units in the last place of the exact result.
    Ulp,
    /// Units in the last place of the input.
    UlpOfInput,
    /// Units in the last place of 1, that is 2^-23.
    UlpOfOne,
}

struct Function {
    name: &'static str,
    exact: fn(f32) -> f32,
    reference: fn(f64) -> f64,
    /// The inputs, as ranges of values of one sign.
    domain: &'static [RangeInclusive<f32>],
    unit: Unit,
    /// The worst over the whole domain, measured by `every_input`, rounded up to three places.
    worst: f64,
}

const TINY: f32 = f32::from_bits(0x2680_0000); // 2^-50: the least that snap leaves
const LEAST: f32 = f32::from_bits(0x0d80_0000); // 2^-100
const MOST: f32 = f32::from_bits(0x7180_0000); // 2^100

const FUNCTIONS: &[Function] = &[
    Function {
        name: "recip",
        exact: exact::recip,
        reference: |x| 1.0 / x,
        domain: &[LEAST..=MOST, -LEAST..=-MOST],
        unit: Unit::Ulp,
        worst: 1.166,
    },
    Function {
        name: "rsqrt",
        exact: exact::rsqrt,
        reference: |x| 1.0 / libm::sqrt(x),
        domain: &[LEAST..=MOST],
        unit: Unit::Ulp,
        worst: 1.218,
    },
    Function {
        name: "sqrt",
        exact: exact::sqrt,
        reference: libm::sqrt,
        domain: &[0.0..=0.0, LEAST..=MOST],
        unit: Unit::Ulp,
        worst: 0.850,
    },
    Function {
        name: "exp",
        exact: exact::exp,
        reference: libm::exp,
        domain: &[0.0..=88.0, -0.0..=-87.0],
        unit: Unit::Ulp,
        worst: 0.992,
    },
    Function {
        name: "log",
        exact: exact::log,
        reference: libm::log,
        domain: &[f32::MIN_POSITIVE..=f32::MAX],
        unit: Unit::Ulp,
        worst: 0.860,
    },
    Function {
        name: "sigmoid",
        exact: exact::sigmoid,
        reference: sigmoid,
        domain: &[0.0..=f32::MAX, -0.0..=-40.0],
        unit: Unit::Ulp,
        worst: 2.927,
    },
    Function {
        name: "tanh",
        exact: exact::tanh,
        reference: libm::tanh,
        domain: &[0.0..=0.0, TINY..=f32::MAX, -TINY..=f32::MIN],
        unit: Unit::Ulp,
        worst: 1.630,
    },
    Function {
        name: "gelu, x >= -1",
        exact: exact::gelu,
        reference: gelu,
        domain: &[0.0..=0.0, TINY..=f32::MAX, -TINY..=-1.0],
        unit: Unit::Ulp,
        worst: 3.322,
    },
    Function {
        name: "gelu, x <= -1",
        exact: exact::gelu,
        reference: gelu,
        domain: &[-1.0..=f32::MIN],
        unit: Unit::UlpOfInput,
        worst: 0.423,
    },
    Function {
        name: "gelu_grad",
        exact: exact::gelu_grad,
        reference: gelu_grad,
        domain: &[0.0..=0.0, TINY..=f32::MAX, -TINY..=f32::MIN],
        unit: Unit::UlpOfOne,
        worst: 2.521,
    },
];

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

const GELU_SCALE: f64 = 1.595_769_121_605_730_7; // 2 sqrt(2/pi)

fn gelu(x: f64) -> f64 {
    x * sigmoid(GELU_SCALE * (x + 0.044715 * x * x * x))
}

fn gelu_grad(x: f64) -> f64 {
    if x.abs() > 30.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let t = GELU_SCALE * (x + 0.044715 * x * x * x);
    let dt = GELU_SCALE * (1.0 + 3.0 * 0.044715 * x * x);
    sigmoid(t) + x * sigmoid(t) * sigmoid(-t) * dt
}

/// The distance between neighbouring f32 around a value.
fn ulp(value: f64) -> f64 {
    let exponent = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    libm::ldexp(1.0, exponent.max(-126) - 23)
}

impl Function {
    fn error(&self, x: f32) -> f64 {
        let y = (self.exact)(x);
        assert!(!y.is_subnormal(), "{}({x:e}) is subnormal: {y:e}", self.name);
        let wanted = (self.reference)(f64::from(x));
        let unit = match self.unit {
            Unit::Ulp => ulp(wanted),
            Unit::UlpOfInput => ulp(f64::from(x)),
            Unit::UlpOfOne => ulp(1.0),
        };
        (f64::from(y) - wanted).abs() / unit
    }

    /// The worst error and where it is, over each `stride`th input.
    fn worst_error(&self, stride: usize) -> (f64, f32) {
        let worst = |a: (f64, f32), b: (f64, f32)| if b.0 > a.0 || b.0.is_nan() { b } else { a };
        let over_range = |range: &RangeInclusive<f32>| {
            let (first, last) = (range.start().to_bits(), range.end().to_bits());
            let inputs = (last - first) as usize / stride + 1;
            (0..inputs)
                .into_par_iter()
                .with_min_len(1 << 16)
                .map(|i| f32::from_bits(first + (i * stride) as u32))
                .chain(rayon::iter::once(*range.end()))
                .map(|x| (self.error(x), x))
                .reduce(|| (0.0, 0.0), worst)
        };
        self.domain.iter().map(over_range).fold((0.0, 0.0), worst)
    }
}

#[test]
fn errors_are_as_stated() {
    for function in FUNCTIONS {
        let (error, x) = function.worst_error(251);
        assert!(error <= function.worst, "{}({x:e}) is off by {error:.4}", function.name);
    }
}

/// Measures the table's worst errors; minutes on two cores.
#[test]
#[ignore = "takes minutes: measures what errors_are_as_stated asserts"]
fn every_input() {
    for function in FUNCTIONS {
        let (error, x) = function.worst_error(1);
        println!("{:16} {error:.6} at {x:e} (0x{:08x})", function.name, x.to_bits());
        assert!(error <= function.worst, "{} exceeds its stated {}", function.name, function.worst);
    }
}
