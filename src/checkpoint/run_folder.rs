//! The folder of a run: its configuration, its metrics, and its checkpoints.

mod claim;
mod resume;
mod save;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::lock::RunLock;
use super::manifest::MANIFEST;
use super::model_folder::CONFIG;
use super::names::{parse_step, step_name};
use super::step_folder::STATE;
use super::storage::{Disk, Storage};
use crate::error::{Error, Result};

/// Names the newest checkpoint.
const LATEST: &str = "latest";
/// Names the checkpoint with the lowest validation loss.
const BEST: &str = "best";

/// A run's folder.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    storage: Arc<dyn Storage>,
    /// The text of config.toml, to be written when the first save of a run that goes on has got its place:
    /// until then the folder is as the earlier run left it.
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

    /// True if there are checkpoints in it, or the configuration of a run that has not saved any.
    ///
    /// # Errors
    /// One that names the folder if it cannot be read.
    pub fn holds_run(&self) -> Result<bool> {
        Ok(!self.steps()?.is_empty() || self.exists(&self.config_file())?)
    }

    /// The step that `latest` or `best` names; `None` if there is no such file or no step in it.
    fn pointed(&self, pointer: &str) -> Result<Option<u64>> {
        Ok(self.text(pointer)?.and_then(|name| parse_step(name.trim())))
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
