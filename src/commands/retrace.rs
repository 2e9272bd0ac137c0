//! Where the retracing of a checkpoint begins, and which kept checkpoints lie on its way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::checkpoint::{Checkpoint, Link, RunFolder, Since, find_model_folder, read_model};
use crate::config::{RetraceFrom, TrainConfig};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::model::parameters::parameter_specs;
use crate::report::say;
use crate::train::digest::digest;
use crate::train::init::{initial_parameters, initial_state};
use crate::train::session::TrainState;

/// A checkpoint that is to be retraced.
pub struct Way<'a> {
    /// Its folder.
    pub folder: &'a Path,
    pub checkpoint: &'a Checkpoint,
    /// What it was trained with.
    pub config: &'a TrainConfig,
}

/// Where the retracing begins.
pub struct Start {
    pub state: TrainState,
    /// The chain of digests up to there.
    pub links: Vec<Link>,
    /// What that step is, behind a comma; nothing for the start of the run.
    pub why: &'static str,
}

impl Start {
    fn of(checkpoint: Checkpoint, why: &'static str) -> Start {
        Start { state: TrainState::of(&checkpoint), links: checkpoint.state.chain, why }
    }
}

impl Way<'_> {
    /// The state to train from.
    pub fn start(&self, from: RetraceFrom, data: &Dataset) -> Result<Start> {
        if from == RetraceFrom::Last {
            match self.last_before()? {
                Some(kept) => return Ok(Start::of(kept, ", the checkpoint kept before it")),
                None => say("no whole checkpoint that leads to this one is kept before it: from the start"),
            }
        }
        match &self.checkpoint.state.unbroken_since {
            Some(since) => Ok(Start::of(self.begin(since)?, ", where its options changed")),
            None => Ok(Start { state: self.fresh(data)?, links: vec![], why: "" }),
        }
    }

    fn run(&self) -> RunFolder {
        RunFolder::at(self.folder.parent().unwrap_or(Path::new("")))
    }

    /// The folders of the checkpoints kept between a step and this one, by step.
    pub fn kept_after(&self, step: u64) -> Result<BTreeMap<u64, PathBuf>> {
        let run = self.run();
        let between = |&kept: &u64| step < kept && kept < self.checkpoint.state.step;
        Ok(run.steps()?.into_iter().filter(between).map(|kept| (kept, run.step_folder(kept))).collect())
    }

    /// A kept checkpoint, if it is whole and its options, kernels and beginning are this one's: then its
    /// bits must be those that lie on the way. Says so if not.
    pub fn of_the_same_training(&self, folder: &Path) -> Option<Checkpoint> {
        let kept = loaded(folder)?;
        if !kept.state.is_of_training(&self.checkpoint.state) {
            say(format_args!("passing over {}: it is of another training", folder.display()));
            return None;
        }
        Some(kept)
    }

    /// The newest whole checkpoint before this one whose chain leads to it: of the same training, or the one
    /// that this training went on from.
    fn last_before(&self) -> Result<Option<Checkpoint>> {
        let state = &self.checkpoint.state;
        let first = state.unbroken_since.as_ref().map_or(0, |since| since.step);
        for (step, folder) in self.kept_after(first.saturating_sub(1))?.into_iter().rev() {
            let Some(kept) = loaded(&folder) else { continue };
            let is_begin = state.unbroken_since.as_ref().is_some_and(|since| since.step == step);
            let leads = state.chain.starts_with(&kept.state.chain);
            if !leads || !(is_begin || kept.state.is_of_training(state)) {
                say(format_args!("passing over {}: it does not lead to this one", folder.display()));
                continue;
            }
            let expected = match &state.unbroken_since {
                Some(Since { digest: Some(digest), .. }) if is_begin => digest,
                _ => &kept.state.digest,
            };
            let found = digest_of(&kept);
            if found == *expected {
                return Ok(Some(kept));
            }
            say(format_args!(
                "passing over {}: the digest of its tensors is {found}, not {expected} as it should be",
                folder.display()
            ));
        }
        Ok(None)
    }

    /// The checkpoint that this one's training went on from with the options that it has.
    fn begin(&self, since: &Since) -> Result<Checkpoint> {
        let (name, step) = (self.folder.display(), since.step);
        let folder = self.run().step_folder(step);
        let Some(expected) = &since.digest else {
            return Err(Error::Input(format!(
                "{name} went on from step {step} with other options, and is from an hlx that did not keep \
                 which checkpoint of that step this was: go on with --resume, and verify what is saved then"
            )));
        };
        let begin = Checkpoint::load(&folder).map_err(|error| {
            Error::Input(format!(
                "{name} went on from step {step} with other options, and cannot be retraced without the \
                 checkpoint of that step: {error}"
            ))
        })?;
        let found = digest_of(&begin);
        if found != *expected {
            return Err(Error::Input(format!(
                "{name} went on with other options from a checkpoint of step {step} with digest {expected}, \
                 and {} is not it: its digest is {found}: another branch of the run has saved that step \
                 since, or it was changed; put the right one there",
                folder.display()
            )));
        }
        Ok(begin)
    }

    /// The state before the first step of the run.
    fn fresh(&self, data: &Dataset) -> Result<TrainState> {
        let model = self.config.model_config(data.tokenizer.vocab_size());
        let expected = &self.checkpoint.state.init_digest;
        let Some(path) = &self.config.init_from else {
            if expected.is_some() {
                return Err(Error::Input(format!(
                    "{} is of a run that started from weights, and which is said only in config.toml, which \
                     is not beside it: verify it where it was saved",
                    self.folder.display()
                )));
            }
            return Ok(initial_state(initial_parameters(&model, self.config.seed)));
        };
        let weights = read_model(&find_model_folder("--init-from", path)?)?;
        let specs = parameter_specs(&model);
        let has_shape = parameter_specs(&weights.config) == specs;
        let initial = initial_state(weights.tensors);
        let is_other = |expected: &String| digest(&specs, &initial) != *expected;
        if !has_shape || expected.as_ref().is_some_and(is_other) {
            return Err(Error::Input(format!(
                "{} has other weights than when this run started from it: put those back, for the checkpoint \
                 cannot be retraced from these",
                path.display()
            )));
        }
        Ok(initial)
    }
}

/// A checkpoint, if it is whole; says so if not.
fn loaded(folder: &Path) -> Option<Checkpoint> {
    Checkpoint::load(folder)
        .inspect_err(|error| say(format_args!("passing over {}: {error}", folder.display())))
        .ok()
}

/// The digest of what a checkpoint holds, whatever its state.json says.
fn digest_of(checkpoint: &Checkpoint) -> String {
    digest(&parameter_specs(&checkpoint.model.config), &TrainState::of(checkpoint))
}
