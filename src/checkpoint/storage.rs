//! The file system as a run folder uses it: few operations, each of which can fail or be the last one.
//!
//! Everything in a run folder is written through [`Storage`], so that tests can put a file system in its
//! place that fails at a chosen call, or that loses what was not synced.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// The operations on files and folders.
pub trait Storage: Debug + Send + Sync {
    /// Makes a folder and those it lies in; no error if it is there.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

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
}

/// A file that is open for writing.
pub trait StoredFile: Write + Debug + Send {
    /// Waits until the disk has everything written so far.
    fn sync(&mut self) -> io::Result<()>;
}

/// The operating system's own.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Storage for Disk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
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

impl StoredFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}
