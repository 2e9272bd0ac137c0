//! Fused attention gives what the exact kernels give, as far as its precision promises.

#[path = "common/attention.rs"]
mod attention;
mod common;
#[path = "common/recipe.rs"]
mod recipe;

use std::sync::Arc;

use attention::{Case, outcomes, relative_error};
use hlx::config::TrainOptions;
use hlx::cpu::CpuExecutor;
use hlx::ops::attention::PARTS;
use hlx::precision::Precision;
use hlx::recording::{Executor, MatrixUnits, Program, Traits};
use hlx::train::digest::StateDigest;
use hlx::train::run::{feed, schedule, step_shape};
use hlx::train::session::{Session, StepRates};
use hlx::vulkan::{Device, VulkanExecutor};
use recipe::Recipe;

const TRAINED_STEPS: u64 = 20;

fn load(device: &Arc<Device>) -> impl FnOnce(Program) -> Box<dyn Executor> {
    |program| Box::new(VulkanExecutor::load(device, program).unwrap())
}

fn traits(device: &Device, precision: Precision) -> Traits {
    Traits { precision, fast_shared_memory: true, ..device.traits() }
}

/// B, H, T and D with ones, primes, and T at, before and past the edges of blocks.
fn cases() -> impl Iterator<Item = Case> {
    const SHAPES: [[usize; 4]; 14] = [
        [1, 1, 1, 1],
        [1, 1, 2, 4],
        [2, 3, 7, 5],
        [1, 2, 16, 16],
        [3, 1, 17, 8],
        [1, 2, 31, 32],
        [2, 2, 32, 64],
        [1, 3, 33, 64],
        [1, 1, 64, 36],
        [1, 2, 65, 64],
        [1, 1, 128, 32],
        [1, 1, 131, 48],
        [1, 1, 50, 100],
        [1, 1, 40, 128],
    ];
    SHAPES.iter().zip(1..).flat_map(|(&[batch, n_head, context, d_head], seed)| {
        [None, Some(0.2)].map(|dropout| Case { batch, n_head, context, d_head, dropout, seed, d_size: 1.0 })
    })
}

#[test]
fn f32_is_as_accurate_as_the_exact_kernels() {
    let device = common::open();
    let traits = traits(&device, Precision::F32);
    let mut worst: f64 = 0.0;
    let fused = |case: Case| {
        let fused = case.fused(&traits);
        // A device with little shared memory has no kernel for wide heads.
        assert!(fused.is_some() || case.d_head > 64, "{case:?} has no fused kernel");
        Some((case, fused?))
    };
    let jobs: Vec<_> = cases().filter_map(fused).collect();
    for ((case, _), fused) in jobs.iter().zip(outcomes(&jobs, &traits, load(&device))) {
        let (reference, exact) = (case.reference().parts(case), case.exact().parts(case));
        for (((name, fused), (_, exact)), (_, reference)) in
            fused.parts(case).iter().zip(&exact).zip(&reference)
        {
            let [error, exact_error] = [fused, exact].map(|x| relative_error(x, reference, case.d_size));
            let apart = relative_error(fused, exact, case.d_size);
            worst = worst.max(apart);
            assert!(exact_error <= 1e-6, "{case:?}: the exact {name} is {exact_error:e} from f64");
            // Where the exact kernels are that far from f64 themselves, nothing more is asked.
            assert!(
                apart <= 1e-6 || error <= exact_error,
                "{case:?}: {name} is {apart:e} from exact, {error:e} from f64, exact {exact_error:e}"
            );
        }
    }
    println!("{}: at most {worst:.1e} from the exact kernels", device.info().name);
    common::assert_silent(&device);
}

/// Traits for each way in which the device's matrix units are used: through memory, and in registers.
fn mixed_traits(device: &Device) -> Vec<Traits> {
    let traits = traits(device, Precision::Mixed);
    let Some(units) = common::matrix_units(device) else { return Vec::new() };
    let ways = [false, true].into_iter().filter(|&in_registers| units.in_registers || !in_registers);
    ways.map(|in_registers| Traits { matrix_units: Some(MatrixUnits { in_registers, ..units }), ..traits })
        .collect()
}

/// What 16-bit factors may cost where the inputs are such numbers already. Probabilities and the scores'
/// gradient rounded to the nearest bfloat16, in a calculation that is exact but for that, put the outputs
/// 1.1e-3 off and the gradients at most 2.4e-3; digits cut off instead would cost twice that.
const LIMIT: f64 = 3.5e-3;

