//! The folder of a run: its configuration, its metrics, and its checkpoints.

use std::cmp::Reverse;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::atomic::{
    create_folder, remove_folder, replace_file_on, replaced_folder, retire_folder, sync_parent,
};
use super::lock::RunLock;
use super::manifest::{MANIFEST, damaged, is_sealed};
use super::model_folder::CONFIG;
use super::names::{default_paths, is_step_folder, newest_default, parse_step, replaced_step, step_name};
use super::step_folder::{Checkpoint, STATE};
use super::storage::{Disk, Storage};
use crate::config::{ResumeFrom, TrainConfig, TrainOptions};
use crate::error::{Error, Result};

/// Names the newest checkpoint.
const LATEST: &str = "latest";
/// Names the checkpoint whose save began last, with the hash of its manifest: if the save ended before
/// `latest` named it, this tells its folder from one that another save left.
const SAVING: &str = "saving";
/// Names the checkpoint with the lowest validation loss.
const BEST: &str = "best";

/// A run's folder.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    storage: Arc<dyn Storage>,
    /// The text of config.toml, to be written with the first save of a run that goes on: until then the
    /// folder is as the earlier run left it.
    config: Arc<Mutex<Option<String>>>,
}

impl RunFolder {
    /// The folder at a path, which may not exist yet.
    pub fn at(path: impl Into<PathBuf>) -> RunFolder {
        RunFolder::on(Arc::new(Disk), path)
    }

    /// The folder at a path of any storage.
    pub fn on(storage: Arc<dyn Storage>, path: impl Into<PathBuf>) -> RunFolder {
        RunFolder { path: path.into(), storage, config: Arc::default() }
    }

    /// The folder for a new run: `--out`, which must not hold a run already, or else the first free
    /// of `checkpoints/CORPUS-MODEL`, `...-2`, `...-3`.
    pub fn for_new_run(config: &TrainConfig) -> Result<RunFolder> {
        RunFolder::for_new_run_on(&(Arc::new(Disk) as _), config)
    }

