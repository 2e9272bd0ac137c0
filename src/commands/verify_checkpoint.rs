//! `hlx verify --checkpoint`: whether a checkpoint is what its run's configuration gives.

use std::path::Path;

use super::backend::Backend;
use super::retrace::{Start, Way};
use super::retrace_report::{Findings, Flaw, What};
use super::tune::Tuner;
use super::verify::{trainer, with_given_options};
use crate::checkpoint::{Checkpoint, RunFolder, find_model_folder};
use crate::cli::VerifyArgs;
use crate::config::{TrainConfig, TrainOptions};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::kernels::kernels_hash;
use crate::model::parameters::ParameterSpec;
use crate::report::say;
use crate::train::digest::{digest, tensor_name};
use crate::train::finite::met;
use crate::train::run::hash_tokens;
use crate::train::session::TrainState;
use crate::train::verify::{Chain, Difference, Trainer, compare};

pub fn run(args: &VerifyArgs, path: &Path) -> Result<()> {
    let folder = find_model_folder("--checkpoint", path)?;
    let checkpoint = Checkpoint::load(&folder)?;
    let config = configuration(args, &folder, &checkpoint)?;
    let known = config.init_from.is_some().then(|| checkpoint.tokenizer.clone());
    let data = Dataset::load(&config, known)?;
    if checkpoint.state.corpus_hash != hash_tokens(&data.train) {
        return Err(Error::Input(format!(
            "{} is not the text that this checkpoint was trained on: give that text with --corpus",
            data.name
        )));
    }
    let way = Way { folder: &folder, checkpoint: &checkpoint, config: &config };
    let Start { state: initial, links, why } = way.start(args.from.unwrap_or_default(), &data)?;
    let remedy = |error| with_given_options(error, &folder);
    let backend = Backend::open(&args.device, config.precision).map_err(remedy)?.backend;
    if let Some(other) = checkpoint.state.other_device(&backend.name(), &backend.driver()) {
        return Err(Error::Input(format!(
            "{} was trained on {other}, and --precision {} promises the same bits on one device only, which \
             {} ({}) is not: verify it there",
            folder.display(),
            config.precision,
            backend.name(),
            backend.driver()
        )));
    }
    let mut tuner = Tuner::new(!args.no_tune);
    tuner.remember(&checkpoint.state, &backend);
    let mut trainer = trainer(&backend, &config, &data, &initial, &mut tuner).map_err(remedy)?;
    let again = checkpoint.state.step - initial.step;
    say(format_args!("training {again} steps again on {}, from step {}{why}", backend.name(), initial.step));
    let mut findings = retrace(&way, &mut trainer, Chain { links }).map_err(remedy)?;
    findings.why = why;
    findings.device = backend.name();
    findings.other_kernels = (checkpoint.state.kernels_hash != kernels_hash(config.precision))
        .then_some(checkpoint.state.hlx_version);
    findings.report(args.json, &folder)
}

/// Trains from the trainer's start to the checkpoint, and compares it and those kept on the way.
fn retrace(way: &Way, trainer: &mut Trainer, mut chain: Chain) -> Result<Findings> {
    let specs = trainer.session.train.model.arena.specs.clone();
    let state = &way.checkpoint.state;
    let mut findings = Findings { since: trainer.initial.step, steps: state.step, ..Findings::default() };
    let kept = way.kept_after(trainer.initial.step)?;
    trainer.restart()?;
    while trainer.session.step() < state.step {
        let result = match trainer.advance() {
            Ok(result) => result,
            Err(error) => match met(&error) {
                Some(what) => {
                    findings.own = Some(What::NotFinite(what.to_owned()));
                    return Ok(findings);
                }
                None => return Err(error),
            },
        };
        if let Some(expected) = state.chain.iter().find(|link| link.step == result.step) {
            let record = trainer.record(result)?;
            if chain.add(&record, &specs) != expected {
                findings.own = Some(What::Link(expected.step));
                break;
            }
        }
        let Some(folder) = kept.get(&result.step) else { continue };
        let Some(met) = way.of_the_same_training(folder) else { continue };
        findings.met.push(result.step);
        if findings.on_the_way.is_none()
            && let Some(what) = first_flaw(&met, &trainer.session.state()?, &specs)
        {
            findings.on_the_way = Some(Flaw { folder: folder.clone(), what });
        }
    }
    let trained = trainer.session.state()?;
    findings.digest = digest(&specs, &trained);
    if findings.own.is_none() {
        findings.own = first_flaw(way.checkpoint, &trained, &specs);
    }
    Ok(findings)
}

/// The run's configuration, and what the flags say about where things are.
fn configuration(args: &VerifyArgs, folder: &Path, checkpoint: &Checkpoint) -> Result<TrainConfig> {
    let run = RunFolder::at(folder.parent().unwrap_or(Path::new("")));
    let own = checkpoint.state.options.clone();
    // A checkpoint that lies alone has all options but where its texts and weights are.
    let saved = match (own, run.config_file()) {
        (Some(own), file) if !file.exists() => own,
        (own, file) => own.unwrap_or_default().over(TrainOptions::load("--checkpoint", &file)?),
    };
    let given = TrainOptions { corpus: args.corpus.clone(), ..TrainOptions::default() };
    let config = TrainConfig::resolve(given.over(saved), Some(&checkpoint.model.config))?;
    if checkpoint.state.training_hash != config.training_hash()? {
        return Err(Error::Input(format!(
            "the options in {} are others than this checkpoint was trained with, and it cannot be retraced \
             from them: put the config.toml there that the run had when it saved this",
            run.config_file().display()
        )));
    }
    Ok(config)
}

/// The first way in which a checkpoint is another than what training gives, if it is.
fn first_flaw(checkpoint: &Checkpoint, trained: &TrainState, specs: &[ParameterSpec]) -> Option<What> {
    let saved = [&checkpoint.model.tensors, &checkpoint.m, &checkpoint.v].into_iter().flatten();
    let difference = saved.zip(trained.tensors()).enumerate().find_map(|(index, (saved, trained))| {
        let step = checkpoint.state.step;
        let difference = Difference { step, ..compare(tensor_name(specs, index), saved, trained) };
        (difference.elements_different > 0).then_some(difference)
    });
    let is_mislabelled = || checkpoint.state.digest != digest(specs, trained);
    match difference {
        Some(difference) => Some(What::Tensor(Box::new(difference))),
        None => is_mislabelled().then_some(What::Digest(checkpoint.state.step)),
    }
}
