//! Devices with less than others: with Vulkan's least limits, with bindings far shorter than the model,
//! with a watchdog. Training gives the same bits, or is refused before step 0 with the limit named.

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/recipe.rs"]
mod recipe;
#[path = "common/scale.rs"]
mod scale;

use std::time::Duration;

use hlx::config::{Preset, TrainOptions};
use hlx::cpu::CpuExecutor;
use hlx::error::{Error, Result};
use hlx::kernels::Kernel;
use hlx::ops::gemm::{Gemm, Matrix, Pass, Tiling};
use hlx::precision::Precision;
use hlx::recording::{Executor, Group, Program, Residence, Traits};
use hlx::train::digest::digest;
use hlx::train::program::TrainProgram;
use hlx::train::run::{feed, schedule, step_shape};
use hlx::train::session::{Session, StepRates};
use hlx::vulkan::{DeviceInfo, FaultPoint, Kind, Simulation, VulkanExecutor};
use program::{Done, Place, TINY};
use recipe::Recipe;
use scale::report;

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
    in_precision(Precision::Exact, recipe, simulation)
}

fn in_precision(precision: Precision, recipe: &Recipe, simulation: Simulation) -> Result<(String, u64)> {
    let device = common::open_simulated(simulation)?;
    let load =
        |program| -> Result<Box<dyn Executor>> { Ok(Box::new(VulkanExecutor::load(&device, program)?)) };
    let digest = train(recipe, Traits { precision, ..device.traits() }, load);
    common::assert_silent(&device);
    Ok((digest?, device.calls().expect("they are counted")[FaultPoint::Submit as usize]))
}

/// Takes limits away.
type Lower = fn(&mut DeviceInfo);

fn lowered(lower: Lower) -> Simulation {
    Simulation { lower: Some(lower), ..Simulation::default() }
}

/// What the Vulkan specification asks of every device, but for bindings (4) and invocations of a workgroup
/// (128): the kernels need more of these, and GPUs have more.
fn least_limits(info: &mut DeviceInfo) {
    info.max_storage_range_bytes = 128 << 20;
    info.max_allocation_bytes = 1 << 30;
    info.max_groups = [65_535; 3];
    info.max_push_bytes = 128;
    info.shared_memory_bytes = 16 << 10;
    info.subgroup_size = 4;
    info.max_group_invocations = 256;
    info.max_group_size = [256, 256, 64];
    info.max_bindings = 8;
}

#[test]
fn the_least_limits_suffice() {
    let lower: [(&str, Lower); 4] = [
        ("software, 16 KiB, 4", least_limits),
        ("a GPU, 16 KiB, 4", |info| {
            least_limits(info);
            info.kind = Kind::Discrete;
        }),
        ("a GPU, 32 KiB, 4", |info| {
            least_limits(info);
            (info.kind, info.shared_memory_bytes) = (Kind::Discrete, 32 << 10);
        }),
        ("a GPU, 32 KiB, 64", |info| {
            least_limits(info);
            (info.kind, info.shared_memory_bytes, info.subgroup_size) = (Kind::Discrete, 32 << 10, 64);
        }),
    ];
    let recipe = nano();
    let wanted = on_cpu(&recipe);
    for (device, lower) in lower {
        assert_eq!(on_device(&recipe, lowered(lower)).unwrap().0, wanted, "{device}");
    }
    report("devices with the least limits of Vulkan, the digest of the CPU", lower.len());
}

/// What CPU-type devices take kernels of their own by.
#[test]
fn software_with_fewer_means_comes_to_the_same_digest() {
    fn software(info: &mut DeviceInfo, shuffles: bool, int64: bool, addresses: bool) {
        info.kind = Kind::Cpu;
        [info.subgroup_shuffles, info.int64, info.addresses] = [shuffles, int64, addresses];
    }
    let lower: [(Lower, bool); 4] = [
        (|info| software(info, false, true, false), false),
        (|info| software(info, true, false, false), false),
        (|info| software(info, true, true, false), false),
        (|info| software(info, true, true, true), true),
    ];
    let recipe = nano();
    let wanted = on_cpu(&recipe);
    for (lower, by_address) in lower {
        let traits = common::open_simulated(lowered(lower)).unwrap().traits();
        let shape = step_shape(&recipe.config, recipe.data.tokenizer.vocab_size());
        let recordings = TrainProgram::new(&shape, traits).program.recordings;
        let mut kernels = recordings.iter().flat_map(|recording| &recording.dispatches).map(|d| d.kernel);
        assert_eq!(kernels.any(|kernel| kernel == Kernel::GemmAddressed), by_address);
        assert_eq!(on_device(&recipe, lowered(lower)).unwrap().0, wanted);
    }
    report(
        "software with fewer means (shuffles, 64-bit integers, addresses), the digest of the CPU",
        lower.len(),
    );
}

