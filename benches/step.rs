//! Tokens per second of training steps: `cargo bench --bench step` on the CPU executor,
//! `cargo bench --bench step -- vulkan [DEVICE]` on a Vulkan device. `RUST_LOG=hlx::cpu=debug` adds what
//! each kernel took on the CPU; a last argument `kernels` does so on a Vulkan device.
//!
//! Presets and batch sizes as in the README's table, character vocabulary of 65, random tokens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hlx::config::Preset;
use hlx::cpu::CpuExecutor;
use hlx::exact::random_u32;
use hlx::recording::Executor;
use hlx::train::init::{initial_parameters, initial_state};
use hlx::train::program::{StepShape, TrainProgram};
use hlx::train::session::{MicroBatch, Session, StepRates};
use hlx::vulkan::{Device, Selection, VulkanExecutor};

const VOCABULARY: usize = 65;

/// How long each preset trains, and at least how many steps.
const TIME: Duration = Duration::from_secs(5);
const STEPS: usize = 10;

fn main() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let device = (arguments.first().map(String::as_str) == Some("vulkan")).then(|| {
        let name = arguments.get(1).map_or("auto", String::as_str);
        let selection: Selection = name.parse().expect("every text names a device");
        Device::open(&selection, false).unwrap_or_else(|error| panic!("{error}"))
    });
    match &device {
        Some(device) => println!("{}", device.info().name),
        None => println!("CPU executor, {} threads", rayon::current_num_threads()),
    }
    for (preset, batch_size) in [(Preset::Nano, 12), (Preset::Tiny, 16)] {
        let model = preset.config(VOCABULARY);
        let tokens = batch_size * model.context;
        let shape = StepShape {
            model,
            batch_size,
            grad_accum: 1,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            grad_clip: 1.0,
            seed: 1,
        };
        let traits = device.as_ref().map_or(CpuExecutor::TRAITS, |device| device.traits());
        let session = Session::new(shape.clone(), traits, |train| {
            let program = train.program.clone();
            Ok(match &device {
                Some(device) => Box::new(VulkanExecutor::load(device, program)?) as Box<dyn Executor>,
                None => Box::new(CpuExecutor::load(program)?),
            })
        });
        if let (Some(device), true) = (&device, arguments.iter().any(|a| a == "kernels")) {
            print_kernels(device, &shape);
        }
        let step_ms = step_ms(&mut session.expect("it fits"), &shape, tokens);
        let tokens_per_second = tokens as f64 / step_ms * 1e3;
        println!(
            "{}, batch {batch_size}: {step_ms:.2} ms a step, {tokens_per_second:.0} tokens/s",
            preset.name()
        );
    }
}

/// Each kernel's share of a step, by the device's clock.
fn print_kernels(device: &Arc<Device>, shape: &StepShape) {
    let train = TrainProgram::new(shape, device.traits());
    let mut executor = VulkanExecutor::load(device, train.program.clone()).expect("it fits");
    let mut kernels: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for recording in [train.first.recording, train.update.recording] {
        for (place, dispatch) in train.program.recordings[recording.0].dispatches.iter().enumerate() {
            let timing = executor.time_range(recording, place..place + 1, 3).expect("the device has a clock");
            let (calls, total_ms) = kernels.entry(dispatch.kernel.name()).or_default();
            *calls += 1;
            *total_ms += timing.min_ms();
        }
    }
    let mut kernels: Vec<_> = kernels.into_iter().collect();
    kernels.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    for (name, (calls, total_ms)) in kernels {
        println!("  {name:<28} {calls:>4} calls {total_ms:>9.3} ms");
    }
}

/// The mean time of a step, the host running ahead as in training.
fn step_ms(session: &mut Session, shape: &StepShape, tokens: usize) -> f64 {
    session.load_state(&initial_state(initial_parameters(&shape.model, 1))).expect("the device works");
    let draw = |step: usize, purpose: u32| {
        (0..tokens as u32).map(|i| random_u32(1, purpose, step as u64, i) % VOCABULARY as u32).collect()
    };
    let rates = StepRates { lr: 1e-3, weight_decay: 0.1 };
    let mut step = |number: usize| {
        let micro = MicroBatch { tokens: draw(number, 0), targets: draw(number, 1) };
        session.step_ahead(&[micro], rates).expect("the device works");
    };
    (0..3).for_each(&mut step);
    let start = Instant::now();
    let mut steps = 0;
    while steps < STEPS || start.elapsed() < TIME {
        step(3 + steps);
        steps += 1;
    }
    session.drain().expect("the device works");
    start.elapsed().as_secs_f64() * 1e3 / steps as f64
}
