//! Operations on tensors kept in 16 bits, against the exact ones on the same numbers.

#[path = "common/case.rs"]
mod case;
mod common;
#[path = "common/halves.rs"]
mod halves;

use std::sync::Arc;

use hlx::cpu::CpuExecutor;
use hlx::exact::random_u32;
use hlx::ops::column_sum;
use hlx::ops::layernorm::LayerNorm;
use hlx::ops::narrow::{self, NormGradients};
use hlx::ops::{Recorder, cross_entropy};
use hlx::precision::Precision;
use hlx::recording::{Factor, MatrixUnits, Traits};
use hlx::vulkan::{Device, VulkanExecutor};

use case::{Case, Output};
use halves::GRADIENT_SCALE;

const FACTORS: [Factor; 2] = [Factor::Bf16, Factor::F16];

/// The most that rounding may change a number: half a unit in the last place, of a subnormal number as much
/// as of the least normal one.
fn rounding(factor: Factor, gradient: bool, x: f64) -> f64 {
    match factor {
        Factor::Bf16 => x.abs() * 2f64.powi(-8),
        Factor::F16 => {
            let scale = if gradient { f64::from(GRADIENT_SCALE) } else { 1.0 };
            (x.abs() * 2f64.powi(-11)).max(2f64.powi(-25) / scale)
        }
    }
}

/// Panics if a tensor is further from the exact one than its arithmetic, and rounding to 16 bits, allow.
fn check(what: &str, wanted: &[f64], got: &[f64], rounding: impl Fn(f64) -> f64) {
    let size = (wanted.iter().map(|x| x * x).sum::<f64>() / wanted.len() as f64).sqrt();
    for (at, (x, y)) in got.iter().zip(wanted).enumerate() {
        let (error, allowed) = ((x - y).abs(), rounding(*y) + 2e-6 * size.max(y.abs()));
        assert!(error <= allowed, "{what}[{at}] is {x:e}, of {y:e}: {error:e} away, {allowed:e} allowed");
    }
}

/// Compares what `record` gives in both ways.
fn compare(device: &Arc<Device>, what: &str, factor: Factor, record: impl Fn(&mut Case, &mut Recorder)) {
    let subgroup_size = device.info().subgroup_size;
    let units = MatrixUnits { subgroup_size, ..MatrixUnits::usual(factor) };
    let fast = Traits {
        precision: Precision::Mixed,
        fast_shared_memory: true,
        matrix_units: Some(units),
        ..device.traits()
    };
    let build = |narrow, traits| {
        let mut case = Case::new(factor, narrow);
        let mut recorder = Recorder::new(traits, None);
        record(&mut case, &mut recorder);
        case.program.add_recording("case", recorder.dispatches);
        case
    };
    let (exact, narrow) = (build(false, CpuExecutor::TRAITS), build(true, fast));
    let wanted = exact.run(&mut CpuExecutor::load(exact.program.clone()).unwrap());
    let run = || narrow.run(&mut VulkanExecutor::load(device, narrow.program.clone()).unwrap());
    let got = run();
    for (i, Output { what: name, tensor, gradient }) in narrow.outputs.iter().enumerate() {
        let [wanted, got] = [exact.numbers(i, &wanted[i]), narrow.numbers(i, &got[i])];
        let rounds = |x| if tensor.narrow { rounding(factor, *gradient, x) } else { 0.0 };
        check(&format!("{what} {factor:?}: {name}"), &wanted, &got, rounds);
    }
    assert_eq!(run(), got, "{what} {factor:?}: the same bits in every run");
}

#[test]
fn columns_of_16_bit_gradients_sum_to_the_exact_sums_within_rounding() {
    let device = common::open();
    for (factor, rows, columns) in FACTORS.into_iter().flat_map(|f| [(f, 1, 8), (f, 70, 64), (f, 3000, 24)]) {
        compare(&device, "column sum", factor, |case, r| {
            let input = case.tensor(rows * columns, 1e-5, true);
            let partials = case.scratch(column_sum::scratch_words(columns, input.narrow));
            let output = case.output("sums", columns);
            column_sum::column_sum(r, input, output, partials);
        });
    }
    common::assert_silent(&device);
}

fn norms() -> impl Iterator<Item = (Factor, usize, usize)> {
    let shapes = [(1, 8), (3, 200), (300, 128), (41, 264)];
    FACTORS.into_iter().flat_map(move |factor| shapes.map(|(rows, d_model)| (factor, rows, d_model)))
}

