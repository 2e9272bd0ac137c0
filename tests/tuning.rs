//! Products computed every way that tuning may choose: whole training steps come to the same bits, and what a
//! checkpoint says of it comes back.

mod common;
#[path = "common/fixtures.rs"]
mod fixtures;
#[path = "common/loaders.rs"]
mod loaders;
#[path = "common/storage.rs"]
mod storage;
#[path = "common/training.rs"]
mod training;

use std::collections::{BTreeMap, BTreeSet};

use hlx::checkpoint::{Checkpoint, RunFolder};
use hlx::config::{Length, ModelConfig, Precision};
use hlx::cpu::CpuExecutor;
use hlx::exact::random_u32;
use hlx::ops::gemm::{Tuning, Way};
use hlx::recording::{Executor, Program, Traits};
use hlx::train::digest::StateDigest;
use hlx::train::init::{initial_parameters, initial_state};
use hlx::train::program::{StepShape, TrainProgram};
use hlx::train::run::{Run, Setup};
use hlx::train::session::{MicroBatch, Session, StepRates};
use hlx::vulkan::{Device, VulkanExecutor};
use tempfile::TempDir;

/// A small model whose sums over positions are several blocks long.
fn shape() -> StepShape {
    let model = ModelConfig {
        vocab_size: 40,
        context: 32,
        d_model: 32,
        n_layer: 1,
        n_head: 2,
        d_ff: 128,
        dropout: 0.1,
        layer_norm_eps: 1e-5,
    };
    let (beta1, beta2, eps) = (0.9, 0.99, 1e-8);
    StepShape { model, batch_size: 17, grad_accum: 1, beta1, beta2, eps, grad_clip: 1.0, seed: 7 }
}

/// The state and the loss after two steps.
fn trained(
    traits: Traits,
    tuning: &Tuning,
    load: impl FnOnce(Program) -> Box<dyn Executor>,
) -> (StateDigest, u32) {
    let shape = shape();
    let mut session =
        Session::tuned(shape.clone(), traits, tuning, |train| Ok(load(train.program.clone()))).unwrap();
    session.load_state(&initial_state(initial_parameters(&shape.model, 3))).unwrap();
    let tokens = (shape.batch_size * shape.model.context) as u32;
    let draw = |purpose| (0..tokens).map(|i| random_u32(1, purpose, 0, i) % 40).collect();
    let batch = [MicroBatch { tokens: draw(0), targets: draw(1) }];
    let rates = StepRates { lr: 1e-3, weight_decay: 0.1 };
    let losses = [0, 1].map(|_| session.step_now(&batch, rates).unwrap().loss);
    (StateDigest::of(&session.state().unwrap()), losses[1].to_bits())
}

/// The ways of each different product of a step, by its key.
fn ways(traits: Traits) -> BTreeMap<String, Vec<Way>> {
    let products = TrainProgram::new(&shape(), traits).first.products;
    products.iter().map(|product| (product.key(), product.ways(&traits))).collect()
}

/// Takes the way at this place of each product, or the last.
fn forced(ways: &BTreeMap<String, Vec<Way>>, place: usize) -> Tuning {
    let name = |(key, ways): (&String, &Vec<Way>)| (key.clone(), ways[place.min(ways.len() - 1)].name());
    Tuning { names: ways.iter().map(name).collect() }
}

/// The kernels of a step with their constants: what another way changes.
fn variants(traits: Traits, tuning: &Tuning) -> BTreeSet<(&'static str, Vec<u32>)> {
    let program = TrainProgram::tuned(&shape(), traits, tuning).program;
    let dispatches = program.recordings.iter().flat_map(|recording| &recording.dispatches);
    dispatches.map(|dispatch| (dispatch.kernel.name(), dispatch.specialization.clone())).collect()
}

fn traits_of(device: &Device, precision: Precision) -> Traits {
    Traits { precision, fast_shared_memory: true, ..device.traits() }
}

/// Every way of every product, in whole steps of a precision on the device under test.
fn every_way_has_the_same_bits(precision: Precision) -> (StateDigest, u32) {
    let device = common::open();
    let traits = traits_of(&device, precision);
    let on_device =
        |program| -> Box<dyn Executor> { Box::new(VulkanExecutor::load(&device, program).unwrap()) };
    let ways = ways(traits);
    let untuned = trained(traits, &Tuning::default(), on_device);
    let mut seen = variants(traits, &Tuning::default());
    let most = ways.values().map(Vec::len).max().unwrap();
    for place in 1..most {
        let tuning = forced(&ways, place);
        let others = variants(traits, &tuning);
        assert!(!others.is_subset(&seen), "the ways at {place} are no others");
        seen.extend(others);
        assert_eq!(trained(traits, &tuning, on_device), untuned, "{tuning:?}");
    }
    assert!(most > 2 || precision == Precision::Mixed, "{ways:?}");
    common::assert_silent(&device);
    untuned
}

#[test]
fn exact_steps_have_the_same_bits_every_way() {
    let found = every_way_has_the_same_bits(Precision::Exact);
    let on_cpu = |program| -> Box<dyn Executor> { Box::new(CpuExecutor::load(program).unwrap()) };
    assert_eq!(found, trained(CpuExecutor::TRAITS, &Tuning::default(), on_cpu));
    // Sums of whole products and sums of blocks were both among the ways.
    let split =
        |ways: &Vec<Way>| ways.iter().filter(|way| matches!(way, Way::Exact { split: true, .. })).count();
    let all = ways(traits_of(&common::open(), Precision::Exact));
    assert!(all.values().any(|ways| (1..ways.len()).contains(&split(ways))), "{all:?}");
}

