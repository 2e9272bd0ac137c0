//! Trains a tiny model through the library, on the CPU executor, into a run folder on any storage.

#![allow(dead_code)] // each test binary uses a part

use hlx::checkpoint::RunFolder;
use hlx::config::{Length, ResumeFrom, TrainConfig, TrainOptions};
use hlx::cpu::CpuExecutor;
use hlx::data::{Corpus, Dataset, Tokenizer};
use hlx::error::Result;
use hlx::interrupt::Interrupt;
use hlx::ops::gemm::Tuning;
use hlx::recording::Executor;
use hlx::train::init::{initial_parameters, initial_state};
use hlx::train::run::{Run, Setup, step_shape};
use hlx::train::session::{Session, TrainState};

/// A run of 6 steps with a save after every second one, of which two are kept.
pub fn tiny_run() -> TrainConfig {
    let options = TrainOptions {
        n_layer: Some(1),
        d_model: Some(8),
        n_head: Some(2),
        context: Some(4),
        batch_size: Some(2),
        dropout: Some(0.1),
        steps: Some(6),
        warmup_steps: Some(2),
        checkpoint_every_steps: Some(2),
        eval_every: Some(2),
        keep_last: Some(2),
        ..TrainOptions::default()
    };
    TrainConfig::resolve(options, None).unwrap()
}

pub fn dataset() -> Dataset {
    let text: String = (0..60).map(|i| format!("{i} is {}.\n", 7 * i % 60)).collect();
    let corpus = Corpus { name: "sevens".into(), text, has_examples: false };
    let tokenizer = Tokenizer::build([&corpus]);
    let mut train = tokenizer.encode(&corpus.text, &corpus.name).unwrap();
    let validation = train.split_off(train.len() * 9 / 10);
    Dataset { name: corpus.name, tokenizer, train, validation }
}

/// A session of a run's training step, on what is made of a CPU executor for its program.
pub fn session(
    config: &TrainConfig,
    data: &Dataset,
    tuning: &Tuning,
    on: impl FnOnce(CpuExecutor) -> Box<dyn Executor>,
) -> Result<Session> {
    let shape = step_shape(config, data.tokenizer.vocab_size());
    Session::tuned(shape, CpuExecutor::TRAITS, tuning, |train| {
        Ok(on(CpuExecutor::load(train.program.clone())?))
    })
}

/// A new run in a folder that holds none, as far as `go_on` takes it.
pub fn new_run<T>(
    config: &TrainConfig,
    data: &Dataset,
    folder: &RunFolder,
    go_on: impl FnOnce(Setup<'_>) -> Result<T>,
) -> Result<T> {
    let _lock = folder.prepare(config, None)?;
    let model = config.model_config(data.tokenizer.vocab_size());
    let start = initial_state(initial_parameters(&model, config.seed));
    let interrupt = &Interrupt::default();
    go_on(Setup { config, data, folder, interrupt, start: &start, resumed: None, device: ["", ""] })
}

/// Trains to the end, from the run's newest whole checkpoint where it has one, and gives the digest.
pub fn train(config: &TrainConfig, data: &Dataset, folder: &RunFolder) -> Result<String> {
    let held = if folder.holds_run()? { Some(folder.lock()?) } else { None };
    let _lock = folder.prepare(config, held)?;
    let resumed = folder.load_to_resume(&ResumeFrom::Auto)?.map(|(_, checkpoint)| checkpoint);
    if let Some(last) = resumed.as_ref().filter(|found| config.length == Length::Steps(found.state.step)) {
        return Ok(last.state.digest.clone());
    }
    let model = config.model_config(data.tokenizer.vocab_size());
    let start = match &resumed {
        Some(checkpoint) => TrainState::of(checkpoint),
        None => initial_state(initial_parameters(&model, config.seed)),
    };
    let session = session(config, data, &Tuning::default(), |executor| Box::new(executor))?;
    let interrupt = Interrupt::default();
    let resumed = resumed.as_ref().map(|checkpoint| &checkpoint.state);
    let setup =
        Setup { config, data, folder, interrupt: &interrupt, start: &start, resumed, device: ["", ""] };
    Ok(Run::new(setup, session)?.train()?.digest)
}
