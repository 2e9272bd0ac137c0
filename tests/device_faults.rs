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

/// How often a run without a fault calls the driver, and what it comes to.
struct Unbroken {
    digest: String,
    /// Submits, waits and allocations until the program was loaded.
    to_load: [u64; 3],
    /// Until the end.
    calls: [u64; 3],
}

/// The unbroken run, on a device that counts.
fn unbroken(recipe: &Recipe) -> Unbroken {
    let place = tempfile::tempdir().unwrap();
    let device = common::open_simulated(Simulation::default()).unwrap();
    let session = on_device(recipe, &device).unwrap();
    let to_load = device.calls().expect("they are counted");
    let outcome = train(recipe, place.path(), session, |_| panic!("nothing fails")).unwrap();
    common::assert_silent(&device);
    Unbroken { digest: outcome.digest, to_load, calls: device.calls().expect("they are counted") }
}

/// Every fault there is.
const FAULTS: [(FaultPoint, FaultKind); 7] = [
    (FaultPoint::Submit, FaultKind::OutOfMemory),
    (FaultPoint::Submit, FaultKind::DeviceLost),
    (FaultPoint::Wait, FaultKind::OutOfMemory),
    (FaultPoint::Wait, FaultKind::DeviceLost),
    (FaultPoint::Wait, FaultKind::Hang),
    (FaultPoint::Allocate, FaultKind::OutOfMemory),
    (FaultPoint::Allocate, FaultKind::DeviceLost),
];

/// What the message says: what happened, and what to do.
fn said_of(point: FaultPoint, kind: FaultKind) -> [&'static str; 2] {
    match (point, kind) {
        (FaultPoint::Allocate, FaultKind::OutOfMemory) => {
            ["no memory left on the device for buffer ", "lower --batch-size"]
        }
        (_, FaultKind::OutOfMemory) => ["out of memory (trying to ", "Lower --batch-size or --context"],
        (_, FaultKind::DeviceLost) => ["the device was lost (trying to ", "Resume from the last checkpoint"],
        (_, FaultKind::Hang) => ["has finished nothing for 900 s", "resume from the last checkpoint"],
    }
}

#[track_caller]
fn assert_says(error: &Error, point: FaultPoint, kind: FaultKind) {
    let text = error.to_string();
    for part in said_of(point, kind) {
        assert!(text.contains(part), "{point:?}, {kind:?}: {text:?} lacks {part:?}");
    }
    assert_eq!(error.exit_code(), 1, "{point:?}, {kind:?}");
}

/// What a fault came to.
#[derive(Debug, PartialEq)]
enum End {
    /// Nothing was loaded at first, and the error said why.
    LoadedAgain,
    /// The run went on elsewhere.
    Recovered,
    /// The fault was not noticed.
    Unharmed,
}

fn meet(recipe: &Recipe, fault: InjectedFault, digest: &str) -> End {
    let simulation = Simulation { fault: Some(fault), ..Simulation::default() };
    let device = common::open_simulated(simulation).unwrap();
    let place = tempfile::tempdir().unwrap();
    let first = on_device(recipe, &device);
    let mut end = End::Unharmed;
    if let Err(error) = &first {
        assert_says(error, fault.point, fault.kind);
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
    let Unbroken { digest, to_load, calls } = unbroken(&recipe);
    let all = std::env::var("HLX_FAULTS").is_ok_and(|value| value == "all");
    let (mut again, mut recovered) = (0, 0);
    for (point, kind) in FAULTS {
        let (calls, to_load) = (calls[point as usize], to_load[point as usize]);
        let step = if all { 1 } else { (calls / SAMPLE).max(1) };
        for call in (1..=calls).step_by(step as usize) {
            // Whatever fails, and whenever, is noticed and survived.
            let wanted = if call <= to_load { End::LoadedAgain } else { End::Recovered };
            let end = meet(&recipe, InjectedFault { point, call, kind }, &digest);
            assert_eq!(end, wanted, "{kind:?} at {point:?} {call} of {calls}, {to_load} to load");
            again += usize::from(end == End::LoadedAgain);
            recovered += usize::from(end == End::Recovered);
        }
    }
    // Memory is taken when a program is loaded, and never later.
    assert_eq!(calls[FaultPoint::Allocate as usize], to_load[FaultPoint::Allocate as usize]);
    println!(
        "\nresult: faults, of {calls:?} submits, waits and allocations: {}, {again} loaded again, \
         {recovered} went on",
        again + recovered
    );
}

/// A second failure, of whatever kind, ends the run: with the exit code of an error, and what to do.
#[test]
fn a_second_failure_of_any_kind_ends_the_run_and_says_what_to_do() {
    let recipe = recipe();
    let Unbroken { to_load, calls, .. } = unbroken(&recipe);
    for (point, kind) in FAULTS {
        let failing = |call| {
            let fault = Some(InjectedFault { point, call, kind });
            common::open_simulated(Simulation { fault, ..Simulation::default() }).unwrap()
        };
        // While loading, both times.
        let load = || on_device(&recipe, &failing(to_load[point as usize]));
        let Err(error) = recover::load(load(), load) else { panic!("{point:?}, {kind:?}: it is loaded") };
        assert_says(&error, point, kind);
        if point == FaultPoint::Allocate {
            continue;
        }
        // In training. The second attempt has less to do: it fails soon.
        let (first, second) = (failing(calls[point as usize] - 2), failing(to_load[point as usize] + 2));
        let place = tempfile::tempdir().unwrap();
        let session = on_device(&recipe, &first).unwrap();
        let outcome = train(&recipe, place.path(), session, |_| on_device(&recipe, &second));
        let Err(error) = outcome else {
            panic!("{point:?}, {kind:?}: both devices fail, and the run does not")
        };
        assert_says(&error, point, kind);
        let folder = RunFolder::at(place.path().join("run"));
        assert_eq!(folder.steps().unwrap(), [4, 2], "{point:?}, {kind:?}");
        assert_whole(&folder);
    }
    println!(
        "\nresult: kinds of a second fault, each ends with exit code 1 and what to do: {}",
        FAULTS.len()
    );
}

#[test]
fn the_device_is_opened_again() {
    let recipe = recipe();
    let Unbroken { digest, calls: [submits, ..], .. } = unbroken(&recipe);
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