/// Gradients have the size that the mean over all positions gives them, or are far smaller.
#[test]
fn mixed_is_within_what_sixteen_bits_allow() {
    let device = common::open();
    for traits in mixed_traits(&device) {
        let mut worst: f64 = 0.0;
        let cases = cases().filter(|case| case.d_head % 16 == 0).map(|case| {
            let positions = (case.batch * case.context) as f64;
            Case { d_size: if case.dropout.is_some() { 1.0 } else { 1e-5 } / positions, ..case }
        });
        let fused = |case: Case| (case, case.fused(&traits).expect("a kernel for every multiple of 16"));
        let jobs: Vec<_> = cases.map(fused).collect();
        for ((case, _), fused) in jobs.iter().zip(outcomes(&jobs, &traits, load(&device))) {
            let reference = case.reference();
            for ((name, fused), (_, reference)) in fused.parts(case).iter().zip(&reference.parts(case)) {
                let error = relative_error(fused, reference, case.d_size);
                worst = worst.max(error);
                assert!(error <= LIMIT, "{traits:?}, {case:?}: {name} is {error:e} from f64");
            }
        }
        println!("{}, {:?}: at most {worst:.1e} from f64", device.info().name, traits.matrix_units);
    }
    common::assert_silent(&device);
}

/// Every block size that fits the device gives what the one that is taken gives.
#[test]
fn every_block_size_is_as_accurate() {
    let device = common::open();
    let mixed = mixed_traits(&device);
    for traits in [traits(&device, Precision::F32)].into_iter().chain(mixed) {
        for (context, d_head, dropout) in [(200, 64, Some(0.1)), (300, 32, None)] {
            let d_size = 1.0 / context as f64;
            let case = Case { batch: 1, n_head: 2, context, d_head, dropout, seed: 9, d_size };
            let reference = case.reference();
            let taken = case.fused(&traits).expect("a kernel");
            let variants = PARTS.into_iter().flat_map(|part| taken.variants(part, &traits));
            let jobs: Vec<_> = variants.map(|variant| (case, variant)).collect();
            for ((_, variant), found) in jobs.iter().zip(outcomes(&jobs, &traits, load(&device))) {
                for ((name, found), (_, reference)) in found.parts(&case).iter().zip(&reference.parts(&case))
                {
                    let error = relative_error(found, reference, case.d_size);
                    let limit = if taken.keeps_f32() { 1e-6 } else { LIMIT };
                    assert!(error <= limit, "{variant:?}: {name} is {error:e} from f64");
                }
            }
        }
    }
    common::assert_silent(&device);
}

/// Losses of 20 training steps, and the digest of the state after them.
fn train(
    recipe: &Recipe,
    traits: Traits,
    load: impl FnOnce(Program) -> Box<dyn Executor>,
) -> (Vec<f32>, StateDigest) {
    let shape = step_shape(&recipe.config, recipe.data.tokenizer.vocab_size());
    let mut session = Session::new(shape, traits, |train| {
        let fused = train.program.buffers.iter().any(|b| b.name == "h.0.lse");
        assert_eq!(fused, traits.precision == Precision::Mixed);
        Ok(load(train.program.clone()))
    })
    .unwrap();
    session.load_state(&recipe.initial).unwrap();
    let mut feed = feed(&recipe.config, &recipe.data).unwrap();
    let schedule = schedule(&recipe.config, TRAINED_STEPS);
    let losses = (0..TRAINED_STEPS).map(|step| {
        let rates = StepRates { lr: schedule.lr(step), weight_decay: recipe.config.weight_decay };
        session.step_now(feed.micro_batches(step), rates).unwrap().loss
    });
    let losses = losses.collect();
    (losses, StateDigest::of(&session.state().unwrap()))
}

/// Training in the fast precisions follows training in exact precision, dropout included: the masks are the
/// same. `mixed` has fused attention.
#[test]
fn a_model_trains_as_in_exact_precision() {
    let device = common::open();
    let mixed = mixed_traits(&device).into_iter().map(|traits| (traits, 0.02));
    for (traits, limit) in [(traits(&device, Precision::F32), 1e-4)].into_iter().chain(mixed) {
        for dropout in [0.0, 0.1] {
            let recipe = Recipe::of(TrainOptions {
                n_layer: Some(2),
                d_model: Some(32),
                n_head: Some(2),
                context: Some(40),
                batch_size: Some(3),
                grad_accum: Some(2),
                dropout: Some(dropout),
                steps: Some(TRAINED_STEPS),
                warmup_steps: Some(2),
                val_fraction: Some(0.0),
                ..TrainOptions::default()
            });
            let on_cpu = |program| -> Box<dyn Executor> { Box::new(CpuExecutor::load(program).unwrap()) };
            let (exact, _) = train(&recipe, CpuExecutor::TRAITS, on_cpu);
            let (losses, digest) = train(&recipe, traits, load(&device));
            for (step, (loss, exact)) in losses.iter().zip(&exact).enumerate() {
                let off = (loss - exact).abs();
                assert!(off <= limit, "{traits:?}, dropout {dropout}, step {step}: {loss}, exact {exact}");
            }
            assert!(losses[TRAINED_STEPS as usize - 1] < losses[0] - 0.1, "nothing was learnt: {losses:?}");
            assert_eq!(train(&recipe, traits, load(&device)), (losses, digest), "a second run");
        }
    }
    common::assert_silent(&device);
}
