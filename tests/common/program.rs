//! Runs hlx itself, as a user would, in a temporary folder of its own.

#![allow(dead_code)] // each test binary uses a part

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A model that trains hundreds of steps in a second.
pub const TINY: &str = "--n-layer 1 --d-model 16 --n-head 2 --context 8 --batch-size 4 --device cpu";

/// A folder that hlx is run in, with a small text, `sums.txt`, in it.
pub struct Place {
    folder: TempDir,
}

/// What a command left behind.
pub struct Done {
    pub line: String,
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Place {
    pub fn new() -> Place {
        let place = Place { folder: TempDir::new().expect("a temporary folder can be made") };
        place.write("sums.txt", sums(12));
        place
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, and the folders that it lies in.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder can be made");
        fs::write(&path, content).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    pub fn read(&self, name: impl AsRef<Path>) -> Vec<u8> {
        let path = self.path(name);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn read_text(&self, name: impl AsRef<Path>) -> String {
        String::from_utf8(self.read(name)).expect("the file is UTF-8")
    }

    /// Copies a folder and all that is in it.
    pub fn copy_folder(&self, from: &str, to: &str) {
        for (name, content) in self.snapshot() {
            let Ok(rest) = name.strip_prefix(from) else { continue };
            let place = Path::new(to).join(rest);
            match content {
                None => fs::create_dir_all(self.path(place)).expect("a folder can be made"),
                Some(content) => fs::write(self.path(place), content).expect("a file can be written"),
            }
        }
    }

    /// hlx with the words of a line as its arguments, to be started in this folder.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hlx"));
        command.args(line.split_whitespace()).current_dir(self.folder.path());
        command.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs hlx to its end.
    pub fn hlx(&self, line: &str) -> Done {
        Done::of(line, &mut self.command(line))
    }

    /// Every folder (`None`) and file with its bytes, by its path from here.
    pub fn snapshot(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(self.path(&folder)).expect("the folder can be read") {
                let name = folder.join(entry.expect("the folder can be read").file_name());
                if self.path(&name).is_dir() {
                    folders.push(name.clone());
                    found.insert(name, None);
                } else {
                    let content = self.read(&name);
                    found.insert(name, Some(content));
                }
            }
        }
        found
    }
}

impl Done {
    /// Runs a command to its end. `line` is what messages call it.
    pub fn of(line: &str, command: &mut Command) -> Done {
        let output = command.output().unwrap_or_else(|error| panic!("hlx {line}: {error}"));
        let text = |bytes| String::from_utf8(bytes).unwrap_or_else(|_| panic!("hlx {line}: not UTF-8"));
        Done {
            line: line.to_owned(),
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// What it printed on stdout, after an end without an error.
    pub fn text(self) -> String {
        assert_eq!(self.code, Some(0), "hlx {}: {}", self.line, self.stderr);
        self.stdout
    }

    /// The one JSON value that it printed on stdout, and nothing else.
    pub fn json(self) -> Value {
        let line = self.line.clone();
        let text = self.text();
        assert_eq!(text.matches('\n').count(), 1, "hlx {line}: one line of JSON, not {text:?}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("hlx {line}: {error} in {text:?}"))
    }
}

/// A text to learn: every sum of two numbers below `end`, 1,800 characters for 12.
pub fn sums(end: u32) -> String {
    let pairs = (1..end).flat_map(|a| (1..end).map(move |b| (a, b)));
    pairs.map(|(a, b)| format!("{a} and {b} is {}.\n", a + b)).collect()
}

/// The keys of a JSON object, sorted.
pub fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().unwrap_or_else(|| panic!("an object, not {value}"));
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}
