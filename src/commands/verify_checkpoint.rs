//! `hlx verify --checkpoint`: whether a checkpoint is what its run's configuration gives.

use std::path::Path;

use serde_json::json;

use super::backend::Backend;
use super::print_if_read;
use super::verify::trainer;
use crate::checkpoint::{Checkpoint, Link, RunFolder, find_model_folder, read_model};
use crate::cli::VerifyArgs;
use crate::config::{TrainConfig, TrainOptions};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::kernels::kernels_hash;
use crate::model::parameters::{ParameterSpec, parameter_specs};
use crate::report::say;
use crate::train::digest::{digest, tensor_name};
use crate::train::init::{initial_parameters, initial_state};
use crate::train::run::hash_tokens;
use crate::train::session::TrainState;
use crate::train::verify::{Chain, Difference, compare};

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
    let (initial, links) = start(&folder, &checkpoint, &config, &data)?;
    let backend = Backend::open(&args.device, config.precision)?.backend;
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
    let mut trainer = trainer(&backend, &config, &data, &initial)?;
    let steps = checkpoint.state.step;
    let again = steps - initial.step;
    say(format_args!("training {again} steps again on {}, from step {}", backend.name(), initial.step));
    let specs = trainer.session.train.model.arena.specs.clone();
    trainer.restart()?;
    let (mut chain, mut broken) = (Chain { links }, None);
    while trainer.session.step() < steps && broken.is_none() {
        let record = trainer.step()?;
        let due = checkpoint.state.chain.iter().find(|link| link.step == record.state.step);
        if let Some(expected) = due {
            broken = (chain.add(&record, &specs) != expected).then(|| expected.clone());
        }
    }
    let state = trainer.session.state()?;
    let digest = digest(&specs, &state);
    let difference = if broken.is_none() { first_difference(&checkpoint, &state, &specs) } else { None };
    let since = initial.step;
    let other_kernels = (checkpoint.state.kernels_hash != kernels_hash(config.precision))
        .then_some(checkpoint.state.hlx_version);
    report(args, &folder, &backend, &Findings { since, steps, digest, broken, difference, other_kernels })
}

/// The run's configuration, and what the flags say about where things are.
fn configuration(args: &VerifyArgs, folder: &Path, checkpoint: &Checkpoint) -> Result<TrainConfig> {
    let run = RunFolder::at(folder.parent().unwrap_or(Path::new("")));
    let saved = TrainOptions::load("--checkpoint", &run.config_file())?;
    let given = TrainOptions { corpus: args.corpus.clone(), ..TrainOptions::default() };
    let config = TrainConfig::resolve(given.over(saved), Some(&checkpoint.model.config))?;
    if checkpoint.state.training_hash != config.training_hash()? {
        return Err(Error::Input(format!(
            "{} has other options than this checkpoint was trained with: it was written by a later --resume, \
             and the checkpoint cannot be retraced from it",
            run.config_file().display()
        )));
    }
    Ok(config)
}

/// The state that the checkpoint's configuration holds from, and the links of the chain up to there: the
/// start of the run, or the checkpoint that it went on from when its options changed.
fn start(
    folder: &Path,
    checkpoint: &Checkpoint,
    config: &TrainConfig,
    data: &Dataset,
) -> Result<(TrainState, Vec<Link>)> {
    let since = checkpoint.state.unbroken_since.as_ref().map_or(0, |s| s.step);
    if since > 0 {
        let earlier = RunFolder::at(folder.parent().unwrap_or(Path::new(""))).step_folder(since);
        let earlier = Checkpoint::load(&earlier).map_err(|error| {
            Error::Input(format!(
                "{} went on from step {since} with other options, and cannot be retraced without the \
                 checkpoint of that step: {error}",
                folder.display()
            ))
        })?;
        return Ok((TrainState::of(&earlier), earlier.state.chain));
    }
    let model = config.model_config(data.tokenizer.vocab_size());
    let Some(path) = &config.init_from else {
        return Ok((initial_state(initial_parameters(&model, config.seed)), vec![]));
    };
    let weights = read_model(&find_model_folder("--init-from", path)?)?;
    let specs = parameter_specs(&model);
    let has_shape = parameter_specs(&weights.config) == specs;
    let initial = initial_state(weights.tensors);
    let is_other = |expected: &String| digest(&specs, &initial) != *expected;
    if !has_shape || checkpoint.state.init_digest.as_ref().is_some_and(is_other) {
        return Err(Error::Input(format!(
            "{} has other weights than when this run started from it: put those back, for the checkpoint \
             cannot be retraced from these",
            path.display()
        )));
    }
    Ok((initial, vec![]))
}

/// What retraining found.
struct Findings {
    /// Where the retraining began.
    since: u64,
    steps: u64,
    digest: String,
    /// The first link of the chain that came out otherwise.
    broken: Option<Link>,
    difference: Option<Difference>,
    /// The version of hlx that the checkpoint is from, if its kernels were others.
    other_kernels: Option<String>,
}

impl Findings {
    fn json(&self) -> Option<serde_json::Value> {
        let broken =
            self.broken.as_ref().map(|link| json!({ "step": link.step, "tensor": "the chain of digests" }));
        broken.or_else(|| self.difference.as_ref().map(|difference| json!(difference)))
    }
}

fn first_difference(
    checkpoint: &Checkpoint,
    state: &TrainState,
    specs: &[ParameterSpec],
) -> Option<Difference> {
    let saved = [&checkpoint.model.tensors, &checkpoint.m, &checkpoint.v].into_iter().flatten();
    saved.zip(state.tensors()).enumerate().find_map(|(index, (saved, trained))| {
        let step = state.step;
        let difference = Difference { step, ..compare(tensor_name(specs, index), saved, trained) };
        (difference.elements_different > 0).then_some(difference)
    })
}

fn report(args: &VerifyArgs, folder: &Path, backend: &Backend, found: &Findings) -> Result<()> {
    let folder = folder.display();
    let reason = match (&found.broken, &found.difference) {
        (Some(link), _) => Some(format!("the digest of step {} is another than was kept then", link.step)),
        (None, Some(d)) => Some(format!(
            "{}[{}] is {} in it, and {} when trained again ({} ulp apart, {} elements differ)",
            d.tensor, d.element, d.reference, d.value, d.ulp, d.elements_different
        )),
        (None, None) => None,
    };
    if args.json {
        let json = json!({
            "identical": reason.is_none(),
            "runs": 1,
            "steps": found.steps,
            "digest": found.digest,
            "devices": [backend.name()],
            "first_difference": found.json(),
        });
        print_if_read(&format!("{json}\n"))?;
    }
    if let Some(reason) = reason {
        let why = found.other_kernels.as_ref().map_or(String::new(), |version| {
            format!("; it was trained by hlx {version} with other kernels, which may be why")
        });
        return Err(Error::Mismatch(format!("{folder} is not what its configuration gives: {reason}{why}")));
    }
    if args.json {
        return Ok(());
    }
    let from = match found.since {
        0 => String::new(),
        step => format!(" from step {step} on, where its options changed"),
    };
    print_if_read(&format!(
        "{folder} is what its configuration gives after {} steps on {}{from}: digest {}\n",
        found.steps,
        backend.name(),
        found.digest
    ))
}
