//! One typed error. A user's error names the flag or file to mend; its variant decides the exit code.

use std::path::{Path, PathBuf};

/// The result of whatever can fail with hlx's own [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can end a command early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or configuration asks for something that cannot be: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Input data, a checkpoint or the environment is at fault: exit code 1.
    #[error("{0}")]
    Input(String),
    /// A file could not be read or written: exit code 1.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried: `cannot read`.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `verify` found a difference: exit code 3.
    #[error("{0}")]
    Mismatch(String),
    /// There is no device that can keep what the chosen precision promises: exit code 4.
    #[error("{0}")]
    NoDevice(String),
    /// The device failed while working (lost, out of memory, timed out): exit code 1.
    #[error("{0}")]
    Device(String),
    /// Whoever read stdout has gone, as in `hlx ... | head`: nobody is left to tell, exit code 0.
    #[error("stdout is closed")]
    ReaderGone,
    /// The user asked to stop, and what was to be saved has been saved: exit code 130.
    #[error("{0}")]
    Interrupted(String),
}

impl Error {
    /// For `map_err` on file operations: `.map_err(Error::io("cannot read", path))`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_owned();
        move |source| Error::Io { action, path, source }
    }

    /// The process's exit code for this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Input(_) | Error::Io { .. } | Error::Device(_) => 1,
            Error::ReaderGone => 0,
            Error::Usage(_) => 2,
            Error::Mismatch(_) => 3,
            Error::NoDevice(_) => 4,
            Error::Interrupted(_) => 130,
        }
    }
}

/// Text out of a file, fit for a message of one line: line breaks and other control characters are
/// written as escapes.
pub fn one_line(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}
