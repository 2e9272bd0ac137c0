//! Whole steps in `mixed` on matrix units stay close to `exact` ones of the same model, tensor by tensor, and
//! give the same bits in every run. On a device without matrix units that hlx has kernels for, nothing can be
//! said.

mod common;

use hlx::config::ModelConfig;
use hlx::cpu::CpuExecutor;
use hlx::exact::random_u32;
use hlx::model::parameters::parameter_specs;
use hlx::precision::Precision;
use hlx::recording::{Executor, Factor, Traits};
use hlx::train::init::{initial_parameters, initial_state};
use hlx::train::program::{StepShape, TrainProgram};
use hlx::train::session::{MicroBatch, Session, StepRates, TrainState};
use hlx::vulkan::VulkanExecutor;

const STEPS: u64 = 2;

fn shape() -> StepShape {
    let model = ModelConfig {
        vocab_size: 29,
        context: 64,
        d_model: 64,
        n_layer: 2,
        n_head: 2,
        d_ff: 256,
        dropout: 0.0,
        layer_norm_eps: 1e-5,
    };
    let [beta1, beta2] = [0.9, 0.99];
    StepShape { model, batch_size: 3, grad_accum: 2, beta1, beta2, eps: 1e-8, grad_clip: 1.0, seed: 5 }
}

fn batch(shape: &StepShape, number: u64) -> MicroBatch {
    let tokens = |purpose| {
        let token = |i| random_u32(7, purpose, number, i) % shape.model.vocab_size as u32;
        (0..(shape.batch_size * shape.model.context) as u32).map(token).collect()
    };
    MicroBatch { tokens: tokens(1), targets: tokens(2) }
}

/// The state and the losses after some steps, the same each time that they are run.
fn run(
    traits: Traits,
    load: impl FnOnce(&TrainProgram) -> hlx::error::Result<Box<dyn Executor>>,
    times: usize,
) -> (TrainState, Vec<f32>) {
    let shape = shape();
    let mut session = Session::new(shape.clone(), traits, load).unwrap();
    let mut once = || {
        session.load_state(&initial_state(initial_parameters(&shape.model, 3))).unwrap();
        let rates = StepRates { lr: 1e-3, weight_decay: 0.1 };
        for step in 0..STEPS {
            session.step_now(&[batch(&shape, 2 * step), batch(&shape, 2 * step + 1)], rates).unwrap();
        }
        let losses = session.losses(&batch(&shape, 99)).unwrap();
        (session.state().unwrap(), losses)
    };
    let first = once();
    (1..times).for_each(|_| assert_eq!(once(), first, "the same bits in every run"));
    first
}

#[test]
fn moments_after_two_steps_are_close_to_the_exact_ones() {
    let device = common::open();
    let Some(units) = common::matrix_units(&device) else { return };
    let tolerance = match units.factor {
        Factor::Bf16 => 0.1,
        Factor::F16 => 0.02,
    };
    let cpu =
        |train: &TrainProgram| Ok(Box::new(CpuExecutor::load(train.program.clone())?) as Box<dyn Executor>);
    let (wanted, wanted_losses) = run(CpuExecutor::TRAITS, cpu, 1);
    let traits = Traits { precision: Precision::Mixed, fast_shared_memory: true, ..device.traits() };
    let vulkan = |train: &TrainProgram| {
        Ok(Box::new(VulkanExecutor::load(&device, train.program.clone())?) as Box<dyn Executor>)
    };
    let (got, losses) = run(traits, vulkan, 2);
    for (i, spec) in parameter_specs(&shape().model).iter().enumerate() {
        for (what, got, wanted) in [("m", &got.m, &wanted.m), ("v", &got.v, &wanted.v)] {
            let distance = common::distance(&got[i], &wanted[i]);
            assert!(distance <= tolerance, "{what} of {}: {distance:e} from the exact one", spec.name);
        }
    }
    let distance = common::distance(&losses, &wanted_losses);
    assert!(distance <= tolerance / 10.0, "losses: {distance:e} from the exact ones");
    common::assert_silent(&device);
}
