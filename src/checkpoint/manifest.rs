//! manifest.json: length and BLAKE3 hash of every file of a checkpoint and of every tensor, written last.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::atomic::write_file;
use super::storage::Storage;
use super::tensors::tensor_hashes;
use crate::error::{Error, Result, one_line};

/// The manifest's name in a step folder.
pub const MANIFEST: &str = "manifest.json";

/// What stands before the manifest's hash of itself, which covers everything before this.
const SEAL: &str = ",\n  \"blake3\": \"";
/// What stands after it.
const END: &str = "\"\n}\n";

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
    /// In a safetensors file: the hash of each tensor's bytes, by name. With them, damage has a name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tensors: BTreeMap<String, String>,
}

impl Entry {
    fn of(name: &str, bytes: &[u8]) -> Entry {
        let tensors = if name.ends_with(".safetensors") { tensor_hashes(bytes) } else { None };
        Entry {
            bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
            tensors: tensors.unwrap_or_default(),
        }
    }

    /// Why a file's content is not what was written; `None` if it is.
    fn damage(&self, bytes: &[u8]) -> Option<String> {
        if bytes.len() as u64 != self.bytes {
            return Some(format!("it has {} bytes, and {} were written", bytes.len(), self.bytes));
        }
        if blake3::hash(bytes).to_hex().as_str() == self.blake3 {
            return None;
        }
        let part = if self.tensors.is_empty() { "content".to_owned() } else { self.damaged_part(bytes) };
        Some(format!("its {part} is not what was written: the BLAKE3 hash differs"))
    }

    /// Which tensors differ, or else the header before them.
    fn damaged_part(&self, bytes: &[u8]) -> String {
        let Some(found) = tensor_hashes(bytes) else { return "header".to_owned() };
        let mut damaged = self.tensors.iter().filter(|(name, hash)| found.get(*name) != Some(hash));
        match (damaged.next(), damaged.count()) {
            (None, _) => "header".to_owned(),
            (Some((name, _)), 0) => format!("tensor {name}"),
            (Some((name, _)), more) => format!("tensor {name} (and {more} more)"),
        }
    }
}

impl Manifest {
    /// Writes a file of the folder and remembers what it holds.
    pub fn write_file(
        &mut self,
        storage: &dyn Storage,
        folder: &Path,
        name: &str,
        bytes: &[u8],
    ) -> Result<()> {
        write_file(storage, &folder.join(name), bytes)?;
        self.files.insert(name.to_owned(), Entry::of(name, bytes));
        Ok(())
    }

    /// Writes the manifest itself: from here on the folder is a whole checkpoint. Returns the manifest's hash
    /// of itself, which no other checkpoint has.
    pub fn finish(self, storage: &dyn Storage, folder: &Path) -> Result<String> {
        let text = self.to_text();
        write_file(storage, &folder.join(MANIFEST), text.as_bytes())?;
        Ok(seal_of(&text).expect("it was just sealed").to_owned())
    }

    /// JSON whose last key is the hash of the text before it.
    fn to_text(&self) -> String {
        let json = serde_json::to_string_pretty(self).expect("names and numbers are JSON");
        let body = json.strip_suffix("\n}").expect("an object with a key in it");
        format!("{body}{SEAL}{}{END}", blake3::hash(body.as_bytes()).to_hex())
    }

    fn parse(bytes: &[u8]) -> std::result::Result<Manifest, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let (body, seal) = text.rsplit_once(SEAL).ok_or("it lacks the hash of itself at its end")?;
        if seal.strip_suffix(END) != Some(blake3::hash(body.as_bytes()).to_hex().as_str()) {
            return Err("its content is not what was written: the BLAKE3 hash differs".into());
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }
}

/// The hash of itself that a manifest's text ends with.
fn seal_of(text: &str) -> Option<&str> {
    text.rsplit_once(SEAL)?.1.strip_suffix(END)
}

/// True if the manifest in a folder has this hash of itself. Whether it is right is not looked at.
pub fn is_sealed(storage: &dyn Storage, folder: &Path, hash: &str) -> bool {
    let text = storage.read(&folder.join(MANIFEST)).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.as_deref().and_then(seal_of) == Some(hash)
}

/// A model folder that is open for reading, with its manifest where it has one: folders that other
/// programs wrote have none.
pub struct Folder<'a> {
    storage: &'a dyn Storage,
    pub path: &'a Path,
    manifest: Option<Manifest>,
}

impl<'a> Folder<'a> {
    /// Reads the manifest and checks it against its own hash.
    pub fn open(storage: &'a dyn Storage, path: &'a Path) -> Result<Folder<'a>> {
        let file = path.join(MANIFEST);
        let manifest = match storage.read(&file) {
            Ok(bytes) => Some(Manifest::parse(&bytes).map_err(|reason| damaged(&file, &reason))?),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io("cannot read", file)(error)),
        };
        Ok(Folder { storage, path, manifest })
    }

    pub fn has_manifest(&self) -> bool {
        self.manifest.is_some()
    }

    /// The content of one of the folder's files. With a manifest it must be what was written: else the
    /// error names the file, and the tensor if there is one to name.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path.join(name);
        let read = || self.storage.read(&path).map_err(Error::io("cannot read", &path));
        let Some(manifest) = &self.manifest else { return read() };
        let Some(entry) = manifest.files.get(name) else {
            return Err(damaged(&self.path.join(MANIFEST), &format!("it does not list {name}")));
        };
        let bytes = read()?;
        match entry.damage(&bytes) {
            None => Ok(bytes),
            Some(reason) => Err(damaged(&path, &reason)),
        }
    }

    /// [`Folder::read`], or `None` if there is no such file.
    pub fn read_optional(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path.join(name);
        match self.storage.exists(&path).map_err(Error::io("cannot read", path))? {
            true => self.read(name).map(Some),
            false => Ok(None),
        }
    }
}

/// The error for a checkpoint's file that is not as it was written.
pub fn damaged(path: &Path, reason: &str) -> Error {
    Error::Input(format!("{} is damaged ({}): use another checkpoint", path.display(), one_line(reason)))
}