    fn for_new_run_on(storage: &Arc<dyn Storage>, config: &TrainConfig) -> Result<RunFolder> {
        let Some(out) = &config.out else {
            for path in default_paths(config.corpus.as_deref(), config.model) {
                let run = RunFolder::on(storage.clone(), path);
                if !run.exists(&run.path)? {
                    return Ok(run);
                }
            }
            unreachable!("numbers do not end");
        };
        let run = RunFolder::on(storage.clone(), out);
        if out.exists() && !out.is_dir() {
            return Err(Error::Usage(format!("--out {} is a file: give another folder", out.display())));
        }
        if run.holds_run()? {
            RunLock::check(out)?;
            return Err(run.already_holds_run());
        }
        Ok(run)
    }

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

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where everything in the folder is written.
    pub fn storage(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    /// Keeps other runs out. The folder must be there.
    pub fn lock(&self) -> Result<RunLock> {
        RunLock::take(self.storage(), &self.path)
    }

    /// Where the run's resolved configuration is.
    pub fn config_file(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// Where the run's metrics are.
    pub fn metrics_file(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The folder of the checkpoint after `step` steps.
    pub fn step_folder(&self, step: u64) -> PathBuf {
        self.path.join(step_name(step))
    }

    /// Claims the folder of a new run, as [`RunFolder::for_new_run`] chooses it, and prepares it. Two runs
    /// that start together get two folders, or one of them an error.
    pub fn claim(config: &TrainConfig) -> Result<(RunFolder, RunLock)> {
        RunFolder::claim_on(Arc::new(Disk), config)
    }

    /// [`RunFolder::claim`], on any storage.
    pub fn claim_on(storage: Arc<dyn Storage>, config: &TrainConfig) -> Result<(RunFolder, RunLock)> {
        // What cannot be written down is said before there is a folder.
        config.to_toml()?;
        loop {
            let run = RunFolder::for_new_run_on(&storage, config)?;
            if config.out.is_none() {
                let parent = run.path.parent().unwrap_or(Path::new("."));
                create_folder(run.storage(), parent).map_err(|error| run.unwritable(&error))?;
                match storage.create_new_folder(&run.path) {
                    // Another run was faster: the next number is free.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                    Err(error) => return Err(run.unwritable(&Error::io("cannot create", &run.path)(error))),
                    Ok(()) => sync_parent(run.storage(), &run.path)?,
                }
            }
            create_folder(run.storage(), &run.path).map_err(|error| run.unwritable(&error))?;
            let lock = run.lock()?;
            if run.holds_run()? {
                return Err(run.already_holds_run());
            }
            let lock = run.prepare(config, Some(lock))?;
            return Ok((run, lock));
        }
    }

    /// True if there are checkpoints in it, or the configuration of a run that has not saved any.
    ///
    /// # Errors
    /// One that names the folder if it cannot be read.
    pub fn holds_run(&self) -> Result<bool> {
        Ok(!self.steps()?.is_empty() || self.exists(&self.config_file())?)
    }

    fn already_holds_run(&self) -> Error {
        Error::Usage(format!(
            "--out {} already holds a run: give another folder, or --resume to go on with it",
            self.path.display()
        ))
    }

    fn has_got_run(&self) -> Error {
        let path = self.path.display();
        Error::Usage(format!("another run has come into {path} meanwhile: --resume {path} goes on with it"))
    }

    /// Makes the folder, locks it unless the lock is `held` already, clears what a crash left
    /// half-done, and writes config.toml, for a run that goes on with its first save: fails before the first
    /// step if the folder cannot be written.
    ///
    /// # Errors
    /// [`Error::Usage`] if the lock is not `held` and there is a run: it came after the caller looked.
    pub fn prepare(&self, config: &TrainConfig, held: Option<RunLock>) -> Result<RunLock> {
        let text = config.to_toml()?;
        let storage = self.storage();
        create_folder(storage, &self.path).map_err(|error| self.unwritable(&error))?;
        let lock = match held {
            Some(lock) => lock,
            None => {
                let lock = self.lock()?;
                if self.holds_run()? {
                    return Err(self.has_got_run());
                }
                lock
            }
        };
        self.clear_leftovers()?;
        self.finish_save()?;
        let file = self.config_file();
        let bytes = if self.steps()?.is_empty() {
            text.into_bytes()
        } else {
            *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
            match storage.read(&file) {
                // What is there, once more: whether the folder can be written is told now.
                Ok(bytes) => bytes,
                Err(_) => return Ok(lock),
            }
        };
        replace_file_on(storage, &file, &bytes).map_err(|error| self.unwritable(&error))?;
        Ok(lock)
    }

    /// Removes the hidden folders of saves and removals that a crash cut short. A checkpoint that had
    /// made way for a newer one of its name comes back if the newer one did not get there.
    fn clear_leftovers(&self) -> Result<()> {
        for name in self.names()?.iter().filter(|name| name.starts_with(".step-")) {
            let leftover = self.path.join(name);
            match replaced_step(name).map(|step| self.step_folder(step)) {
                Some(place) if !self.exists(&place)? => {
                    self.storage.rename(&leftover, &place).map_err(Error::io("cannot put back", &place))?;
                }
                _ => remove_folder(self.storage(), &leftover)?,
            }
        }
        Ok(())
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

    fn unwritable(&self, reason: &Error) -> Error {
        Error::Input(format!(
            "cannot write into the run's folder {}: {reason}: make it writable, or give --out another folder",
            self.path.display()
        ))
    }

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

    /// The step that `latest` or `best` names; `None` if there is no such file or no step in it.
    fn pointed(&self, pointer: &str) -> Result<Option<u64>> {
        Ok(self.text(pointer)?.and_then(|name| parse_step(name.trim())))
    }

    /// The step whose save began last, if its folder has got its place. A note that cannot be read is none.
    fn arrived(&self) -> Option<u64> {
        let text = self.text(SAVING).unwrap_or_else(|error| {
            tracing::warn!("going on without what was saved last being named: {error}");
            None
        });
        let named = text.as_deref().and_then(|text| text.trim().split_once(' '));
        let saving = named.and_then(|(name, hash)| Some((parse_step(name)?, hash)));
        let arrived = |(step, hash)| is_sealed(self.storage(), &self.step_folder(step), hash).then_some(step);
        saving.and_then(arrived)
    }

    /// A small file of the folder; `None` if it is not there or no text.
    fn text(&self, name: &str) -> Result<Option<String>> {
        let path = self.path.join(name);
        match self.storage.read(&path) {
            Ok(bytes) => Ok(String::from_utf8(bytes).ok()),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Error::io("cannot read", path)(error)),
        }
    }

    /// The folder that `latest` or `best` names, if it is there.
    fn pointed_folder(&self, pointer: &str) -> Option<PathBuf> {
        let folder = self.step_folder(self.pointed(pointer).ok()??);
        self.exists(&folder).is_ok_and(|there| there).then_some(folder)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.storage.exists(path).map_err(Error::io("cannot read", path))
    }

    /// The newest checkpoint, as `latest` names it.
    pub fn latest(&self) -> Option<PathBuf> {
        self.pointed_folder(LATEST)
    }

    /// The checkpoint with the lowest validation loss among those saved.
    pub fn best(&self) -> Option<PathBuf> {
        self.pointed_folder(BEST)
    }

    /// The steps that have a folder, newest first. Empty if the run's folder does not exist.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let mut steps: Vec<u64> = self.names()?.iter().filter_map(|name| parse_step(name)).collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        Ok(steps)
    }

    fn names(&self) -> Result<Vec<String>> {
        match self.storage.list(&self.path) {
            Err(error) if is_absent(&error) => Ok(vec![]),
            names => names.map_err(Error::io("cannot read the run's folder", &self.path)),
        }
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

    /// Loads the checkpoint to go on from. A path to a step folder takes exactly that one; else the
    /// newest whole one is taken, and each damaged one passed over with a warning. `None` if there is
    /// none at all; an error if there are only damaged ones, rather than quietly starting again.
    pub fn load_to_resume(&self, choice: &ResumeFrom) -> Result<Option<(PathBuf, Checkpoint)>> {
        if let ResumeFrom::Path(path) = choice {
            if is_step_folder(path) {
                return Ok(Some((path.clone(), Checkpoint::load_from(self.storage(), path)?)));
            }
            if !path.is_dir() {
                return Err(Error::Input(format!("--resume {}: there is no such folder", path.display())));
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
        let arrived = self.arrived();
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

/// The model folder that `--checkpoint` or `--init-from` means: the folder itself, or the latest
/// checkpoint of a run folder.
pub fn find_model_folder(flag: &str, path: &Path) -> Result<PathBuf> {
    if path.join(CONFIG).is_file() {
        warn_if_unsealed(path);
        return Ok(path.to_owned());
    }
    let run = RunFolder::at(path);
    let newest = run.steps()?.first().map(|&step| run.step_folder(step));
    let found = run.latest().or(newest).inspect(|folder| warn_if_unsealed(folder));
    found.ok_or_else(|| {
        let reason = if path.is_dir() {
            "has neither a config.json nor a checkpoint in it"
        } else {
            "is not a folder"
        };
        Error::Input(format!(
            "{flag} {} {reason}: give a run's folder, one of its step folders, or a GPT-2 model folder",
            path.display()
        ))
    })
}

/// A folder from elsewhere has no manifest; one of hlx's own must have lost it.
fn warn_if_unsealed(folder: &Path) {
    if folder.join(STATE).exists() && !folder.join(MANIFEST).exists() {
        tracing::warn!(
            "{} has lost its {MANIFEST}: whether its files are whole cannot be told",
            folder.display()
        );
    }
}

/// Neither a missing folder nor a file holds a run.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}
