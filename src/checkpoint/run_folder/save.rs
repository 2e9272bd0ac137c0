//! Saving into a run's folder: the checkpoint, what points at it, and the removal of what is too old.

use std::path::PathBuf;
use std::sync::PoisonError;

use super::{BEST, LATEST, RunFolder, is_absent};
use crate::checkpoint::atomic::{replace_file_on, retire_folder};
use crate::checkpoint::manifest::is_sealed;
use crate::checkpoint::names::{parse_step, step_name};
use crate::checkpoint::step_folder::Checkpoint;
use crate::error::{Error, Result};

/// Names the checkpoint whose save began last, with the hash of its manifest: if the save ended before
/// `latest` named it, this tells its folder from one that another save left.
const SAVING: &str = "saving";

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
            self.write_config()?;
            self.replace(SAVING, &format!("{} {hash}\n", step_name(step)))
        })?;
        self.point(LATEST, step)?;
        self.forget_saving()?;
        // Not only when it is this one: a run resumed from an early checkpoint leaves a pointer behind that
        // belongs to the steps it gave up.
        if let Some(best) = checkpoint.state.best_step
            && self.pointed(BEST)? != Some(best)
            && self.exists(&self.step_folder(best))?
        {
            self.point(BEST, best)?;
        }
        self.remove_old(step, checkpoint.state.best_step, keep_last)
    }

    /// Writes the config.toml that waits for the first save, if it still does.
    fn write_config(&self) -> Result<()> {
        let mut waiting = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = waiting.as_ref() {
            replace_file_on(self.storage(), &self.config_file(), text.as_bytes())?;
        }
        *waiting = None;
        Ok(())
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

    /// Points `latest` at what was saved last, if the save ended before it did. The lock must be held.
    pub fn finish_save(&self) -> Result<()> {
        match self.arrived() {
            Some(step) if self.pointed(LATEST)? != Some(step) => {
                // What is damaged is passed over, here as on going on.
                let is_whole = Checkpoint::load_from(self.storage(), &self.step_folder(step)).is_ok();
                if !is_whole {
                    return Ok(());
                }
                self.point(LATEST, step)?;
                self.forget_saving()
            }
            Some(_) => self.forget_saving(),
            None => Ok(()),
        }
    }

    /// The step whose save began last, if its folder has got its place. A note that cannot be read is none.
    pub(super) fn arrived(&self) -> Option<u64> {
        let text = self.text(SAVING).unwrap_or_else(|error| {
            tracing::warn!("going on without what was saved last being named: {error}");
            None
        });
        let named = text.as_deref().and_then(|text| text.trim().split_once(' '));
        let saving = named.and_then(|(name, hash)| Some((parse_step(name)?, hash)));
        let arrived = |(step, hash)| is_sealed(self.storage(), &self.step_folder(step), hash).then_some(step);
        saving.and_then(arrived)
    }

    /// Never the checkpoint that was just written, which is whole, and never the best one. Steps past
    /// `newest` are left alone: they belong to a run that was resumed from before them.
    fn remove_old(&self, newest: u64, best: Option<u64>, keep_last: usize) -> Result<()> {
        if keep_last == 0 {
            return Ok(());
        }
        let steps = self.steps()?.into_iter().filter(|&step| step <= newest);
        steps
            .skip(keep_last)
            .filter(|&step| step != newest && Some(step) != best)
            .try_for_each(|step| retire_folder(self.storage(), &self.step_folder(step)))
    }
}
