//! Taking a run's folder: which one is free, and making it ready for a run that starts or goes on.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::RunFolder;
use crate::checkpoint::atomic::{create_folder, remove_folder, replace_file_on, sync_parent};
use crate::checkpoint::lock::RunLock;
use crate::checkpoint::names::{default_paths, replaced_step};
use crate::checkpoint::storage::{Disk, Storage};
use crate::config::TrainConfig;
use crate::error::{Error, Result};

impl RunFolder {
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
            *self.waiting_config() = Some(text);
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

    fn unwritable(&self, reason: &Error) -> Error {
        Error::Input(format!(
            "cannot write into the run's folder {}: {reason}: make it writable, or give --out another folder",
            self.path.display()
        ))
    }
}
