//! The folder of a run: its configuration, its metrics, and its checkpoints.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::atomic::{remove_folder, replace_file};
use super::manifest::damaged;
use super::model_folder::CONFIG;
use super::step_folder::Checkpoint;
use crate::config::{Preset, ResumeFrom, TrainConfig, TrainOptions};
use crate::error::{Error, Result};

/// Names the newest checkpoint.
const LATEST: &str = "latest";
/// Names the checkpoint with the lowest validation loss.
const BEST: &str = "best";

/// A run's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// The folder at a path, which may not exist yet.
    pub fn at(path: impl Into<PathBuf>) -> RunFolder {
        RunFolder { path: path.into() }
    }

    /// The folder for a new run: `--out`, which must not hold a run already, or else the first free
    /// of `checkpoints/CORPUS-MODEL`, `...-2`, `...-3`.
    pub fn for_new_run(config: &TrainConfig) -> Result<RunFolder> {
        let Some(out) = &config.out else {
            let mut names = default_folders(config.corpus.as_deref(), config.model);
            return Ok(names.find(|run| !run.path.exists()).expect("numbers do not end"));
        };
        let run = RunFolder::at(out);
        if out.exists() && !out.is_dir() {
            return Err(Error::Usage(format!("--out {} is a file: give another folder", out.display())));
        }
        if !run.steps()?.is_empty() || run.config_file().exists() {
            return Err(Error::Usage(format!(
                "--out {} already holds a run: give another folder, or --resume to go on with it",
                out.display()
            )));
        }
        Ok(run)
    }

    /// The folder whose run `--resume` goes on with: the one at its path (or around it, if that is a
    /// step folder), or `--out`, or else the last of the default names that is taken.
    ///
    /// # Errors
    /// [`Error::Usage`] if `--out` and the path are different folders: a run goes on where it is.
    pub fn to_resume(choice: &ResumeFrom, options: &TrainOptions) -> Result<RunFolder> {
        let names = || default_folders(options.corpus.as_deref(), options.model.unwrap_or_default());
        let run = match (choice, &options.out) {
            (ResumeFrom::Path(path), _) if is_step_folder(path) => {
                RunFolder::at(path.parent().unwrap_or(Path::new("")))
            }
            (ResumeFrom::Path(path), _) => RunFolder::at(path),
            (ResumeFrom::Auto, Some(out)) => RunFolder::at(out),
            (ResumeFrom::Auto, None) => {
                let newest = names().take_while(|run| run.path.exists()).last();
                newest.unwrap_or_else(|| names().next().expect("numbers do not end"))
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

    /// Makes the folder and writes its config.toml: fails before the first step if it cannot be
    /// written, and clears what a crash left half-done.
    pub fn prepare(&self, config: &TrainConfig) -> Result<()> {
        let text = config.to_toml()?;
        fs::create_dir_all(&self.path).map_err(|error| self.unwritable(&error.to_string()))?;
        for name in self.names()? {
            let unfinished = name.starts_with(".step-") && name.ends_with(".tmp");
            let replaced = name.starts_with("step-") && name.ends_with(".old");
            if unfinished || replaced {
                remove_folder(&self.path.join(name))?;
            }
        }
        replace_file(&self.config_file(), text.as_bytes())
            .map_err(|error| self.unwritable(&error.to_string()))
    }

    fn unwritable(&self, reason: &str) -> Error {
        Error::Input(format!(
            "cannot write into the run's folder {}: {reason}: make it writable, or give --out another folder",
            self.path.display()
        ))
    }

    /// Saves a checkpoint and points `latest` at it, and `best` if no earlier validation loss was
    /// lower; then removes all but the newest `keep_last` (0: none removed). Returns its folder.
    pub fn save(&self, checkpoint: &Checkpoint, keep_last: usize) -> Result<PathBuf> {
        let step = checkpoint.state.step;
        let folder = self.step_folder(step);
        checkpoint.save(&folder)?;
        self.point(LATEST, step)?;
        if checkpoint.state.best_step == Some(step) {
            self.point(BEST, step)?;
        }
        self.remove_old(step, keep_last)?;
        Ok(folder)
    }

    fn point(&self, pointer: &str, step: u64) -> Result<()> {
        replace_file(&self.path.join(pointer), format!("{}\n", step_name(step)).as_bytes())
    }

    /// The folder that `latest` or `best` names, if it is there.
    fn pointed(&self, pointer: &str) -> Option<PathBuf> {
        let name = fs::read_to_string(self.path.join(pointer)).ok()?;
        let step = parse_step(name.trim())?;
        Some(self.step_folder(step)).filter(|folder| folder.is_dir())
    }

    /// The newest checkpoint, as `latest` names it.
    pub fn latest(&self) -> Option<PathBuf> {
        self.pointed(LATEST)
    }

    /// The checkpoint with the lowest validation loss among those saved.
    pub fn best(&self) -> Option<PathBuf> {
        self.pointed(BEST)
    }

    /// The steps that have a folder, newest first. Empty if the run's folder does not exist.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let mut steps: Vec<u64> = self.names()?.iter().filter_map(|name| parse_step(name)).collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        Ok(steps)
    }

    fn names(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            // Neither a missing folder nor a file holds a run.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(vec![]);
            }
            Err(error) => return Err(Error::io("cannot read the run's folder", &self.path)(error)),
        };
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<_>>()
            .map_err(Error::io("cannot read the run's folder", &self.path))
    }

    /// Steps past `newest` are left alone: they belong to a run that was resumed from before them.
    fn remove_old(&self, newest: u64, keep_last: usize) -> Result<()> {
        if keep_last == 0 {
            return Ok(());
        }
        let best = self.best();
        for step in self.steps()?.into_iter().filter(|&step| step <= newest).skip(keep_last) {
            let folder = self.step_folder(step);
            if Some(&folder) != best.as_ref() {
                remove_folder(&folder)?;
            }
        }
        Ok(())
    }

    /// Loads the checkpoint to go on from. A path to a step folder takes exactly that one; else the
    /// newest whole one is taken, and each damaged one passed over with a warning. `None` if there is
    /// none at all; an error if there are only damaged ones, rather than quietly starting again.
    pub fn load_to_resume(&self, choice: &ResumeFrom) -> Result<Option<(PathBuf, Checkpoint)>> {
        if let ResumeFrom::Path(path) = choice {
            if is_step_folder(path) {
                return Ok(Some((path.clone(), Checkpoint::load(path)?)));
            }
            if !path.is_dir() {
                return Err(Error::Input(format!("--resume {}: there is no such folder", path.display())));
            }
        }
        let mut steps = self.steps()?;
        // A run that was resumed from an early checkpoint may have left later ones behind: they come last.
        let latest = self.latest();
        let left_behind = |step: u64| latest.as_ref().is_some_and(|latest| self.step_folder(step) > *latest);
        steps.sort_by_key(|&step| left_behind(step));
        for &step in &steps {
            let folder = self.step_folder(step);
            match Checkpoint::load(&folder) {
                Ok(checkpoint) => return Ok(Some((folder, checkpoint))),
                Err(error) => tracing::warn!("passing over {}: {error}", folder.display()),
            }
        }
        match (steps.is_empty(), choice) {
            (true, ResumeFrom::Auto) => Ok(None),
            (true, ResumeFrom::Path(path)) => {
                Err(Error::Input(format!("--resume {}: there is no checkpoint in it", path.display())))
            }
            (false, _) => Err(damaged(&self.path, "none of its checkpoints is whole")),
        }
    }
}

