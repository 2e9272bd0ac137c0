//! Writes that are either whole or not there, also after a power failure.
//!
//! The order is the same everywhere: the content is synced under a temporary name, then renamed, then
//! the folder that holds the name is synced. A failed sync is an error: the file is given up, because a
//! second sync of the same file may succeed without having written anything.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::storage::{Disk, Storage};
use crate::error::{Error, Result};

/// How long to wait after each try that met an error of the kind that passes: 1.3 s in all.
const WAITS_MS: [u64; 7] = [10, 20, 40, 80, 160, 320, 640];

/// Does what another program may stand in the way of for a moment, again and again for a while.
pub fn patiently<T>(storage: &dyn Storage, action: impl Fn() -> io::Result<T>) -> io::Result<T> {
    for wait_ms in WAITS_MS {
        match action() {
            Err(error) if storage.passes(&error) => thread::sleep(Duration::from_millis(wait_ms)),
            other => return other,
        }
    }
    action()
}

/// Gives a file or folder another name.
pub fn rename(storage: &dyn Storage, from: &Path, to: &Path) -> io::Result<()> {
    patiently(storage, || storage.rename(from, to))
}

/// Writes a file and waits until the disk has it.
pub fn write_file(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = patiently(storage, || storage.create(path))?;
        file.write_all(bytes)?;
        file.sync()
    };
    write().map_err(Error::io("cannot write", path))
}

/// Replaces a file's content: a reader sees the old or the new one, never a part.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_file_on(&Disk, path, bytes)
}

/// [`replace_file`], on any storage.
pub fn replace_file_on(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<()> {
    let Some(name) = path.file_name() else {
        return Err(Error::Input(format!("cannot write {}: it is not the name of a file", path.display())));
    };
    let mut name = name.to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let replaced = write_file(storage, &temporary, bytes)
        .and_then(|()| rename(storage, &temporary, path).map_err(Error::io("cannot replace", path)));
    if replaced.is_err() {
        // The first error is the one to report, and nothing half-written stays.
        let _ = patiently(storage, || storage.remove_file(&temporary));
    }
    replaced?;
    sync_parent(storage, path)
}

/// Makes a folder that is still there after a power failure, with those that it lies in.
pub fn create_folder(storage: &dyn Storage, path: &Path) -> Result<()> {
    let mut new = Vec::new();
    for folder in path.ancestors().filter(|folder| !folder.as_os_str().is_empty()) {
        if storage.exists(folder).map_err(Error::io("cannot create", folder))? {
            break;
        }
        new.push(folder);
    }
    storage.create_folder(path).map_err(Error::io("cannot create", path))?;
    new.into_iter().rev().try_for_each(|folder| sync_parent(storage, folder))
}

/// Moves a finished folder to its place, where an older one of the same name gives way.
pub fn publish_folder(storage: &dyn Storage, finished: &Path, place: &Path) -> Result<()> {
    sync_folder(storage, finished)?;
    let replaced = replaced_folder(place);
    remove_folder(storage, &replaced)?;
    let is_there = storage.exists(place).map_err(Error::io("cannot replace", place))?;
    if is_there {
        // A folder cannot be renamed over one with files in it.
        rename(storage, place, &replaced).map_err(Error::io("cannot replace", place))?;
    }
    if let Err(error) = rename(storage, finished, place) {
        if is_there {
            let _ = rename(storage, &replaced, place);
        }
        return Err(Error::io("cannot move a finished checkpoint to", place)(error));
    }
    sync_parent(storage, place)?;
    remove_folder(storage, &replaced)
}

/// Where the older folder of a name waits while the newer one takes its place.
pub fn replaced_folder(place: &Path) -> PathBuf {
    hidden(place, "old")
}

/// The name under which a folder is written until it is whole.
pub fn unfinished_folder(place: &Path) -> PathBuf {
    hidden(place, "tmp")
}

/// `.NAME.SUFFIX` beside a folder.
fn hidden(folder: &Path, suffix: &str) -> PathBuf {
    let name = folder.file_name().expect("a step folder has a name").to_string_lossy();
    folder.with_file_name(format!(".{name}.{suffix}"))
}

/// Removes a folder that others may look for: it loses its name at once, and its files after that.
pub fn retire_folder(storage: &dyn Storage, path: &Path) -> Result<()> {
    let retired = hidden(path, "gone");
    remove_folder(storage, &retired)?;
    rename(storage, path, &retired).map_err(Error::io("cannot remove", path))?;
    remove_folder(storage, &retired)
}

/// Removes a folder and what is in it, if it is there.
pub fn remove_folder(storage: &dyn Storage, path: &Path) -> Result<()> {
    match patiently(storage, || storage.remove_folder(path)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("cannot remove", path)(error)),
        _ => Ok(()),
    }
}

/// Waits until the disk has a file's or folder's name.
pub fn sync_parent(storage: &dyn Storage, path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(storage, parent),
        _ => sync_folder(storage, Path::new(".")),
    }
}

fn sync_folder(storage: &dyn Storage, path: &Path) -> Result<()> {
    storage.sync_folder(path).map_err(Error::io("cannot sync", path))
}
