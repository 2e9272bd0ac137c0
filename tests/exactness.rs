//! The promise itself: 100 training steps of `nano`, with dropout and gradient accumulation, leave the
//! same bits on the CPU executor and on a Vulkan device, step after step.

mod common;

use hlx::config::{Preset, TrainConfig, TrainOptions};
use hlx::cpu::CpuExecutor;
use hlx::data::Dataset;
use hlx::recording::{Executor, Program, Traits};
use hlx::train::init::{initial_parameters, initial_state};
use hlx::train::run::{feed, schedule, step_shape};
use hlx::train::session::{Session, TrainState};
use hlx::train::verify::{Trainer, verify};
use hlx::vulkan::VulkanExecutor;

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