/// The model folder that `--checkpoint` or `--init-from` means: the folder itself, or the latest
/// checkpoint of a run folder.
pub fn find_model_folder(flag: &str, path: &Path) -> Result<PathBuf> {
    if path.join(CONFIG).is_file() {
        return Ok(path.to_owned());
    }
    let run = RunFolder::at(path);
    let newest = run.steps()?.first().map(|&step| run.step_folder(step));
    run.latest().or(newest).ok_or_else(|| {
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

/// `checkpoints/CORPUS-MODEL`, then the same with 2, 3, ... behind it.
fn default_folders(corpus: Option<&Path>, model: Preset) -> impl Iterator<Item = RunFolder> {
    let corpus = corpus.and_then(Path::file_stem);
    let corpus = corpus.map_or("hlx".into(), |stem| stem.to_string_lossy().into_owned());
    let name = format!("{corpus}-{model}");
    (1u64..).map(move |number| {
        let name = if number == 1 { name.clone() } else { format!("{name}-{number}") };
        RunFolder::at(Path::new("checkpoints").join(name))
    })
}

fn step_name(step: u64) -> String {
    format!("step-{step:08}")
}

fn parse_step(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("step-")?;
    let step = digits.parse().ok()?;
    (step_name(step) == name).then_some(step)
}

fn is_step_folder(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).and_then(parse_step).is_some()
}
