//! Devices with less than others: with Vulkan's least limits, with bindings far shorter than the model,
//! with a watchdog. Training gives the same bits, or is refused before step 0 with the limit named.

mod common;
#[path = "common/recipe.rs"]
mod recipe;

use std::time::Duration;

use hlx::config::{Preset, TrainOptions};
use hlx::cpu::CpuExecutor;
use hlx::error::{Error, Result};
use hlx::kernels::Kernel;
use hlx::recording::{Executor, Program, Traits};
use hlx::train::digest::digest;
use hlx::train::run::{feed, schedule, step_shape};
use hlx::train::session::{Session, StepRates};
use hlx::vulkan::{DeviceInfo, FaultPoint, Simulation, VulkanExecutor};
use recipe::Recipe;

const STEPS: u64 = 3;

/// `nano` with everything that a step can have.
fn nano() -> Recipe {
    Recipe::of(TrainOptions {
        model: Some(Preset::Nano),
        batch_size: Some(2),
        grad_accum: Some(2),
        dropout: Some(0.1),
        grad_clip: Some(0.5),
        warmup_steps: Some(0),
        steps: Some(STEPS),
        val_fraction: Some(0.0),
        ..TrainOptions::default()
    })
}

/// The digest after some steps, or why the program was not loaded.
fn train(
    recipe: &Recipe,
    traits: Traits,
    load: impl FnOnce(Program) -> Result<Box<dyn Executor>>,
) -> Result<String> {
    let shape = step_shape(&recipe.config, recipe.data.tokenizer.vocab_size());
    let mut session = Session::new(shape, traits, |train| load(train.program.clone()))?;
    session.load_state(&recipe.initial)?;
    let mut feed = feed(&recipe.config, &recipe.data)?;
    let schedule = schedule(&recipe.config, STEPS);
    for step in 0..STEPS {
        let rates = StepRates { lr: schedule.lr(step), weight_decay: recipe.config.weight_decay };
        session.step_now(feed.micro_batches(step), rates)?;
    }
    let state = session.state()?;
    Ok(digest(&session.train.model.arena.specs, &state))
}

fn on_cpu(recipe: &Recipe) -> String {
    let load = |program| -> Result<Box<dyn Executor>> { Ok(Box::new(CpuExecutor::load(program)?)) };
    train(recipe, CpuExecutor::TRAITS, load).unwrap()
}

/// Trains on the device under test with these limits; also gives the submits that it took.
fn on_device(recipe: &Recipe, simulation: Simulation) -> Result<(String, u64)> {
    let device = common::open_simulated(simulation)?;
    let load =
        |program| -> Result<Box<dyn Executor>> { Ok(Box::new(VulkanExecutor::load(&device, program)?)) };
    let digest = train(recipe, device.traits(), load);
    common::assert_silent(&device);
    Ok((digest?, device.calls().expect("they are counted")[FaultPoint::Submit as usize]))
}

/// Takes limits away.
type Lower = fn(&mut DeviceInfo);

fn lowered(lower: Lower) -> Simulation {
    Simulation { lower: Some(lower), ..Simulation::default() }
}

/// What the Vulkan specification asks of every device, but for bindings (4), invocations of a workgroup (128)
/// and its shared memory (16 KiB): the kernels need more of these, and GPUs have more.
fn least_limits(info: &mut DeviceInfo) {
    info.max_storage_range_bytes = 128 << 20;
    info.max_allocation_bytes = 1 << 30;
    info.max_groups = [65_535; 3];
    info.max_push_bytes = 128;
    info.shared_memory_bytes = 32 << 10;
    info.subgroup_size = 4;
    info.max_group_invocations = 256;
    info.max_group_size = [256, 256, 64];
    info.max_bindings = 8;
}

#[test]
fn the_least_limits_suffice() {
    let recipe = nano();
    let (digest, _) = on_device(&recipe, lowered(least_limits)).unwrap();
    assert_eq!(digest, on_cpu(&recipe));
}

#[test]
fn arenas_past_the_storage_range_are_worked_on_in_pieces() {
    let one_mebibyte = |info: &mut DeviceInfo| info.max_storage_range_bytes = 1 << 20;
    let recipe = nano();
    let device = common::open_simulated(lowered(one_mebibyte)).unwrap();
    let shape = step_shape(&recipe.config, recipe.data.tokenizer.vocab_size());
    let train = hlx::train::program::TrainProgram::new(&shape, device.traits());
    for kernel in [Kernel::AdamUpdate, Kernel::ReduceSum, Kernel::Accumulate] {
        let pieces = train.program.recordings.iter().flat_map(|recording| &recording.dispatches);
        let pieces = pieces.filter(|dispatch| dispatch.kernel == kernel).count();
        assert!(pieces >= 4, "{} comes {pieces} times", kernel.name());
    }
    let (digest, _) = on_device(&recipe, lowered(one_mebibyte)).unwrap();
    assert_eq!(digest, on_cpu(&recipe));
}

#[test]
fn what_cannot_be_cut_is_refused_by_name_before_step_0() {
    let lower: [(Lower, &[&str]); 4] = [
        (|info| info.max_storage_range_bytes = 200 << 10, &["maxStorageBufferRange", "200.0 KiB", "buffer "]),
        (
            |info| info.max_allocation_bytes = 1 << 20,
            &["maxMemoryAllocationSize", "buffer parameters", "1.0 MiB"],
        ),
        (|info| info.max_groups = [3, 3, 3], &["workgroups in x", "allows 1 to 3"]),
        (|info| info.heap_bytes = 1 << 20, &["the program takes", "1.0 MiB"]),
    ];
    let recipe = nano();
    for (lower, wanted) in lower {
        match on_device(&recipe, lowered(lower)) {
            Err(Error::Device(text)) => {
                assert!(wanted.iter().all(|word| text.contains(word)), "{text}");
                assert!(text.contains("lower --batch-size"), "{text}");
            }
            other => panic!("not refused as it should be: {other:?}"),
        }
    }
}

#[test]
fn a_device_on_which_no_step_can_run_is_refused_by_name() {
    let lower: [(Lower, &str); 4] = [
        (|info| info.max_bindings = 4, "it allows 4 storage buffers of one kernel, and 7 are needed"),
        (
            |info| info.max_group_invocations = 128,
            "it allows 128 invocations in a workgroup, and 256 are needed",
        ),
        (|info| info.max_push_bytes = 64, "it allows 64 bytes of push constants, and 72 are needed"),
        (|info| info.max_group_size[0] = 128, "it allows 128 invocations along a workgroup's x"),
    ];
    for (lower, wanted) in lower {
        match common::open_simulated(lowered(lower)) {
            Err(error @ Error::NoDevice(_)) => {
                assert!(error.to_string().contains(wanted), "{error}");
                assert_eq!(error.exit_code(), 4);
            }
            other => panic!("not refused as it should be: {:?}", other.map(|_| ())),
        }
    }
}

#[test]
fn long_recordings_are_cut_into_short_submits() {
    let recipe = nano();
    let (digest, whole) = on_device(&recipe, Simulation::default()).unwrap();
    assert_eq!(digest, on_cpu(&recipe));
    // So little that every part is cut, and so little less that some are.
    for longest in [Duration::from_nanos(1), Duration::from_millis(2)] {
        let simulation = Simulation { longest_submit: Some(longest), ..Simulation::default() };
        let (digest, submits) = on_device(&recipe, simulation).unwrap();
        assert_eq!(digest, on_cpu(&recipe), "{longest:?} a submit");
        assert!(submits > whole + 5, "{submits} submits of at most {longest:?}, {whole} without a limit");
    }
}
