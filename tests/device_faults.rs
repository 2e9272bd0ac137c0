//! A device that fails: out of memory, lost or hanging, at the submits, waits and allocations of a run. The
//! error says what to do, the checkpoints are whole, and one attempt more on a device opened anew comes to
//! what the unbroken run comes to.
//!
//! `HLX_FAULTS=all` tries every call; without it, a sample of them.

mod common;
#[path = "common/recipe.rs"]
mod recipe;

use std::path::Path;
use std::sync::Arc;

use hlx::checkpoint::{Checkpoint, RunFolder};
use hlx::config::TrainOptions;
use hlx::cpu::CpuExecutor;
use hlx::error::{Error, Result};
use hlx::interrupt::Interrupt;
use hlx::recording::{Executor, Program, Traits};
use hlx::train::recover;
use hlx::train::run::{Outcome, Setup, step_shape};
use hlx::train::session::Session;
use hlx::vulkan::{Device, FaultKind, FaultPoint, InjectedFault, Simulation, VulkanExecutor};
use recipe::Recipe;

/// Calls of each point that are tried where not all are.
const SAMPLE: u64 = 8;

fn recipe() -> Recipe {
    Recipe::of(TrainOptions {
        n_layer: Some(1),
        d_model: Some(16),
        n_head: Some(2),
        context: Some(8),
        batch_size: Some(2),
        steps: Some(6),
        checkpoint_every_steps: Some(2),
        val_fraction: Some(0.002),
        ..TrainOptions::default()
    })
}

fn session(
    recipe: &Recipe,
    traits: Traits,
    load: impl FnOnce(Program) -> Result<Box<dyn Executor>>,
) -> Result<Session> {
    let shape = step_shape(&recipe.config, recipe.data.tokenizer.vocab_size());
    Session::new(shape, traits, |train| load(train.program.clone()))
}

fn on_cpu(recipe: &Recipe) -> Result<Session> {
    session(recipe, CpuExecutor::TRAITS, |program| Ok(Box::new(CpuExecutor::load(program)?)))
}

fn on_device(recipe: &Recipe, device: &Arc<Device>) -> Result<Session> {
    session(recipe, device.traits(), |program| Ok(Box::new(VulkanExecutor::load(device, program)?)))
}

/// Trains in a folder, and on what `reopen` makes if the device fails.
fn train(
    recipe: &Recipe,
    place: &Path,
    session: Session,
    reopen: impl FnOnce(&RunFolder) -> Result<Session>,
) -> Result<Outcome> {
    let folder = RunFolder::at(place.join("run"));
    let _lock = folder.prepare(&recipe.config, None)?;
    let interrupt = Interrupt::default();
    let setup = Setup {
        config: &recipe.config,
        data: &recipe.data,
        folder: &folder,
        interrupt: &interrupt,
        start: &recipe.initial,
        resumed: None,
        device: ["", ""],
    };
    recover::train(setup, session, || reopen(&folder))
}

fn assert_whole(folder: &RunFolder) {
    for step in folder.steps().unwrap() {
        Checkpoint::load(&folder.step_folder(step)).unwrap();
    }
}

/// The unbroken run's digest, and how often it calls the driver, on a device that counts.
fn unbroken(recipe: &Recipe) -> (String, [u64; 3]) {
    let place = tempfile::tempdir().unwrap();
    let device = common::open_simulated(Simulation::default()).unwrap();
    let session = on_device(recipe, &device).unwrap();
    let outcome = train(recipe, place.path(), session, |_| panic!("nothing fails")).unwrap();
    common::assert_silent(&device);
    (outcome.digest, device.calls().expect("they are counted"))
}

/// What a fault came to.
#[derive(Debug, PartialEq)]
enum End {
    /// Nothing was loaded at first, and the error said why.
    LoadedAgain,
    /// The run went on elsewhere.
    Recovered,
    /// The fault came when everything was done.
    Unharmed,
}

fn meet(recipe: &Recipe, fault: InjectedFault, digest: &str) -> End {
    let simulation = Simulation { fault: Some(fault), ..Simulation::default() };
    let device = common::open_simulated(simulation).unwrap();
    let place = tempfile::tempdir().unwrap();
    let first = on_device(recipe, &device);
    let mut end = End::Unharmed;
    if let Err(error) = &first {
        let text = error.to_string();
        let remedy = ["--batch-size", "--device", "esume from the last checkpoint"];
        assert!(remedy.iter().any(|words| text.contains(words)), "{fault:?}: {text}");
        assert_eq!(error.exit_code(), 1);
        end = End::LoadedAgain;
    }
    let session = recover::load(first, || on_cpu(recipe)).unwrap_or_else(|e| panic!("{fault:?}: {e}"));
    let outcome = train(recipe, place.path(), session, |folder| {
        end = End::Recovered;
        assert_whole(folder);
        on_cpu(recipe)
    });
    let outcome = outcome.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
    assert_eq!(outcome.digest, digest, "{fault:?}");
    assert_eq!(outcome.steps, 6);
    assert_whole(&RunFolder::at(place.path().join("run")));
    common::assert_silent(&device);
    end
}

