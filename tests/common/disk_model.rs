//! What a disk may hold when the power fails: a model of files and names that were not synced.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::scale::Random;
use crate::storage::{Memory, Operation};

/// A file or folder, whatever it is called.
type Inode = usize;

/// What a file holds for certain, and what was written since.
#[derive(Clone, Debug, Default)]
struct File {
    synced: Vec<u8>,
    written: Vec<u8>,
}

/// A change to the names in a folder.
#[derive(Clone, Debug)]
enum Change {
    Add(String, Inode),
    Remove(String),
    Rename(String, String),
}

/// The names in a folder: for certain, with every change, and the changes since the last sync.
#[derive(Clone, Debug, Default)]
struct Folder {
    synced: BTreeMap<String, Inode>,
    now: BTreeMap<String, Inode>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Node {
    File(File),
    Folder(Folder),
}

/// A disk below one folder, which is there for certain.
pub struct DiskModel {
    root: PathBuf,
    nodes: Vec<Node>,
}

impl DiskModel {
    pub fn new(root: &Path) -> DiskModel {
        DiskModel { root: root.to_owned(), nodes: vec![Node::Folder(Folder::default())] }
    }

    pub fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::CreateFolder(path) => {
                if self.find(path).is_none() {
                    self.add(path, Node::Folder(Folder::default()));
                }
            }
            Operation::Create(path) => match self.find(path) {
                Some(inode) => self.nodes[inode] = Node::File(File::default()),
                None => self.add(path, Node::File(File::default())),
            },
            Operation::Write(path, bytes) => self.file(path).written.extend(bytes),
            Operation::Sync(path) => {
                let file = self.file(path);
                file.synced = file.written.clone();
            }
            Operation::SyncFolder(path) => {
                let inode = self.find(path).expect("a synced folder is there");
                let folder = self.folder(inode);
                folder.synced = folder.now.clone();
                folder.pending.clear();
            }
            Operation::Rename(from, to) => {
                assert_eq!(from.parent(), to.parent(), "the model knows renames within a folder");
                let (parent, from) = self.place(from);
                let to = self.place(to).1;
                self.change(parent, Change::Rename(from, to));
            }
            Operation::RemoveFile(path) => {
                let (parent, name) = self.place(path);
                self.change(parent, Change::Remove(name));
            }
            Operation::RemoveFolder(path) => self.remove_folder(path),
        }
    }

    /// First the names in it, one by one, then its own.
    fn remove_folder(&mut self, path: &Path) {
        let inode = self.find(path).expect("a removed folder is there");
        for name in self.folder(inode).now.clone().into_keys() {
            self.change(inode, Change::Remove(name));
        }
        let (parent, name) = self.place(path);
        self.change(parent, Change::Remove(name));
    }

    fn add(&mut self, path: &Path, node: Node) {
        let (parent, name) = self.place(path);
        self.nodes.push(node);
        let inode = self.nodes.len() - 1;
        self.change(parent, Change::Add(name, inode));
    }

    fn change(&mut self, folder: Inode, change: Change) {
        let mut now = std::mem::take(&mut self.folder(folder).now);
        assert!(self.happen(&mut now, &change), "{change:?} was recorded, so it happened");
        let folder = self.folder(folder);
        folder.now = now;
        folder.pending.push(change);
    }

    /// The folder that a path lies in, and its name there.
    fn place(&self, path: &Path) -> (Inode, String) {
        let parent = path.parent().expect("every path lies below the root");
        let name = path.file_name().expect("every path has a name").to_string_lossy().into_owned();
        (self.find(parent).expect("a folder that is written in is there"), name)
    }

    fn find(&self, path: &Path) -> Option<Inode> {
        let mut inode = 0;
        for name in path.strip_prefix(&self.root).expect("every path lies below the root") {
            let Node::Folder(folder) = &self.nodes[inode] else { return None };
            inode = *folder.now.get(&*name.to_string_lossy())?;
        }
        Some(inode)
    }

    fn file(&mut self, path: &Path) -> &mut File {
        let inode = self.find(path).expect("a written file is there");
        match &mut self.nodes[inode] {
            Node::File(file) => file,
            Node::Folder(_) => panic!("{} is a folder", path.display()),
        }
    }

    fn folder(&mut self, inode: Inode) -> &mut Folder {
        match &mut self.nodes[inode] {
            Node::Folder(folder) => folder,
            Node::File(_) => panic!("a file stands where a folder was"),
        }
    }

    /// Applies a change where it can be; false if it cannot.
    fn happen(&self, names: &mut BTreeMap<String, Inode>, change: &Change) -> bool {
        match change {
            Change::Add(name, inode) => names.insert(name.clone(), *inode).is_none(),
            Change::Remove(name) => names.remove(name).is_some(),
            Change::Rename(from, to) => {
                let is_folder = |inode: &Inode| matches!(self.nodes[*inode], Node::Folder(_));
                // A file gives way to a file; a folder with files in it gives way to nothing.
                if !names.contains_key(from) || names.get(to).is_some_and(is_folder) {
                    return false;
                }
                let inode = names.remove(from).expect("it is there");
                names.insert(to.clone(), inode);
                true
            }
        }
    }

    /// The names after some of the pending changes, half of the time in another order.
    fn surviving_names(&self, folder: &Folder, odds: usize, random: &mut Random) -> BTreeMap<String, Inode> {
        let mut changes: Vec<&Change> = folder.pending.iter().filter(|_| random.below(4) < odds).collect();
        if random.coin() {
            for i in (1..changes.len()).rev() {
                changes.swap(i, random.below(i + 1));
            }
        }
        let mut names = folder.synced.clone();
        for change in changes {
            // What the lost changes would have made possible does not happen.
            self.happen(&mut names, change);
        }
        names
    }

    /// One of the states that the disk may be in if the power fails now.
    pub fn after_power_cut(&self, random: &mut Random) -> Memory {
        let mut memory = Memory::default();
        // How much of what is pending comes through: all, most, few or none of it.
        let odds = random.below(5);
        self.surface(0, &self.root, odds, random, &mut memory);
        memory
    }

    fn surface(&self, inode: Inode, path: &Path, odds: usize, random: &mut Random, memory: &mut Memory) {
        match &self.nodes[inode] {
            Node::File(file) => {
                memory.files.insert(path.to_owned(), surviving_bytes(file, odds, random));
            }
            Node::Folder(folder) => {
                memory.folders.insert(path.to_owned());
                for (name, inode) in self.surviving_names(folder, odds, random) {
                    self.surface(inode, &path.join(name), odds, random, memory);
                }
            }
        }
    }
}

/// What was synced, or of what was written since a part, with a hole of zeros or noise in it.
fn surviving_bytes(file: &File, odds: usize, random: &mut Random) -> Vec<u8> {
    if file.synced == file.written {
        return file.synced.clone();
    }
    if random.below(4) >= odds {
        return file.synced.clone();
    }
    let mut bytes = file.written.clone();
    bytes.truncate(random.below(bytes.len() + 1));
    if bytes.len() > 1 && random.coin() {
        let start = random.below(bytes.len());
        let noise = if random.coin() { 0 } else { 0xA5 };
        bytes[start..].fill(noise);
    }
    bytes
}
