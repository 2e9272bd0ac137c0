//! NaN and infinity in every tensor in turn: the step that meets one ends the run, names the tensor, and
//! nothing of it is saved.

mod common;
#[path = "common/poison.rs"]
mod poison;
#[path = "common/recipe.rs"]
mod recipe;
#[path = "common/scale.rs"]
mod scale;
#[path = "common/storage.rs"]
mod storage;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use hlx::checkpoint::{Checkpoint, RunFolder};
use hlx::config::{CheckpointEvery, TrainOptions};
use hlx::cpu::CpuExecutor;
use hlx::error::Error;
use hlx::interrupt::Interrupt;
use hlx::train::digest::tensor_name;
use hlx::train::program::TrainProgram;
use hlx::train::run::{Run, Setup, step_shape};
use hlx::train::session::{Session, StepRates, TrainState};
use hlx::train::verify::Trainer;
use poison::{Output, Poison, Poisoned, outputs};
use recipe::{Fault, Recipe};
use scale::{Random, count, report};
use storage::Faulty;

const NUMBERS: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// The state with one element of tensor `index` replaced.
fn poisoned(state: &TrainState, index: usize, element: usize, number: f32) -> TrainState {
    let mut state = state.clone();
    let tensors = [&mut state.params, &mut state.m, &mut state.v];
    let tensor = tensors.into_iter().flatten().nth(index).expect("a tensor");
    let last = tensor.len() - 1;
    tensor[element.min(last)] = number;
    state
}

fn step(trainer: &mut Trainer, state: &TrainState, lr: f64) -> Result<(), String> {
    trainer.session.load_state(state).unwrap();
    let micros = trainer.feed.micro_batches(state.step);
    match trainer.session.step_now(micros, StepRates { lr, weight_decay: trainer.weight_decay }) {
        Ok(_) => Ok(()),
        Err(Error::Input(text)) => Err(text),
        Err(other) => panic!("another error: {other}"),
    }
}

#[test]
fn in_any_parameter_or_moment_it_ends_the_step_and_is_named() {
    let recipe = Recipe::new();
    let (state, _) = recipe.trained(2);
    let mut trainer = recipe.trainer("sound", Fault::None);
    assert_eq!(step(&mut trainer, &state, 1e-3), Ok(()));
    let specs = trainer.session.train.model.arena.specs.clone();
    for index in 0..3 * specs.len() {
        let name = tensor_name(&specs, index);
        for (number, element) in NUMBERS.into_iter().zip([0, 5, usize::MAX]) {
            let text = step(&mut trainer, &poisoned(&state, index, element, number), 1e-3)
                .expect_err(&format!("{number} in {name} went unnoticed"));
            let wanted = format!("at step 3, and first of all tensors {name} is not");
            assert!(text.contains(&wanted), "{number} in {name}: {text}");
        }
    }
    // The session is none the worse for it.
    assert_eq!(step(&mut trainer, &state, 1e-3), Ok(()));
}

#[test]
fn an_enormous_learning_rate_ends_the_run_with_a_finite_state() {
    let recipe = Recipe::new();
    let mut trainer = recipe.trainer("sound", Fault::None);
    // The first overflows at once, the second by way of the loss.
    for (lr, what) in [(1e38, "the update"), (1e12, "the loss")] {
        let mut state = recipe.initial.clone();
        let text = loop {
            if let Err(text) = step(&mut trainer, &state, lr) {
                break text;
            }
            state = trainer.session.state().unwrap();
            assert!(state.step < 10, "--lr {lr} does no harm");
        };
        assert!(text.starts_with(what) && text.contains("lower --lr"), "{text}");
        let after = trainer.session.state().unwrap();
        assert!(after.tensors().flatten().all(|x| x.is_finite()), "something spoiled was stored: {text}");
    }
}

