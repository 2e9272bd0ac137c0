//! The probe: runs each function of the exact arithmetic on a device and compares it, bit by bit, with
//! this computer's own result. A device that differs anywhere cannot keep the exact contract.

use std::ops::RangeInclusive;

use rayon::prelude::*;

use super::grid::{elements_per_task, flat_groups, vectorized};
use super::word;
use crate::error::Result;
use crate::exact;
use crate::kernels::exact_probe;
use crate::recording::{Dispatch, Executor, Group, Program, Residence, View};

/// A function that the probe's kernel can apply; its number is its place in [`FUNCTIONS`].
pub struct Function {
    /// As messages name it.
    pub name: &'static str,
    /// The inputs for which its bits are fixed, as ranges of bit patterns.
    pub domain: &'static [RangeInclusive<u32>],
}

const SIGN: u32 = 0x8000_0000;
const POSITIVE: RangeInclusive<u32> = 0x0080_0000..=0x7f7f_ffff; // normal and finite
const SNAPPED: &[RangeInclusive<u32>] = &[0..=0, 0x2680_0000..=0x7f7f_ffff, 0xa680_0000..=0xff7f_ffff];
const FINITE: &[RangeInclusive<u32>] = &[0..=0x7f7f_ffff, SIGN..=0xff7f_ffff];
const TO_2_100: RangeInclusive<u32> = 0x0d80_0000..=0x7180_0000; // 2^-100 to 2^100
const TO_MINUS_2_100: RangeInclusive<u32> = 0x8d80_0000..=0xf180_0000;
const TO_2_50: &[RangeInclusive<u32>] = &[0x2680_0000..=0x5880_0000, 0xa680_0000..=0xd880_0000];

/// Every function, by its number in the kernel.
#[rustfmt::skip]
pub const FUNCTIONS: [Function; 13] = [
    Function { name: "snap", domain: FINITE },
    Function { name: "snap_moment", domain: FINITE },
    Function { name: "recip", domain: &[TO_2_100, TO_MINUS_2_100] },
    Function { name: "rsqrt", domain: &[0..=0, TO_2_100] },
    Function { name: "sqrt", domain: &[0..=0, TO_2_100] },
    Function { name: "exp", domain: FINITE },
    Function { name: "log", domain: &[POSITIVE] },
    Function { name: "sigmoid", domain: FINITE },
    Function { name: "gelu", domain: SNAPPED },
    Function { name: "gelu_grad", domain: SNAPPED },
    Function { name: "tanh", domain: SNAPPED },
    // Of four neighbouring inputs: a * b + c + d.
    Function { name: "multiply, add, add", domain: TO_2_50 },
    Function { name: "random numbers", domain: &[0..=u32::MAX] },
];

/// `output` = function number `function` of `input`, both as bits. input, output: `[count]`.
pub fn probe(function: usize, input: View, output: View) -> Dispatch {
    assert!(function < FUNCTIONS.len(), "the probe has no function {function}");
    assert_eq!(input.words, output.words, "the probe has one output for each input");
    exact_probe::dispatch(
        exact_probe::Push { count: word(input.words), function: word(function) },
        Default::default(),
        exact_probe::Bindings { input, output },
        flat_groups(input.words, 64),
    )
}

/// Twin of shaders/exact_probe.comp.
pub fn exact_probe(a: exact_probe::Args) {
    let (input, count, function) = (a.input, a.push.count as usize, a.push.function);
    let task = elements_per_task();
    a.output[..count].par_chunks_mut(task).enumerate().for_each(|(k, output)| {
        let first = k * task;
        vectorized!(|input: &[u32], output: &mut [u32], first: usize, count: usize, function: u32| {
            let argument = |i: usize| f32::from_bits(input[i % count]);
            match function {
                0 => apply(exact::snap, &input[first..], output),
                1 => apply(exact::snap_moment, &input[first..], output),
                2 => apply(exact::recip, &input[first..], output),
                3 => apply(exact::rsqrt, &input[first..], output),
                4 => apply(exact::sqrt, &input[first..], output),
                5 => apply(exact::exp, &input[first..], output),
                6 => apply(exact::log, &input[first..], output),
                7 => apply(exact::sigmoid, &input[first..], output),
                8 => apply(exact::gelu, &input[first..], output),
                9 => apply(exact::gelu_grad, &input[first..], output),
                10 => apply(exact::tanh, &input[first..], output),
                11 => {
                    for (i, o) in (first..).zip(output) {
                        let y = argument(i) * argument(i + 1) + argument(i + 2) + argument(i + 3);
                        *o = y.to_bits();
                    }
                }
                _ => {
                    for (i, o) in (first..).zip(output) {
                        let seed = u64::from(input[i]) | 1 << 32;
                        *o = exact::random_u32(seed, 2, 3 | 4 << 32, i as u32);
                    }
                }
            }
        })
    });
}

#[inline(always)]
fn apply(function: impl Fn(f32) -> f32, input: &[u32], output: &mut [u32]) {
    for (o, x) in output.iter_mut().zip(input) {
        *o = function(f32::from_bits(*x)).to_bits();
    }
}

