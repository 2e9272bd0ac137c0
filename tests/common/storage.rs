//! File systems that fail: one that refuses a chosen call, and one that writes down what was done.

#![allow(dead_code)] // each test binary uses a part

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hlx::checkpoint::{Disk, Lock, Storage, StoredFile};

/// What happens at the chosen call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The process ends before the call: it and every later one does nothing.
    Abort,
    /// The process ends in the middle of the call: a write leaves its first half, and every later call
    /// does nothing.
    AbortHalfway,
    /// The process ends before the call, by the operating system.
    Kill,
    /// The call fails with this error of the operating system, once.
    Error(i32),
    /// A write takes the first half of its bytes and says so, once. Other calls fail with no space left.
    ShortWrite,
    /// A write takes the first half of its bytes, and every later one fails with no space left.
    Full,
    /// A rename, a removal or a new file is refused so often, as while a virus scanner reads; other calls
    /// work.
    Busy(usize),
}

pub const EIO: i32 = 5;
pub const EACCES: i32 = 13;
pub const ENOSPC: i32 = 28;
pub const EROFS: i32 = 30;

/// The disk, with a fault at one call. Reading counts too. Nothing waits for the disk: these tests end
/// processes, not power.
#[derive(Clone, Debug)]
pub struct Faulty {
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug)]
struct Plan {
    fault: Option<Fault>,
    /// Calls until the fault.
    countdown: usize,
    calls: usize,
    /// The call that the fault struck, with its path.
    struck: Option<(&'static str, PathBuf)>,
    /// Times that this same call was made.
    tries: usize,
}

/// How a call goes on.
enum Course {
    Normal,
    Half { then_fail: bool },
}

impl Faulty {
    /// A fault at call number `at`, from 0.
    pub fn new(fault: Fault, at: usize) -> Faulty {
        let plan = Plan { fault: Some(fault), countdown: at, calls: 0, struck: None, tries: 0 };
        Faulty { plan: Arc::new(Mutex::new(plan)) }
    }

    /// Without a fault, to count calls.
    pub fn none() -> Faulty {
        let plan = Plan { fault: None, countdown: 0, calls: 0, struck: None, tries: 0 };
        Faulty { plan: Arc::new(Mutex::new(plan)) }
    }

    pub fn calls(&self) -> usize {
        self.plan.lock().unwrap().calls
    }

    /// What the fault struck, if it has.
    pub fn struck(&self) -> Option<(&'static str, PathBuf)> {
        self.plan.lock().unwrap().struck.clone()
    }

    /// How often the call that the fault struck was made on that path.
    pub fn tries(&self) -> usize {
        self.plan.lock().unwrap().tries
    }

    fn call(&self, what: &'static str, path: &Path) -> io::Result<Course> {
        let mut plan = self.plan.lock().unwrap();
        let number = plan.calls;
        plan.calls += 1;
        let outcome = plan.meet(number, what, path);
        plan.tries +=
            usize::from(plan.struck.as_ref().is_some_and(|struck| *struck == (what, path.to_owned())));
        outcome
    }
}

impl Plan {
    fn meet(&mut self, number: usize, what: &'static str, path: &Path) -> io::Result<Course> {
        let Some(fault) = self.fault else { return Ok(Course::Normal) };
        let is_write = what == "write";
        if let Fault::Busy(times) = fault {
            // The same call comes again and again.
            let may_be_busy = ["rename", "remove_folder", "create"].contains(&what);
            if !may_be_busy || number < self.countdown || number >= self.countdown + times {
                return Ok(Course::Normal);
            }
            self.struck.get_or_insert((what, path.to_owned()));
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        if number < self.countdown {
            return Ok(Course::Normal);
        }
        let first = self.struck.is_none();
        if first {
            self.struck = Some((what, path.to_owned()));
        }
        match fault {
            Fault::AbortHalfway if first && is_write => Ok(Course::Half { then_fail: true }),
            Fault::Kill => std::process::abort(),
            Fault::Abort | Fault::AbortHalfway => Err(io::Error::other("the process has ended")),
            Fault::Error(code) if first => Err(io::Error::from_raw_os_error(code)),
            Fault::ShortWrite | Fault::Full if first && is_write => Ok(Course::Half { then_fail: false }),
            Fault::ShortWrite if first => Err(io::Error::from_raw_os_error(ENOSPC)),
            Fault::Full if first || is_write => Err(io::Error::from_raw_os_error(ENOSPC)),
            Fault::Busy(_) => unreachable!("handled above"),
            _ => Ok(Course::Normal),
        }
    }
}

impl Storage for Faulty {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.call("create_folder", path)?;
        Disk.create_folder(path)
    }

