//! Which of a run folder's checkpoints to go on from.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use super::{LATEST, RunFolder};
use crate::checkpoint::atomic::replaced_folder;
use crate::checkpoint::manifest::damaged;
use crate::checkpoint::names::{default_paths, is_step_folder, newest_default, replaced_step, step_name};
use crate::checkpoint::step_folder::{Checkpoint, RunState};
use crate::config::{ResumeFrom, TrainOptions};
use crate::error::{Error, Result};

impl RunFolder {
    /// The folder whose run `--resume` goes on with: the one at its path (or around it, if that is a
    /// step folder), or `--out`, or else the last of the default names that is taken.
    ///
    /// # Errors
    /// [`Error::Usage`] if `--out` and the path are different folders: a run goes on where it is.
    pub fn to_resume(choice: &ResumeFrom, options: &TrainOptions) -> Result<RunFolder> {
        let mut names = default_paths(options.corpus.as_deref(), options.model.unwrap_or_default());
        let run = match (choice, &options.out) {
            (ResumeFrom::Path(path), _) if is_step_folder(path) => {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                RunFolder::at(parent.unwrap_or(Path::new(".")))
            }
            (ResumeFrom::Path(path), _) => RunFolder::at(path),
            (ResumeFrom::Auto, Some(out)) => RunFolder::at(out),
            (ResumeFrom::Auto, None) => {
                let first = names.next().expect("numbers do not end");
                RunFolder::at(newest_default(&first).unwrap_or(first))
            }
        };
        match &options.out {
            Some(out) if *out != run.path => Err(Error::Usage(format!(
                "--out {} is not the run that --resume goes on with, {}: leave --out out, \
                 or start a new run there from its weights with --init-from",
                out.display(),
                run.path.display()
            ))),
            _ => Ok(run),
        }
    }

    /// Loads the checkpoint to go on from. A path to a step folder takes exactly that one; else the
    /// newest whole one is taken, and each damaged one passed over with a warning. `None` if there is
    /// none at all; an error if there are only damaged ones, rather than quietly starting again.
    pub fn load_to_resume(&self, choice: &ResumeFrom) -> Result<Option<(PathBuf, Checkpoint)>> {
        if let ResumeFrom::Path(path) = choice {
            if is_step_folder(path) {
                return Ok(Some((path.clone(), Checkpoint::load_from(self.storage(), path)?)));
            }
            if !path.is_dir() {
                return Err(Error::Input(format!(
                    "--resume {}: there is no such folder: give a run's folder or one of its step folders",
                    path.display()
                )));
            }
        }
        let candidates = self.candidates()?;
        for (index, (step, folder)) in candidates.iter().enumerate() {
            match Checkpoint::load_from(self.storage(), folder) {
                Ok(checkpoint) => {
                    let untried = candidates[index + 1..].iter().filter(|(other, _)| other > step);
                    untried.for_each(|(_, left)| say_left_behind(left));
                    return Ok(Some((folder.clone(), checkpoint)));
                }
                Err(error) => tracing::warn!("passing over {}: {error}", folder.display()),
            }
        }
        match (candidates.is_empty(), choice) {
            (true, ResumeFrom::Auto) => Ok(None),
            (true, ResumeFrom::Path(path)) => Err(Error::Input(format!(
                "--resume {path}: there is no checkpoint in it: `hlx train --out {path} --resume` \
                 starts anew there",
                path = path.display()
            ))),
            (false, _) => Err(damaged(&self.path, "none of its checkpoints is whole")),
        }
    }

    /// The newest whole checkpoint of the training that `last` is of, after step `first` and not after
    /// `last`; each damaged one is passed over with a warning. `None` if there is none.
    pub fn load_of_training(&self, first: u64, last: &RunState) -> Result<Option<(PathBuf, Checkpoint)>> {
        let mut candidates = self.candidates()?;
        candidates.retain(|(step, _)| first < *step && *step <= last.step);
        for (_, folder) in candidates {
            match Checkpoint::load_from(self.storage(), &folder) {
                Ok(checkpoint) if checkpoint.state.is_of_training(last) => {
                    return Ok(Some((folder, checkpoint)));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!("passing over {}: {error}", folder.display()),
            }
        }
        Ok(None)
    }

    /// Every folder that may hold a checkpoint to go on from, with its step, the one to try first in front:
    /// what was saved last, then the newest first, but what lies past `latest` at the end. It was left there
    /// by a run that has since gone on from an earlier step.
    fn candidates(&self) -> Result<Vec<(u64, PathBuf)>> {
        let names = self.names()?;
        let there = |step: u64| names.iter().any(|name| *name == step_name(step));
        // A crash while one folder took another's name can leave the older one alone, under its hidden name.
        let replaced = names.iter().filter_map(|name| replaced_step(name)).filter(|&step| !there(step));
        let mut folders: Vec<(u64, PathBuf)> =
            replaced.map(|step| (step, replaced_folder(&self.step_folder(step)))).collect();
        folders.extend(self.steps()?.into_iter().map(|step| (step, self.step_folder(step))));
        let latest = self.pointed(LATEST)?.filter(|&latest| folders.iter().any(|(step, _)| *step == latest));
        let arrived = self.arrived().map(|arrived| arrived.step);
        folders.sort_by_key(|&(step, _)| {
            let is_past = latest.is_some_and(|latest| step > latest);
            (arrived != Some(step), is_past, Reverse(step))
        });
        Ok(folders)
    }
}

fn say_left_behind(folder: &Path) {
    let folder = folder.display();
    tracing::warn!(
        "passing over {folder}: the run has since gone on from an earlier step, and `latest` names what it \
         saved then; --resume {folder} takes this one all the same"
    );
}