#[test]
fn fused_steps_have_the_same_bits_every_way() {
    let found = every_way_has_the_same_bits(Precision::F32);
    let on_cpu = |program| -> Box<dyn Executor> { Box::new(CpuExecutor::load(program).unwrap()) };
    let exact = trained(CpuExecutor::TRAITS, &Tuning::default(), on_cpu);
    assert_ne!(found.0, exact.0, "these are other kernels");
}

#[test]
fn steps_on_matrix_units_have_the_same_bits_every_way() {
    let device = common::open();
    if device.info().matrix_units.is_none() {
        hlx::report::say(format_args!("NOT RUN: {} has no matrix units", device.info().name));
        return;
    }
    every_way_has_the_same_bits(Precision::Mixed);
}

/// A name that is no way of a product, and a product that there is not, change nothing.
#[test]
fn names_that_mean_nothing_change_nothing() {
    for precision in [Precision::Exact, Precision::F32] {
        let traits = Traits { precision, fast_shared_memory: true, ..Traits::PLAIN };
        let untuned = variants(traits, &Tuning::default());
        let ways = ways(traits);
        let mut names: BTreeMap<String, String> =
            ways.keys().map(|key| (key.clone(), "128x0 by 7x7 quads".into())).collect();
        names.insert("no product".into(), ways.values().next().unwrap()[1].name());
        assert_eq!(variants(traits, &Tuning { names }), untuned);
        // The way of another product is one of this only if it gives its bits.
        let blocks = |way: &Way| matches!(way, Way::Exact { split: true, .. });
        let whole = ways.iter().find(|(_, ways)| !ways.iter().any(blocks)).expect("a product of one block");
        let split = ways.values().flatten().find(|way| blocks(way));
        if let Some(split) = split {
            let tuning = Tuning { names: BTreeMap::from([(whole.0.clone(), split.name())]) };
            assert_eq!(variants(traits, &tuning), untuned);
        }
    }
}

/// All ways that one product may be computed have different names, so that a name means one of them.
#[test]
fn names_tell_ways_apart() {
    for precision in [Precision::Exact, Precision::F32] {
        let traits = Traits { precision, fast_shared_memory: true, ..Traits::PLAIN };
        for (key, ways) in ways(traits) {
            let names: BTreeSet<String> = ways.iter().map(Way::name).collect();
            assert_eq!(names.len(), ways.len(), "{key}");
        }
    }
}

fn tuning() -> Tuning {
    Tuning { names: BTreeMap::from([("a product".to_owned(), "a tile".to_owned())]) }
}

/// Trains two steps with products computed as a tuning says, and gives the last checkpoint.
fn saved_run(precision: Precision, place: &TempDir) -> Checkpoint {
    let mut config = training::tiny_run();
    (config.precision, config.length) = (precision, Length::Steps(2));
    let data = training::dataset();
    let folder = RunFolder::at(place.path().join(precision.name()));
    let session = training::session(&config, &data, &tuning(), |executor| Box::new(executor)).unwrap();
    let outcome = training::new_run(&config, &data, &folder, |setup| {
        Run::new(Setup { device: ["a card", "driver 1"], ..setup }, session)?.train()
    });
    Checkpoint::load(&outcome.unwrap().checkpoint).unwrap()
}

/// What is exact has the same bytes wherever it was made; of what is not, the checkpoint says how it was
/// made.
#[test]
fn a_checkpoint_says_what_its_bits_may_depend_on() {
    let place = TempDir::new().unwrap();
    let fast = saved_run(Precision::F32, &place).state;
    assert_eq!((&fast.tuning, fast.device.as_str()), (&tuning().names, "a card"));
    let exact = saved_run(Precision::Exact, &place).state;
    assert_eq!((exact.tuning.len(), exact.device.as_str()), (0, ""));
}

#[test]
fn a_checkpoint_without_tiles_loads_and_one_with_something_else_is_refused() {
    let saved = loaders::saved().files.iter().find(|(path, _)| path.ends_with("state.json")).unwrap();
    let before: serde_json::Value = serde_json::from_slice(saved.1).unwrap();
    assert_eq!(before.get("tuning"), None, "what was not tuned says nothing of it");
    let with = |tuning: serde_json::Value| {
        let mut state = before.clone();
        state["tuning"] = tuning;
        loaders::load(&loaders::vouched("state.json", &serde_json::to_vec(&state).unwrap()))
    };
    assert!(loaders::load(loaders::saved()).unwrap().state.tuning.is_empty());
    let there = with(serde_json::json!({ "a product": "a tile" })).unwrap();
    assert_eq!(there.state.tuning, tuning().names);
    for wrong in [serde_json::json!(7), serde_json::json!(["a"]), serde_json::json!({ "a": { "rows": -1 } })]
    {
        let error = with(wrong).unwrap_err();
        assert!(error.to_string().contains("state.json") && error.exit_code() == 1, "{error}");
    }
}
