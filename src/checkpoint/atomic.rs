//! Writes that are either whole or not there, also after a power failure.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes a file and waits until the disk has it.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(Error::io("cannot write", path))
}

/// Replaces a file's content: a reader sees the old or the new one, never a part.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let Some(name) = path.file_name() else {
        return Err(Error::Input(format!("cannot write {}: it is not the name of a file", path.display())));
    };
    let mut name = name.to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let replaced = write_file(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path).map_err(Error::io("cannot replace", path)));
    if replaced.is_err() {
        // The first error is the one to report, and nothing half-written stays.
        let _ = fs::remove_file(&temporary);
    }
    replaced?;
    sync_parent(path)
}

/// Moves a finished folder to its place, where an older one of the same name gives way.
pub fn publish_folder(finished: &Path, place: &Path) -> Result<()> {
    sync_folder(finished)?;
    let old = place.with_extension("old");
    remove_folder(&old)?;
    if place.exists() {
        // A folder cannot be renamed over one with files in it.
        fs::rename(place, &old).map_err(Error::io("cannot replace", place))?;
    }
    fs::rename(finished, place).map_err(Error::io("cannot move a finished checkpoint to", place))?;
    sync_parent(place)?;
    remove_folder(&old)
}

/// Removes a folder and what is in it, if it is there.
pub fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("cannot remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn sync_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => sync_folder(Path::new(".")),
    }
}

/// Waits until the disk has a folder's list of names. Only Unix can be asked for that.
fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(path).and_then(|folder| folder.sync_all()).map_err(Error::io("cannot sync", path))?;
    }
    Ok(())
}