    fn create_new_folder(&self, path: &Path) -> io::Result<()> {
        self.call("create_new_folder", path)?;
        Disk.create_new_folder(path)
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Lock> {
        self.call("lock", path)?;
        Disk.lock(path, holder)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        self.call("create", path)?;
        let file = Disk.create(path)?;
        Ok(Box::new(FaultyFile { file, path: path.to_owned(), storage: self.clone() }))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        self.call("append", path)?;
        let file = Disk.append(path)?;
        Ok(Box::new(FaultyFile { file, path: path.to_owned(), storage: self.clone() }))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.call("sync_folder", path).map(|_| ())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call("rename", from)?;
        Disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call("remove_file", path)?;
        Disk.remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.call("remove_folder", path)?;
        Disk.remove_folder(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.call("exists", path)?;
        Disk.exists(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.call("read", path)?;
        Disk.read(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.call("list", path)?;
        Disk.list(path)
    }

    fn passes(&self, error: &io::Error) -> bool {
        let is_busy = matches!(self.plan.lock().unwrap().fault, Some(Fault::Busy(_)));
        is_busy && error.kind() == io::ErrorKind::PermissionDenied
    }
}

#[derive(Debug)]
struct FaultyFile {
    file: Box<dyn StoredFile>,
    path: PathBuf,
    storage: Faulty,
}

impl Write for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.storage.call("write", &self.path)? {
            Course::Normal => self.file.write(bytes),
            Course::Half { then_fail } => {
                let half = &bytes[..bytes.len() / 2];
                self.file.write_all(half)?;
                if then_fail { Err(io::Error::other("the process has ended")) } else { Ok(half.len()) }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl StoredFile for FaultyFile {
    fn sync(&mut self) -> io::Result<()> {
        self.storage.call("sync", &self.path).map(|_| ())
    }
}

/// Something that was done to the disk.
#[derive(Clone, Debug)]
pub enum Operation {
    CreateFolder(PathBuf),
    /// A new, empty file.
    Create(PathBuf),
    /// Bytes at a file's end.
    Write(PathBuf, Vec<u8>),
    Sync(PathBuf),
    SyncFolder(PathBuf),
    Rename(PathBuf, PathBuf),
    RemoveFile(PathBuf),
    RemoveFolder(PathBuf),
}

/// The disk, with a record of everything that changed it.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    operations: Arc<Mutex<Vec<Operation>>>,
}

impl Recorder {
    /// Everything done so far.
    pub fn operations(&self) -> Vec<Operation> {
        self.operations.lock().unwrap().clone()
    }

    fn done(&self, operation: Operation) {
        self.operations.lock().unwrap().push(operation);
    }
}

impl Storage for Recorder {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        Disk.create_folder(path)?;
        self.done(Operation::CreateFolder(path.to_owned()));
        Ok(())
    }

    fn create_new_folder(&self, path: &Path) -> io::Result<()> {
        Disk.create_new_folder(path)?;
        self.done(Operation::CreateFolder(path.to_owned()));
        Ok(())
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Lock> {
        let is_new = !Disk.exists(path)?;
        let lock = Disk.lock(path, holder)?;
        if is_new {
            self.done(Operation::Create(path.to_owned()));
        }
        self.done(Operation::Write(path.to_owned(), holder.as_bytes().to_vec()));
        Ok(lock)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        let file = Disk.create(path)?;
        self.done(Operation::Create(path.to_owned()));
        Ok(Box::new(RecordedFile { file, path: path.to_owned(), recorder: self.clone() }))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        let file = Disk.append(path)?;
        Ok(Box::new(RecordedFile { file, path: path.to_owned(), recorder: self.clone() }))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        Disk.sync_folder(path)?;
        self.done(Operation::SyncFolder(path.to_owned()));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)?;
        self.done(Operation::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        Disk.remove_file(path)?;
        self.done(Operation::RemoveFile(path.to_owned()));
        Ok(())
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        Disk.remove_folder(path)?;
        self.done(Operation::RemoveFolder(path.to_owned()));
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Disk.exists(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Disk.read(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        Disk.list(path)
    }
}

#[derive(Debug)]
struct RecordedFile {
    file: Box<dyn StoredFile>,
    path: PathBuf,
    recorder: Recorder,
}

impl Write for RecordedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.recorder.done(Operation::Write(self.path.clone(), bytes[..written].to_vec()));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl StoredFile for RecordedFile {
    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        self.recorder.done(Operation::Sync(self.path.clone()));
        Ok(())
    }
}

/// Files in memory, to be read only: what a disk may hold after a failure.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    pub folders: std::collections::BTreeSet<PathBuf>,
}

impl Memory {
    /// The files of a folder on the disk, under the same paths.
    pub fn of_folder(path: &Path) -> Memory {
        let mut memory = Memory::default();
        memory.folders.insert(path.to_owned());
        for name in Disk.list(path).unwrap() {
            let file = path.join(name);
            let bytes = Disk.read(&file).unwrap();
            memory.files.insert(file, bytes);
        }
        memory
    }
}

fn read_only<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(EROFS))
}

impl Storage for Memory {
    fn create_folder(&self, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn create_new_folder(&self, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn lock(&self, _: &Path, _: &str) -> io::Result<Lock> {
        read_only()
    }

    fn create(&self, _: &Path) -> io::Result<Box<dyn StoredFile>> {
        read_only()
    }

    fn append(&self, _: &Path) -> io::Result<Box<dyn StoredFile>> {
        read_only()
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn remove_file(&self, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn remove_folder(&self, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.files.contains_key(path) || self.folders.contains(path))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.files.get(path).cloned().ok_or(io::Error::from(io::ErrorKind::NotFound))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        if !self.folders.contains(path) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        let inside = self.files.keys().chain(&self.folders).filter(|p| p.parent() == Some(path));
        Ok(inside.map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect())
    }
}