/// Whatever the size of a subgroup, then, an exact kernel gives the same; products, as a test below shows.
#[test]
fn no_exact_kernel_but_products_knows_of_subgroups() {
    let mut exact = 0;
    for kernel in Kernel::ALL.iter().filter(|kernel| kernel.exact()) {
        let (mut rest, mut capabilities) = (&kernel.spirv()[5..], Vec::new());
        while let [head, operands @ ..] = rest {
            if head & 0xffff == 17 {
                capabilities.push(operands[0]); // OpCapability
            }
            rest = &rest[(head >> 16) as usize..];
        }
        // GroupNonUniform and what follows it, and the vendors' older ones (SubgroupBallotKHR, ...).
        let of_subgroups = |capability: &u32| matches!(capability, 18 | 61..=68 | 4423..=4431);
        assert!(!capabilities.is_empty(), "{}", kernel.name());
        let hands_round = [Kernel::Gemm, Kernel::GemmBackward].contains(kernel);
        assert_eq!(capabilities.iter().any(of_subgroups), hands_round, "{}", kernel.name());
        exact += 1;
    }
    report("exact kernels, of which only products know of subgroups", exact);
}

/// The software driver's subgroups are as wide as its vectors, which it can be told.
#[test]
fn subgroups_of_other_sizes_come_to_the_same_digest() {
    let place = Place::new();
    let mut found = Vec::new();
    for bits in ["128", "256"] {
        let run = |line: &str| Done::of(line, place.command(line).env("LP_NATIVE_VECTOR_WIDTH", bits));
        let list = run("devices --json").json();
        let software =
            list.as_array().unwrap().iter().find(|d| d["kind"] == "cpu" && d["vulkan"].is_string());
        let software = software.unwrap_or_else(|| panic!("{}", common::INSTALL));
        let model = TINY.replace("--device cpu", &format!("--device {}", software["index"]));
        let line = format!("train --corpus sums.txt {model} --steps 4 --out {bits} --json");
        let digest = run(&line).json()["digest"].clone();
        found.push((software["subgroup_size"].clone(), digest));
    }
    let [(narrow, digest), (wide, other)] = &found[..] else { unreachable!("two were tried") };
    assert!(narrow != wide, "subgroups of {narrow} both times");
    assert_eq!(digest, other, "subgroups of {narrow} and {wide}");
    report("sizes of subgroups, one digest", format!("{narrow} and {wide}"));
}

