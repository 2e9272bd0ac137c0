//! The promise itself: 100 training steps of `nano`, with dropout and gradient accumulation, leave the
//! same bits on the CPU executor and on a Vulkan device, step after step.

mod common;
#[path = "common/recipe.rs"]
mod recipe;

use hlx::config::{Preset, TrainConfig, TrainOptions};
use hlx::cpu::CpuExecutor;
use hlx::data::Dataset;
use hlx::kernels::{Kernel, layernorm_forward};
use hlx::recording::{Executor, Program, Traits};
use hlx::train::init::{initial_parameters, initial_state};
use hlx::train::run::{feed, schedule, step_shape};
use hlx::train::session::{Session, TrainState};
use hlx::train::verify::{Trainer, verify};
use hlx::vulkan::VulkanExecutor;
use recipe::{Fault, Recipe};

const STEPS: u64 = 100;

fn config() -> TrainConfig {
    let options = TrainOptions {
        model: Some(Preset::Nano),
        steps: Some(STEPS),
        batch_size: Some(4),
        grad_accum: Some(2),
        dropout: Some(0.1),
        warmup_steps: Some(10),
        ..TrainOptions::default()
    };
    TrainConfig::resolve(options, None).unwrap()
}

fn trainer<'a>(
    device: &str,
    traits: Traits,
    data: &'a Dataset,
    initial: &'a TrainState,
    load: impl Fn(Program) -> Box<dyn Executor> + 'static,
) -> Trainer<'a> {
    let config = config();
    let shape = step_shape(&config, data.tokenizer.vocab_size());
    Trainer {
        device: device.to_owned(),
        session: Session::new(shape, traits, |train| Ok(load(train.program.clone()))).unwrap(),
        feed: feed(&config, data).unwrap(),
        schedule: schedule(&config, STEPS),
        weight_decay: config.weight_decay,
        initial,
        traits,
        load: Box::new(move |program| Ok(load(program))),
    }
}

#[test]
fn a_hundred_steps_leave_the_same_bits_on_every_device() {
    let config = config();
    let data = Dataset::load(&config, None).unwrap();
    let model = config.model_config(data.tokenizer.vocab_size());
    let initial = initial_state(initial_parameters(&model, config.seed));
    let device = common::open();
    let opened = device.clone();
    let on_vulkan =
        move |program| -> Box<dyn Executor> { Box::new(VulkanExecutor::load(&opened, program).unwrap()) };
    let mut trainers = [
        trainer("CPU executor", CpuExecutor::TRAITS, &data, &initial, |program| {
            Box::new(CpuExecutor::load(program).unwrap())
        }),
        trainer("Vulkan device", device.traits(), &data, &initial, on_vulkan),
    ];
    let mut losses = Vec::new();
    let found = verify(&mut trainers, 1, STEPS, |_, _, record| {
        losses.push(record.loss);
        Ok(())
    });
    let found = found.unwrap();
    assert_eq!(found.first_difference.map(|difference| difference.to_string()), None);
    // The steps did train: equal bits of a state that never moves would prove little.
    assert!(losses[STEPS as usize - 1] < losses[0] - 1.0, "{} to {}", losses[0], losses[STEPS as usize - 1]);
    println!("{}: digest {}", device.info().name, found.digest);
    common::assert_silent(&device);
}

/// One bit of epsilon is another in the last LayerNorm, behind all of attention.
fn with_another_last_norm(mut program: Program) -> Program {
    let dispatches = program.recordings.iter_mut().flat_map(|recording| &mut recording.dispatches);
    let norms = dispatches.filter(|dispatch| dispatch.kernel == Kernel::LayernormForward);
    // A block has two; recordings of the forward pass are three in this recipe.
    for dispatch in norms.skip(2).step_by(3) {
        let mut push = layernorm_forward::Push::from_bytes(&dispatch.push);
        push.eps *= 1.5;
        dispatch.push = push.to_bytes();
    }
    program
}

#[test]
fn the_first_wrong_operation_of_a_device_is_found_past_what_kernels_leave_open() {
    let recipe = Recipe::new();
    let sound = recipe.trainer("CPU executor", Fault::None);
    let device = common::open();
    let opened = device.clone();
    let load = move |program| -> Box<dyn Executor> {
        Box::new(VulkanExecutor::load(&opened, with_another_last_norm(program)).unwrap())
    };
    let traits = device.traits();
    let shape = sound.session.shape().clone();
    let session = Session::new(shape, traits, |train| Ok(load(train.program.clone()))).unwrap();
    let other = recipe.trainer("Vulkan device", Fault::None);
    let faulty = Trainer { session, traits, load: Box::new(move |program| Ok(load(program))), ..other };
    let found = verify(&mut [sound, faulty], 1, 2, |_, _, _| Ok(())).unwrap();
    let difference = found.first_difference.expect("another epsilon gives another result");
    let op = difference.op.expect("the replay finds it");
    assert_eq!((op.kernel.as_str(), op.tensor.as_str()), ("layernorm_forward", "normed"), "{op:?}");
}
