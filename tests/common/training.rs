//! Trains a tiny model through the library, on the CPU executor, into a run folder on any storage.

#![allow(dead_code)] // each test binary uses a part

use hlx::checkpoint::{Checkpoint, FORMAT_VERSION, RunFolder, RunState};
use hlx::config::{Length, ModelConfig, Precision, ResumeFrom, TrainConfig, TrainOptions};
use hlx::cpu::CpuExecutor;
use hlx::data::{Corpus, Dataset, Tokenizer};
use hlx::error::Result;
use hlx::interrupt::Interrupt;
use hlx::model::parameters::{ModelState, parameter_specs};
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

/// Trains to the end, from the run's newest whole checkpoint where it has one, and gives the digest.
pub fn train(config: &TrainConfig, data: &Dataset, folder: &RunFolder) -> Result<String> {
    let _lock = folder.prepare(config, None)?;
    let resumed = folder.load_to_resume(&ResumeFrom::Auto)?.map(|(_, checkpoint)| checkpoint);
    if let Some(last) = resumed.as_ref().filter(|found| config.length == Length::Steps(found.state.step)) {
        return Ok(last.state.digest.clone());
    }
    let model = config.model_config(data.tokenizer.vocab_size());
    let start = match &resumed {
        Some(Checkpoint { model, m, v, state, .. }) => {
            TrainState { params: model.tensors.clone(), m: m.clone(), v: v.clone(), step: state.step }
        }
        None => initial_state(initial_parameters(&model, config.seed)),
    };
    let session = Session::new(step_shape(config, model.vocab_size), CpuExecutor::TRAITS, |train| {
        Ok(Box::new(CpuExecutor::load(train.program.clone())?))
    })?;
    let interrupt = Interrupt::default();
    let resumed = resumed.as_ref().map(|checkpoint| &checkpoint.state);
    let setup = Setup { config, data, folder, interrupt: &interrupt, start: &start, resumed };
    Ok(Run::new(setup, session)?.train()?.digest)
}

/// A shape whose checkpoint is some ten kilobytes.
pub fn small_shape() -> ModelConfig {
    ModelConfig {
        vocab_size: 4,
        context: 8,
        d_model: 8,
        n_layer: 1,
        n_head: 2,
        d_ff: 16,
        dropout: 0.1,
        layer_norm_eps: 1e-5,
    }
}

/// A checkpoint with different numbers in every tensor, which follow from the step.
pub fn checkpoint(shape: &ModelConfig, step: u64) -> Checkpoint {
    let tensors = |salt: f32| -> Vec<Vec<f32>> {
        let specs = parameter_specs(shape);
        (specs.iter().enumerate())
            .map(|(i, spec)| (0..spec.len()).map(|j| salt + i as f32 + j as f32 / 1024.0).collect())
            .collect()
    };
    let corpus = Corpus { name: "x".into(), text: "ab\n".into(), has_examples: true };
    Checkpoint {
        model: ModelState { config: shape.clone(), tensors: tensors(step as f32) },
        m: tensors(0.25 + step as f32),
        v: tensors(0.5 + step as f32),
        tokenizer: Tokenizer::build([&corpus]),
        state: RunState {
            format_version: FORMAT_VERSION,
            hlx_version: "0.0.0".into(),
            step,
            epoch: step / 10,
            windows: 12 * step,
            tokens: 36 * step,
            seed: 1337,
            precision: Precision::Exact,
            digest: "d".into(),
            training_hash: "t".into(),
            corpus_hash: "c".into(),
            train_loss: 2.5,
            val_loss: Some(2.25),
            best_val_loss: Some(2.0),
            best_step: Some(step),
            chain: vec![],
        },
    }
}
