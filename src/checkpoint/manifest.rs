//! manifest.json: the length and BLAKE3 hash of every file of a checkpoint, written last.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::atomic::write_file;
use crate::error::{Error, Result};

/// The manifest's name in a step folder.
pub const MANIFEST: &str = "manifest.json";

/// What a folder's files must be.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// By file name.
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    blake3: String,
}

impl Entry {
    fn of(bytes: &[u8]) -> Entry {
        Entry { bytes: bytes.len() as u64, blake3: blake3::hash(bytes).to_hex().to_string() }
    }
}

impl Manifest {
    /// Writes a file of the folder and remembers what it holds.
    pub fn write_file(&mut self, folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
        write_file(&folder.join(name), bytes)?;
        self.files.insert(name.to_owned(), Entry::of(bytes));
        Ok(())
    }

    /// Writes the manifest itself: from here on the folder is a whole checkpoint.
    pub fn finish(self, folder: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(&self).expect("names and numbers are JSON");
        text.push('\n');
        write_file(&folder.join(MANIFEST), text.as_bytes())
    }

    /// The folder's manifest; `None` if it has none.
    pub fn read(folder: &Path) -> Result<Option<Manifest>> {
        let path = folder.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("cannot read", path)(error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| damaged(&path, &error.to_string()))
    }

    /// The content of one of the folder's files, if it is what was written.
    pub fn read_file(&self, folder: &Path, name: &str) -> Result<Vec<u8>> {
        let path = folder.join(name);
        let Some(entry) = self.files.get(name) else {
            return Err(damaged(&folder.join(MANIFEST), &format!("it does not list {name}")));
        };
        let bytes = read_file(&path)?;
        let found = Entry::of(&bytes);
        if found.bytes != entry.bytes {
            return Err(damaged(
                &path,
                &format!("it has {} bytes, and {} were written", found.bytes, entry.bytes),
            ));
        }
        if found != *entry {
            return Err(damaged(&path, "its content is not what was written: the BLAKE3 hash differs"));
        }
        Ok(bytes)
    }
}

/// The content of a folder's file, checked against the manifest where there is one: folders that
/// other programs wrote have none.
pub fn read_checked(folder: &Path, name: &str) -> Result<Vec<u8>> {
    match Manifest::read(folder)? {
        Some(manifest) => manifest.read_file(folder, name),
        None => read_file(&folder.join(name)),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Error::io("cannot read", path))
}

/// The error for a checkpoint's file that is not as it was written.
pub fn damaged(path: &Path, reason: &str) -> Error {
    Error::Input(format!("{} is damaged ({reason}): use another checkpoint", path.display()))
}