#[test]
fn a_norm_into_16_bits_is_the_exact_one_within_rounding() {
    let device = common::open();
    for (factor, rows, d_model) in norms() {
        for (with_branch, narrow_branch) in [(false, false), (true, false), (true, true)] {
            compare(&device, &format!("norm of {rows} x {d_model}"), factor, |case, r| {
                let stream = case.full(rows * d_model, 2.0);
                let (gamma, beta) = (case.full(d_model, 1.0), case.full(d_model, 1.0));
                let stats = case.output("stats", 2 * rows);
                let norm = LayerNorm { d_model, eps: 1e-5, gamma, beta, stats };
                let output = case.tensor_output("output", rows * d_model, false);
                let added = with_branch.then(|| {
                    let branch = match narrow_branch {
                        true => case.tensor(rows * d_model, 1.0, false),
                        false => case.full(rows * d_model, 1.0).into(),
                    };
                    (branch, case.output("sum", rows * d_model))
                });
                if output.narrow {
                    return narrow::layernorm_forward(r, &norm, stream, added, output);
                }
                if let Some((branch, sum)) = added {
                    hlx::ops::residual::add(r, stream, branch.full(), sum);
                }
                norm.forward(r, added.map_or(stream, |(_, sum)| sum), output.full());
            });
        }
    }
    common::assert_silent(&device);
}

#[test]
fn a_norms_gradient_from_16_bits_is_the_exact_one_within_rounding() {
    let device = common::open();
    for (factor, rows, d_model) in norms() {
        for (add_residual, with_bias) in [(false, true), (true, false), (true, true)] {
            compare(&device, &format!("norm's gradient of {rows} x {d_model}"), factor, |case, r| {
                let len = rows * d_model;
                let (input, gamma) = (case.full(len, 2.0), case.full(d_model, 1.0));
                let stats =
                    (0..rows).flat_map(|row| [0.1 * (row % 7) as f32, 0.5].map(f32::to_bits)).collect();
                let (stats, beta) = (case.add(stats), case.full(d_model, 1.0));
                let norm = LayerNorm { d_model, eps: 1e-5, gamma, beta, stats };
                let d_output = case.tensor(len, 1e-5, true);
                let d_input = case.full(len, 1e-5);
                case.outputs.push(Output { what: "d_input", tensor: d_input.into(), gradient: false });
                let d_gamma = case.output("d_gamma", d_model);
                let d_beta = case.output("d_beta", d_model);
                let column_sum = with_bias.then(|| case.output("column sum", d_model));
                if d_output.narrow {
                    let narrow = case.tensor_output("d_input in 16 bits", len, true);
                    let gradients =
                        NormGradients { d_input, add_residual, narrow, d_gamma, d_beta, column_sum };
                    let scratch = case.scratch(narrow::norm_scratch_words(d_model));
                    return narrow::layernorm_backward(r, &norm, input, d_output, &gradients, scratch);
                }
                let partials = case.scratch(LayerNorm::scratch_words(d_model));
                let d_output = d_output.full();
                norm.backward(r, input, d_output, d_input, add_residual, d_gamma, d_beta, partials);
                if let Some(sum) = column_sum {
                    let partials = case.scratch(column_sum::scratch_words(d_model, false));
                    column_sum::column_sum(r, d_input.into(), sum, partials);
                }
                case.outputs.push(Output { what: "d_input", tensor: d_input.into(), gradient: false });
            });
        }
    }
    common::assert_silent(&device);
}

#[test]
fn the_logits_gradient_in_16_bits_is_the_exact_one_within_rounding() {
    let device = common::open();
    let shapes = [(1, 1024), (5, 5008), (300, 8), (9, 200)];
    let cases = FACTORS.into_iter().flat_map(|factor| shapes.map(|(rows, v)| (factor, rows, v)));
    for (factor, rows, vocab_size) in cases {
        compare(&device, "cross-entropy", factor, |case, r| {
            let logits = case.full(rows * vocab_size, 3.0);
            let target = |row: usize| random_u32(1, 2, 0, row as u32) % vocab_size as u32;
            let targets = case.add((0..rows).map(target).collect());
            let losses = case.output("losses", rows);
            let gradient = case.tensor_output("gradient", rows * vocab_size, true);
            let scale = 0.37 / rows as f32;
            if gradient.narrow && !cross_entropy::is_fused(vocab_size, &r.traits) {
                return cross_entropy::short(r, logits, targets, losses, gradient, scale);
            }
            if gradient.narrow {
                return cross_entropy::fused(r, logits, targets, losses, gradient, scale);
            }
            cross_entropy::forward(r, logits, targets, losses, gradient.full());
            cross_entropy::backward(r, targets, gradient.full(), scale);
        });
    }
    common::assert_silent(&device);
}
