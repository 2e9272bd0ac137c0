//! The file system as a run folder uses it: few operations, each of which can fail or be the last one.
//!
//! Everything in a run folder is written through [`Storage`], so that tests can put a file system in its
//! place that fails at a chosen call, or that loses what was not synced.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

/// The operations on files and folders.
pub trait Storage: Debug + Send + Sync {
    /// Makes a folder and those it lies in; no error if it is there.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Makes a folder; an error if it is there.
    fn create_new_folder(&self, path: &Path) -> io::Result<()>;

    /// Takes the operating system's lock on a file, which is made if it is not there, and writes into it who
    /// holds the lock.
    fn lock(&self, path: &Path, holder: &str) -> io::Result<Lock>;

    /// Opens a new file for writing; an older one of that name loses its content.
    fn create(&self, path: &Path) -> io::Result<Box<dyn StoredFile>>;

    /// Opens a file for writing at its end.
    fn append(&self, path: &Path) -> io::Result<Box<dyn StoredFile>>;

    /// Waits until the disk has a folder's list of names.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// Gives a file or folder another name; a file of that name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder and what is in it.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;

    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// A file's whole content.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The names in a folder, in no particular order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// True if an error is of the kind that is gone in a moment: on Windows nobody can rename or remove what
    /// a virus scanner or an indexer has just opened.
    fn passes(&self, error: &io::Error) -> bool {
        cfg!(windows)
            && matches!(error.raw_os_error(), Some(ACCESS_DENIED | SHARING_VIOLATION | LOCK_VIOLATION))
    }
}

/// Windows's codes for a file that another program has open.
const ACCESS_DENIED: i32 = 5;
const SHARING_VIOLATION: i32 = 32;
const LOCK_VIOLATION: i32 = 33;

/// A file that is open for writing.
pub trait StoredFile: Write + Debug + Send {
    /// Waits until the disk has everything written so far.
    fn sync(&mut self) -> io::Result<()>;
}

/// What came of trying to lock a file. The lock is held until the file is closed.
#[derive(Debug)]
pub enum Lock {
    Taken(File),
    /// Another process has it; the text is what that one wrote, empty where it cannot be read.
    Held(String),
    /// The file system knows no locks.
    Unsupported(File),
}

/// The operating system's own.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Storage for Disk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create_new_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Lock> {
        // Not emptied on opening: until the lock is taken, what is in the file is another's.
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        let taken = match file.try_lock() {
            Ok(()) => Lock::Taken,
            Err(TryLockError::WouldBlock) => return Ok(Lock::Held(holder_in(&mut file))),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Lock::Unsupported,
            Err(TryLockError::Error(error)) => return Err(error),
        };
        file.set_len(0)?;
        file.write_all(holder.as_bytes())?;
        Ok(taken(file))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        Ok(Box::new(File::create(path)?))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        Ok(Box::new(OpenOptions::new().append(true).open(path)?))
    }

    /// Only Unix can be asked for that: elsewhere the names are on the disk when the file system says so.
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match path.try_exists() {
            // What lies inside a file cannot be there.
            Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(false),
            found => found,
        }
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }
}

/// What the holder of a lock wrote into its file. On Windows nobody else can read a locked file, and it stays
/// unknown.
pub fn holder_in(file: &mut File) -> String {
    let mut holder = String::new();
    let _ = file.read_to_string(&mut holder);
    holder
}

impl StoredFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}
