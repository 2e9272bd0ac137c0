//! Saving into a run's folder: the checkpoint, what points at it, and the removal of what is too old.

use std::path::PathBuf;
use std::sync::{MutexGuard, PoisonError};

use super::{BEST, LATEST, RunFolder, is_absent};
use crate::checkpoint::atomic::{replace_file_on, retire_folder};
use crate::checkpoint::manifest::is_sealed;
use crate::checkpoint::names::{parse_step, step_name};
use crate::checkpoint::step_folder::{Checkpoint, RunState, STATE, since_of};
use crate::error::{Error, Result};

/// Names the checkpoint whose save began last, with the hash of its manifest: if the save ended before
/// `latest` named it, this tells its folder from one that another save left. The lines after that are the
/// text of config.toml, where it comes with this checkpoint.
const SAVING: &str = "saving";

/// What the file `saving` says of a checkpoint that has got its place.
pub(super) struct Arrived {
    pub step: u64,
    /// The run's config.toml from this checkpoint on, if it is another than before.
    config: Option<String>,
}

impl RunFolder {
    /// Saves a checkpoint and points `latest` at it, and `best` if no earlier validation loss was
    /// lower; then removes all but the newest `keep_last` (0: none removed). Returns its folder.
    ///
    /// # Errors
    /// One that names the file at fault. The checkpoint that `latest` names is then still whole.
    pub fn save(&self, checkpoint: &Checkpoint, keep_last: usize) -> Result<PathBuf> {
        let step = checkpoint.state.step;
        self.write_checkpoint(checkpoint, keep_last).map_err(|error| {
            Error::Input(format!(
                "cannot save step {step}: {error}: make room or mend the disk, and go on from the last \
                 whole checkpoint with --resume {}",
                self.path.display()
            ))
        })?;
        Ok(self.step_folder(step))
    }

    fn write_checkpoint(&self, checkpoint: &Checkpoint, keep_last: usize) -> Result<()> {
        let step = checkpoint.state.step;
        checkpoint.save_announced(self.storage(), &self.step_folder(step), |hash| {
            let config = self.waiting_config().clone().unwrap_or_default();
            self.replace(SAVING, &format!("{} {hash}\n{config}", step_name(step)))
        })?;
        let config = self.waiting_config().clone();
        self.arrive(&Arrived { step, config })?;
        *self.waiting_config() = None;
        self.forget_saving()?;
        // Not only when it is this one: a run resumed from an early checkpoint leaves a pointer behind that
        // belongs to the steps it gave up.
        if let Some(best) = checkpoint.state.best_step
            && self.pointed(BEST)? != Some(best)
            && self.exists(&self.step_folder(best))?
        {
            self.point(BEST, best)?;
        }
        self.remove_old(&checkpoint.state, keep_last)
    }

    /// The config.toml that waits for the first save, if it still does.
    pub(super) fn waiting_config(&self) -> MutexGuard<'_, Option<String>> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What follows when a checkpoint has got its place: the options that it was trained with are the run's.
    fn arrive(&self, arrived: &Arrived) -> Result<()> {
        if let Some(text) = &arrived.config {
            replace_file_on(self.storage(), &self.config_file(), text.as_bytes())?;
        }
        self.point(LATEST, arrived.step)
    }

    /// The note has served once `latest` names its step. Not synced: it does no harm if it comes back.
    fn forget_saving(&self) -> Result<()> {
        let path = self.path.join(SAVING);
        match self.storage.remove_file(&path) {
            Err(error) if !is_absent(&error) => Err(Error::io("cannot remove", path)(error)),
            _ => Ok(()),
        }
    }

    fn point(&self, pointer: &str, step: u64) -> Result<()> {
        self.replace(pointer, &format!("{}\n", step_name(step)))
    }

    fn replace(&self, name: &str, text: &str) -> Result<()> {
        replace_file_on(self.storage(), &self.path.join(name), text.as_bytes())
    }

    /// Points `latest` at what was saved last, and gives the run its options, if the save ended before it
    /// did. The lock must be held; what is in the folder is to be read after this.
    pub fn finish_save(&self) -> Result<()> {
        let Some(arrived) = self.arrived() else { return Ok(()) };
        if arrived.config.is_some() || self.pointed(LATEST)? != Some(arrived.step) {
            // What is damaged is passed over, here as on going on.
            let folder = self.step_folder(arrived.step);
            if Checkpoint::load_from(self.storage(), &folder).is_err() {
                return Ok(());
            }
            self.arrive(&arrived)?;
        }
        self.forget_saving()
    }

    /// The checkpoint whose save began last, if its folder has got its place. A note that cannot be read is
    /// none.
    pub(super) fn arrived(&self) -> Option<Arrived> {
        let text = self.text(SAVING).unwrap_or_else(|error| {
            tracing::warn!("going on without what was saved last being named: {error}");
            None
        });
        let text = text?;
        let (line, config) = text.split_once('\n')?;
        let (name, hash) = line.split_once(' ')?;
        let step = parse_step(name)?;
        let config = (!config.is_empty()).then(|| config.to_owned());
        is_sealed(self.storage(), &self.step_folder(step), hash).then_some(Arrived { step, config })
    }

    /// Never the checkpoint that was just written, which is whole, never the best one, and never one that
    /// those which stay hold from: without it they could not be retraced. Steps past the newest are left
    /// alone: they belong to a run that was resumed from before them.
    fn remove_old(&self, newest: &RunState, keep_last: usize) -> Result<()> {
        if keep_last == 0 {
            return Ok(());
        }
        let steps = self.steps()?.into_iter().filter(|&step| step <= newest.step);
        let stays = |&(index, step): &(usize, u64)| {
            index < keep_last || step == newest.step || Some(step) == newest.best_step
        };
        let (kept, old): (Vec<_>, Vec<_>) = steps.enumerate().partition(stays);
        if old.is_empty() {
            return Ok(());
        }
        let mut starts: Vec<u64> = newest.unbroken_since.iter().map(|since| since.step).collect();
        for (_, step) in kept.into_iter().filter(|&(_, step)| step != newest.step) {
            starts.extend(self.since(step)?);
        }
        old.into_iter()
            .filter(|(_, step)| !starts.contains(step))
            .try_for_each(|(_, step)| retire_folder(self.storage(), &self.step_folder(step)))
    }

    /// The step that a kept checkpoint holds from, if it says so. One that is damaged holds from nowhere.
    fn since(&self, step: u64) -> Result<Option<u64>> {
        let path = self.step_folder(step).join(STATE);
        match self.storage.read(&path) {
            Ok(bytes) => Ok(since_of(&bytes)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Error::io("cannot read", path)(error)),
        }
    }
}