#[test]
fn a_fault_at_any_call_is_survived() {
    let recipe = recipe();
    let (digest, calls) = unbroken(&recipe);
    let all = std::env::var("HLX_FAULTS").is_ok_and(|value| value == "all");
    let mut recovered = 0;
    let mut tried = 0;
    for (point, calls) in FaultPoint::ALL.into_iter().zip(calls) {
        let step = if all { 1 } else { (calls / SAMPLE).max(1) };
        for call in (1..=calls).step_by(step as usize) {
            let kinds: &[FaultKind] = match point {
                FaultPoint::Wait => &[FaultKind::OutOfMemory, FaultKind::DeviceLost, FaultKind::Hang],
                _ => &[FaultKind::OutOfMemory, FaultKind::DeviceLost],
            };
            for &kind in kinds {
                let end = meet(&recipe, InjectedFault { point, call, kind }, &digest);
                recovered += usize::from(end != End::Unharmed);
                tried += 1;
                // Memory is taken when a program is loaded, and never later.
                assert!(
                    point != FaultPoint::Allocate || end == End::LoadedAgain,
                    "{point:?} {call}: {end:?}"
                );
            }
        }
    }
    println!("result: {tried} faults, of {calls:?} submits, waits and allocations; {recovered} runs went on");
    assert!(recovered > tried / 2, "{recovered} of {tried} runs went on");
}

#[test]
fn the_device_is_opened_again() {
    let recipe = recipe();
    let (digest, [submits, ..]) = unbroken(&recipe);
    let fault = InjectedFault { point: FaultPoint::Submit, call: submits - 3, kind: FaultKind::DeviceLost };
    let simulation = Simulation { fault: Some(fault), ..Simulation::default() };
    let device = common::open_simulated(simulation).unwrap();
    let place = tempfile::tempdir().unwrap();
    let session = on_device(&recipe, &device).unwrap();
    let again = common::open();
    let mut marks = Vec::new();
    let outcome = train(&recipe, place.path(), session, |folder| {
        assert_eq!(folder.steps().unwrap(), [4, 2]);
        marks.extend([2, 4].map(|step| folder.step_folder(step).join("mark")));
        marks.iter().for_each(|mark| std::fs::write(mark, "").unwrap());
        on_device(&recipe, &again)
    });
    assert_eq!(outcome.unwrap().digest, digest);
    assert!(marks.iter().all(|mark| mark.exists()), "steps that were saved were taken again");
    common::assert_silent(&device);
    common::assert_silent(&again);
}

#[test]
fn a_second_failure_while_loading_ends_the_run_and_says_what_to_do() {
    let recipe = recipe();
    let full = || {
        let fault = InjectedFault { point: FaultPoint::Allocate, call: 3, kind: FaultKind::OutOfMemory };
        let device = common::open_simulated(Simulation { fault: Some(fault), ..Simulation::default() });
        on_device(&recipe, &device.unwrap())
    };
    let Err(error) = recover::load(full(), full) else { panic!("there is no memory, and it is loaded") };
    assert_eq!(error.exit_code(), 1);
    let text = error.to_string();
    for part in ["no memory left on the device for buffer ", "lower --batch-size", "--device cpu"] {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
}

#[test]
fn a_device_that_does_not_come_back_ends_the_run_with_its_first_failure() {
    let recipe = recipe();
    let place = tempfile::tempdir().unwrap();
    let fault = InjectedFault { point: FaultPoint::Wait, call: 5, kind: FaultKind::DeviceLost };
    let lost = || common::open_simulated(Simulation { fault: Some(fault), ..Simulation::default() }).unwrap();
    let session = on_device(&recipe, &lost()).unwrap();
    let gone = || Err(Error::NoDevice("there is no device 1".into()));
    let trained = train(&recipe, place.path(), session, |_| gone()).map(|_| ());
    let loaded = recover::load(Err(Error::Device("the device was lost".into())), gone).map(|_| ());
    for ended in [trained, loaded] {
        let error = ended.expect_err("there is no device, and the run goes on");
        assert_eq!(error.exit_code(), 1);
        let text = error.to_string();
        for part in ["the device was lost", "there is no device 1", "--resume"] {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
    }
}

#[test]
fn a_second_failure_ends_the_run_and_says_what_to_do() {
    let recipe = recipe();
    let (_, [_, waits, _]) = unbroken(&recipe);
    let place = tempfile::tempdir().unwrap();
    let lost = |call| {
        let fault = InjectedFault { point: FaultPoint::Wait, call, kind: FaultKind::DeviceLost };
        common::open_simulated(Simulation { fault: Some(fault), ..Simulation::default() }).unwrap()
    };
    // The second attempt has less to do: it fails soon.
    let (first, second) = (lost(waits - 2), lost(20));
    let session = on_device(&recipe, &first).unwrap();
    let outcome = train(&recipe, place.path(), session, |_| on_device(&recipe, &second));
    let Err(error) = outcome else { panic!("both devices fail, and the run does not") };
    assert_eq!(error.exit_code(), 1);
    let text = error.to_string();
    assert!(
        text.contains("the device was lost") && text.contains("Resume from the last checkpoint"),
        "{text}"
    );
    assert_whole(&RunFolder::at(place.path().join("run")));
}
