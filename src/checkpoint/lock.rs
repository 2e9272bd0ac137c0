//! The lock on a run's folder: one run at a time writes there.
//!
//! The operating system holds the lock and frees it when the process ends, however it ends; the process
//! id in the file is for people.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use super::storage::{Lock, Storage, holder_in};
use crate::error::{Error, Result};

/// The lock's name in a run's folder. The file stays when the run ends: were it removed, two later runs
/// could each lock another file of the same name.
pub const LOCK: &str = "lock";

/// The lock, held until this is dropped.
#[derive(Debug)]
#[must_use = "the run's folder is locked for as long as this is kept"]
pub struct RunLock {
    file: File,
}

impl RunLock {
    /// Takes the lock of the run in `folder`, which must be there.
    ///
    /// # Errors
    /// [`Error::Input`] with the other process's id if another run holds it; [`Error::Io`] if there can
    /// be no such file.
    pub fn take(storage: &dyn Storage, folder: &Path) -> Result<RunLock> {
        let path = folder.join(LOCK);
        let holder = format!("{}\n", std::process::id());
        match storage.lock(&path, &holder).map_err(Error::io("cannot lock", &path))? {
            Lock::Taken(file) => Ok(RunLock { file }),
            Lock::Held(holder) => Err(refused(folder, &holder)),
            Lock::Unsupported(file) => {
                tracing::warn!(
                    "this file system has no locks: see that no other run writes into {}",
                    folder.display()
                );
                Ok(RunLock { file })
            }
        }
    }

    /// Fails as [`RunLock::take`] does if another run holds the lock; takes and makes nothing.
    pub fn check(folder: &Path) -> Result<()> {
        let Ok(mut file) = File::open(folder.join(LOCK)) else { return Ok(()) };
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Err(refused(folder, &holder_in(&mut file))),
            _ => Ok(()),
        }
    }
}

impl Drop for RunLock {
    /// A run that ends in order takes its id back, so that the file is the same before and after.
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
    }
}

fn refused(folder: &Path, id: &str) -> Error {
    let who = match id.trim() {
        "" => "another process".to_owned(),
        id => format!("process {id}"),
    };
    Error::Input(format!(
        "{} is in use: {who} is training there: wait for it to end, stop it, or give another --out",
        folder_name(folder).display()
    ))
}

fn folder_name(folder: &Path) -> PathBuf {
    if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() }
}