/// `count` inputs of a function, drawn over its whole domain: the same ones at each call.
pub fn sample(function: usize, count: usize) -> Vec<u32> {
    let domain = FUNCTIONS[function].domain;
    let length = |range: &RangeInclusive<u32>| u64::from(range.end() - range.start()) + 1;
    let total: u64 = domain.iter().map(length).sum();
    let draw = |i: usize| {
        let word = exact::random_u32(0, function as u32, 0, i as u32);
        let mut place = (u64::from(word) * total) >> 32;
        for range in domain {
            if place < length(range) {
                return range.start() + place as u32;
            }
            place -= length(range);
        }
        unreachable!("the place is below the domain's length")
    };
    (0..count).map(draw).collect()
}

/// Where a device's result is not the one that the contract fixes; all three as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name in [`FUNCTIONS`].
    pub function: &'static str,
    /// The input.
    pub input: u32,
    /// The contract's result.
    pub wanted: u32,
    /// The device's result.
    pub got: u32,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Difference { function, input, wanted, got } = self;
        write!(f, "{function} of 0x{input:08x} is 0x{got:08x} there and 0x{wanted:08x} by the exact contract")
    }
}

/// Runs every function over `count` inputs of its domain on the executor that `load` makes, and returns
/// the first difference from the contract. A few thousand are enough to tell devices apart.
pub fn first_difference<E: Executor>(
    count: usize,
    load: impl FnOnce(Program) -> Result<E>,
) -> Result<Option<Difference>> {
    let mut program = Program::default();
    let mut add = |name: String| program.add_buffer(&name, count, Group::Scratch, Residence::Device);
    let views: Vec<(View, View)> = FUNCTIONS
        .iter()
        .map(|function| (add(format!("{}.input", function.name)), add(format!("{}.output", function.name))))
        .collect();
    let dispatches =
        views.iter().enumerate().map(|(function, &(input, output))| probe(function, input, output));
    let recording = program.add_recording("probe", dispatches.collect());
    let mut executor = load(program)?;
    for (function, (input, _)) in views.iter().enumerate() {
        executor.write(*input, &sample(function, count))?;
    }
    executor.submit(recording, &[])?;
    for (function, (_, output)) in views.iter().enumerate() {
        let difference = compare(function, &sample(function, count), &executor.read(*output)?);
        if difference.is_some() {
            return Ok(difference);
        }
    }
    Ok(None)
}

/// The first difference between a device's results for `input` and the contract's.
pub fn compare(function: usize, input: &[u32], got: &[u32]) -> Option<Difference> {
    assert_eq!(input.len(), got.len(), "the probe has one output for each input");
    let wanted = results(function, input);
    let i = wanted.iter().zip(got).position(|(wanted, got)| wanted != got)?;
    Some(Difference { function: FUNCTIONS[function].name, input: input[i], wanted: wanted[i], got: got[i] })
}

/// The contract's results of a function.
fn results(function: usize, input: &[u32]) -> Vec<u32> {
    let mut output = vec![0; input.len()];
    exact_probe(exact_probe::Args {
        push: exact_probe::Push { count: word(input.len()), function: word(function) },
        specialization: Default::default(),
        groups: [1, 1, 1],
        input,
        output: &mut output,
    });
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn vectorized_results_are_the_scalar_ones() {
        let scalar: [fn(f32) -> f32; 11] = [
            exact::snap,
            exact::snap_moment,
            exact::recip,
            exact::rsqrt,
            exact::sqrt,
            exact::exp,
            exact::log,
            exact::sigmoid,
            exact::gelu,
            exact::gelu_grad,
            exact::tanh,
        ];
        for (function, one) in scalar.into_iter().enumerate() {
            let input = sample(function, 100_003);
            for (x, y) in input.iter().zip(results(function, &input)) {
                let wanted = black_box(one)(f32::from_bits(*x)).to_bits();
                assert_eq!(y, wanted, "{} of 0x{x:08x}", FUNCTIONS[function].name);
            }
        }
    }

    #[test]
    fn samples_lie_in_the_domain_and_reach_each_range() {
        for (function, Function { name, domain }) in FUNCTIONS.iter().enumerate() {
            let words = sample(function, 4096);
            assert!(words.iter().all(|word| domain.iter().any(|range| range.contains(word))), "{name}");
            for range in domain.iter().filter(|range| range.end() > range.start()) {
                assert!(words.iter().any(|word| range.contains(word)), "{name}: none in {range:x?}");
            }
        }
    }

    #[test]
    fn one_wrong_bit_is_named() {
        for function in 0..FUNCTIONS.len() {
            let input = sample(function, 1000);
            let mut got = results(function, &input);
            assert_eq!(compare(function, &input, &got), None);
            got[777] ^= 1;
            let difference = compare(function, &input, &got).expect("a bit differs");
            assert_eq!((difference.input, difference.got), (input[777], got[777]));
        }
    }
}