/// The functions are exact up to norms of 2^50.
#[test]
fn a_finite_gradient_that_is_too_large_ends_the_step_and_changes_nothing() {
    let recipe = Recipe::new();
    let (mut state, _) = recipe.trained(2);
    let mut trainer = recipe.trainer("sound", Fault::None);
    let specs = trainer.session.train.model.arena.specs.clone();
    let gain = specs.iter().position(|spec| spec.name == "transformer.ln_f.weight").unwrap();
    for (size, is_too_large) in [(1e12, false), (1e17, true)] {
        state.params[gain].fill(size);
        let taken = step(&mut trainer, &state, 1e-3);
        let after = trainer.session.state().unwrap();
        if is_too_large {
            let text = taken.expect_err("the step was taken");
            for part in ["the gradient norm is 2.3e17", "at step 3", "2^50", "lower --lr"] {
                assert!(text.contains(part), "{text:?} lacks {part:?}");
            }
            assert_eq!(TrainState { step: state.step, ..after }, state, "something was changed");
        } else {
            assert_eq!(taken, Ok(()));
            assert_ne!(TrainState { step: state.step, ..after }, state, "nothing was changed");
        }
    }
}

#[test]
fn nothing_of_it_is_saved() {
    let recipe = Recipe::new();
    let mut config = recipe.config.clone();
    config.checkpoint_every = CheckpointEvery::Steps(1);
    let (whole, _) = recipe.trained(2);
    let tensors = 3 * whole.params.len();
    for (k, number) in NUMBERS.into_iter().enumerate() {
        let place = tempfile::tempdir().unwrap();
        let folder = RunFolder::at(place.path().join("run"));
        let _lock = folder.prepare(&config, None).unwrap();
        let start = poisoned(&whole, k * tensors / 3, 0, number);
        let interrupt = Interrupt::default();
        let setup = Setup {
            config: &config,
            data: &recipe.data,
            folder: &folder,
            interrupt: &interrupt,
            start: &start,
            resumed: None,
            device: ["", ""],
        };
        let mut run = Run::new(setup, recipe.trainer("sound", Fault::None).session).unwrap();
        let error = run.train().expect_err("the run goes on");
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains("at step 3"), "{error}");
        assert_eq!(folder.steps().unwrap(), Vec::<u64>::new());
        assert!(std::fs::read_to_string(folder.metrics_file()).unwrap().is_empty());
    }
}

/// A run of four steps that saves after each, with one number of one result replaced in the third. What it
/// came to, and the folder.
fn run_poisoned(recipe: &Recipe, place: &Path, poison: Option<Poison>) -> Result<String, String> {
    let mut config = recipe.config.clone();
    (config.checkpoint_every, config.keep_last) = (CheckpointEvery::Steps(1), 0);
    // Without a fault, it does what the disk does, but waits for nothing.
    let folder = RunFolder::on(Arc::new(Faulty::none()), place.join("run"));
    let _lock = folder.prepare(&config, None).unwrap();
    let shape = step_shape(&config, recipe.data.tokenizer.vocab_size());
    let session =
        Session::new(shape, CpuExecutor::TRAITS, |train| Ok(Box::new(Poisoned::load(train, poison)?)));
    let interrupt = Interrupt::default();
    let setup = Setup {
        config: &config,
        data: &recipe.data,
        folder: &folder,
        interrupt: &interrupt,
        start: &recipe.initial,
        resumed: None,
        device: ["", ""],
    };
    match Run::new(setup, session.unwrap()).unwrap().train() {
        Ok(outcome) => Ok(outcome.digest),
        Err(Error::Input(text)) => Err(text),
        Err(other) => panic!("another error: {other}"),
    }
}

/// A run that ended in its third step has the first two's checkpoints, and only numbers in its metrics.
fn assert_sound(folder: &RunFolder, case: &str) {
    assert_eq!(folder.steps().unwrap(), [2, 1], "{case}");
    for step in [2, 1] {
        Checkpoint::load(&folder.step_folder(step)).unwrap_or_else(|error| panic!("{case}: {error}"));
    }
    for line in std::fs::read_to_string(folder.metrics_file()).unwrap().lines() {
        let metrics: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(["train/loss", "grad_norm"].iter().all(|key| metrics[key].is_f64()), "{case}: {line}");
    }
}