#[test]
fn arenas_past_the_storage_range_are_worked_on_in_pieces() {
    let one_mebibyte = |info: &mut DeviceInfo| info.max_storage_range_bytes = 1 << 20;
    let recipe = nano();
    let device = common::open_simulated(lowered(one_mebibyte)).unwrap();
    let shape = step_shape(&recipe.config, recipe.data.tokenizer.vocab_size());
    let train = TrainProgram::new(&shape, device.traits());
    for kernel in [Kernel::AdamUpdateEights, Kernel::ReduceSumEights, Kernel::AccumulateEights] {
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
        (|info| info.max_groups = [3, 3, 3], &["workgroups in y", "allows 1 to 3"]),
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
fn what_needs_addresses_is_refused_where_there_are_none() {
    let mut program = Program::default();
    let mut matrix = |name: &str| {
        let view = program.add_buffer(name, 32 * 32, Group::Scratch, Residence::Device);
        Matrix::new(view, 32)
    };
    let gemm = Gemm::new(Pass::Forward, [32; 3], matrix("a"), matrix("b"), matrix("c"));
    program.add_recording("product", vec![gemm.record_tiled(Tiling::Addressed { lanes: 8, rows: 32 })]);
    let past = |lower: Lower| common::open_simulated(lowered(lower)).unwrap().past_limit(&program);
    assert_eq!(past(|info| info.addresses = true), None);
    let text = past(|info| info.addresses = false).unwrap();
    assert!(text.contains("(gemm_addressed) of product needs buffers' addresses"), "{text}");
}

/// Software drivers end an invocation after 65,535 steps of its loops, and say nothing: what is longer is
/// refused.
#[test]
fn sums_too_long_for_a_software_driver_are_refused_by_name() {
    let long = |batch_size| {
        Recipe::of(TrainOptions {
            n_layer: Some(1),
            d_model: Some(2),
            n_head: Some(1),
            d_ff: Some(8),
            context: Some(2),
            batch_size: Some(batch_size),
            steps: Some(STEPS),
            val_fraction: Some(0.0),
            ..TrainOptions::default()
        })
    };
    let recipe = long(30_000);
    assert_eq!(on_device(&recipe, Simulation::default()).unwrap().0, on_cpu(&recipe));
    let text = on_device(&long(30_001), Simulation::default()).unwrap_err().to_string();
    for part in ["sums of 60002 terms", "allows 1 to 60000", "lower --batch-size"] {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
}

/// Dispatches of a step, and the layers of workgroups between which they can be cut.
fn dispatches_and_layers(recipe: &Recipe) -> (u64, u64) {
    let device = common::open_simulated(Simulation::default()).unwrap();
    let shape = step_shape(&recipe.config, recipe.data.tokenizer.vocab_size());
    let train = TrainProgram::new(&shape, device.traits());
    let step = [Some(&train.first), train.next.as_ref()].into_iter().flatten().map(|micro| micro.recording);
    let recordings = step.chain([train.update.recording]);
    let dispatches = recordings.flat_map(|id| &train.program.recordings[id.0].dispatches);
    dispatches.fold((0, 0), |(count, layers), dispatch| {
        (count + 1, layers + u64::from(dispatch.groups[1].max(dispatch.groups[2])))
    })
}

#[test]
fn what_takes_too_long_is_cut_into_short_submits_within_a_dispatch_too() {
    let recipe = nano();
    let wanted = on_cpu(&recipe);
    let (digest, whole) = on_device(&recipe, Simulation::default()).unwrap();
    assert_eq!(digest, wanted);
    let (dispatches, _) = dispatches_and_layers(&recipe);
    // Between dispatches, and within those that take longer than this.
    let longest = Some(Duration::from_micros(100));
    let (digest, cut) =
        on_device(&recipe, Simulation { longest_submit: longest, ..lowered(|_| {}) }).unwrap();
    assert_eq!(digest, wanted, "on a processor");
    assert!(cut > whole + dispatches, "{cut} submits of at most {longest:?}, {whole} without a limit");
    // The kernels of GPUs, which are slower here, in whose order of tiles and of heads a part must keep its
    // place.
    let longest = Some(Duration::from_millis(1));
    let gpu = lowered(|info| info.kind = Kind::Discrete);
    let (digest, _) = on_device(&recipe, Simulation { longest_submit: longest, ..gpu }).unwrap();
    assert_eq!(digest, wanted, "on a GPU");
    let (fast, _) = in_precision(Precision::F32, &recipe, gpu).unwrap();
    let cut_gpu = Simulation { longest_submit: longest, ..gpu };
    assert_eq!(in_precision(Precision::F32, &recipe, cut_gpu).unwrap().0, fast, "outside the contract");

    // So little that no two layers of workgroups are in one submit.
    let recipe = Recipe::new();
    let (dispatches, layers) = dispatches_and_layers(&recipe);
    assert!(layers > 4 * dispatches, "{layers} layers of {dispatches} dispatches");
    let simulation = Simulation { longest_submit: Some(Duration::from_nanos(1)), ..Simulation::default() };
    let (digest, submits) = on_device(&recipe, simulation).unwrap();
    assert_eq!(digest, on_cpu(&recipe));
    // The first of the steps comes before anything is known.
    assert!(submits >= (STEPS - 1) * layers, "{submits} submits for {layers} layers");
    report("submits of a training cut within its dispatches, same digest", format!("{whole}, cut {cut}"));
}

/// What `nano` does not reach: an arena longer than what one binding may be, whose limit the device sets.
#[test]
fn an_arena_past_128_mebibytes_is_worked_on_in_pieces() {
    let recipe = Recipe::of(TrainOptions {
        n_layer: Some(1),
        d_model: Some(1792),
        n_head: Some(7),
        context: Some(4),
        batch_size: Some(1),
        warmup_steps: Some(0),
        steps: Some(STEPS),
        val_fraction: Some(0.0),
        ..TrainOptions::default()
    });
    let (digest, _) = on_device(&recipe, lowered(least_limits)).unwrap();
    assert_eq!(digest, on_cpu(&recipe));
    let words: usize = recipe.initial.params.iter().map(Vec::len).sum();
    assert!(words * 4 > 128 << 20, "{words} parameters fit one binding");
    report("parameters in one arena, with bindings of 128 MiB, the digest of the CPU", words);
}