/// What a run says whose third step meets a number in a gradient, or in the sum over all of them. The loss
/// was calculated before either.
#[test]
fn in_the_gradient_alone_it_ends_the_step_and_is_named() {
    let recipe = Recipe::of(TrainOptions {
        n_layer: Some(1),
        d_model: Some(16),
        n_head: Some(2),
        context: Some(8),
        batch_size: Some(2),
        steps: Some(4),
        val_fraction: Some(0.0),
        ..TrainOptions::default()
    });
    let train = TrainProgram::new(
        &step_shape(&recipe.config, recipe.data.tokenizer.vocab_size()),
        CpuExecutor::TRAITS,
    );
    let arena = &train.model.arena;
    let said = |output: &Output, word: usize, number: f32| {
        let poison = Poison { output: output.clone(), word, number, step: 3 };
        let place = tempfile::tempdir().unwrap();
        let text = run_poisoned(&recipe, place.path(), Some(poison)).expect_err(&output.name);
        assert_sound(&RunFolder::at(place.path().join("run")), &text);
        text
    };
    let start = "the gradient norm is not a finite number at step 3";
    let (outputs, mut tensors) = (outputs(&train), BTreeSet::new());
    for output in outputs.iter().filter(|output| output.view.buffer == train.grads.buffer) {
        let word = output.word(0.5);
        let tensor = &arena.parameter_at(output.view.offset + word).name;
        let text = said(output, word, f32::NAN);
        let wanted = format!("{start}, and first of all tensors the gradient of {tensor} is not");
        assert!(text.starts_with(&wanted), "{}: {text}", output.name);
        tensors.insert(tensor.clone());
    }
    assert_eq!(tensors.len(), arena.specs.len(), "{tensors:?}");
    // In the sum alone, and in the reported norm alone, which the update does not read.
    let sum =
        outputs.iter().rfind(|output| output.name.ends_with("in sum_of_squares")).expect("it is summed");
    let text = said(sum, 0, f32::INFINITY);
    assert!(
        text.starts_with(&format!("{start}; the first operation that shows it is {}", sum.name)),
        "{text}"
    );
    let norm = outputs.iter().find(|output| output.name.ends_with("in results")).expect("it is reported");
    let text = said(norm, 1, f32::NAN);
    assert!(text.starts_with(&format!("{start}: ")), "{text}");
}

/// Every float that an operation of a step writes: activations, gradients, sums, the update. Either nothing
/// comes of the number, to the last bit, because nothing reads it; or the run ends at that step.
#[test]
fn in_any_result_of_any_operation_it_ends_the_step_or_comes_to_nothing() {
    let recipe = Recipe::of(TrainOptions {
        n_layer: Some(count(1, 2)),
        d_model: Some(16),
        n_head: Some(2),
        context: Some(8),
        batch_size: Some(2),
        grad_accum: Some(2),
        dropout: Some(0.1),
        grad_clip: Some(1.0),
        steps: Some(4),
        val_fraction: Some(0.0),
        ..TrainOptions::default()
    });
    let clean = run_poisoned(&recipe, tempfile::tempdir().unwrap().path(), None).unwrap();
    let shape = step_shape(&recipe.config, recipe.data.tokenizer.vocab_size());
    let outputs = outputs(&TrainProgram::new(&shape, CpuExecutor::TRAITS));
    let mut random = Random(4);
    let (mut cases, mut ended, mut named) = (0, 0, 0);
    for output in &outputs {
        let ended_before = ended;
        for tried in 0.. {
            // Of each result something is read; not what others write over, nor what is masked or dropped.
            if tried >= count(1, 4) && ended > ended_before {
                break;
            }
            assert!(tried < 40, "nothing comes of any number in {}", output.name);
            let word = output.word(random.below(1001) as f64 / 1000.0);
            for number in &NUMBERS[..2] {
                let poison = Poison { output: output.clone(), word, number: *number, step: 3 };
                let case = format!("{number} at {word} of {}", output.name);
                let place = tempfile::tempdir().unwrap();
                cases += 1;
                match run_poisoned(&recipe, place.path(), Some(poison)) {
                    Ok(digest) => assert_eq!(digest, clean, "{case} changed something and went unnoticed"),
                    Err(text) => {
                        assert!(text.contains(" at step 3"), "{case}: {text}");
                        assert_sound(&RunFolder::at(place.path().join("run")), &case);
                        ended += 1;
                        named += usize::from(text.contains(&output.name));
                    }
                }
            }
        }
    }
    assert!(10 * ended > 9 * cases, "only {ended} of {cases} runs ended");
    report(
        "NaN and infinity in results of operations: runs that ended at that step, the rest came to nothing",
        format!("{ended} of {cases}, at {} results of a step; {named} named the operation", outputs.len()),
    );
}
