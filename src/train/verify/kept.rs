//! One step kept in a file bit for bit, to be replayed on another machine: the state before it, its inputs,
//! and what every operation wrote.
//!
//! The file is a line of JSON that says what follows, then 32-bit words, least significant byte first: the
//! state, the inputs of every submit, the outputs of every dispatch; then the BLAKE3 hash of all before it.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint::{Disk, Storage, StoredFile};
use crate::error::{Error, Result};
use crate::ops::gemm::Tuning;
use crate::recording::{Dispatch, Program, Traits, View};
use crate::train::digest::{StateDigest, tensor_name};
use crate::train::session::{Submit, TrainState};
use crate::train::verify::replay::{Replay, written};
use crate::train::verify::{StepRecord, Trainer};

/// Raised when an older hlx could not read the file.
const FORMAT_VERSION: u32 = 1;
/// Bytes of the hash at the end.
const HASH_BYTES: u64 = blake3::OUT_LEN as u64;

/// Where a step of a chain's file is kept: beside it.
pub fn kept_path(chain: &Path, step: u64) -> PathBuf {
    let mut name = chain.as_os_str().to_owned();
    name.push(format!(".step-{step}"));
    name.into()
}

/// Some words of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub name: String,
    pub words: u64,
}

/// An operation of the step.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptOp {
    /// The recording it belongs to.
    pub recording: String,
    pub kernel: String,
    /// BLAKE3 over the kernel's name, its constants, its workgroups and the views that it binds.
    pub identity: String,
    /// What it writes.
    pub outputs: Vec<Part>,
}

/// What the file's first line says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Contents {
    format_version: u32,
    pub step: u64,
    /// The digest of the chain after the step.
    pub chain: String,
    /// What the operations were chosen by.
    pub traits: Traits,
    /// The same of the products that were tuned.
    #[serde(default, skip_serializing_if = "Tuning::is_empty")]
    pub tuning: Tuning,
    /// Every tensor of the state before the step.
    pub state: Vec<Part>,
    /// The inputs of each submit.
    pub uploads: Vec<Vec<Part>>,
    /// The operations of each submit.
    pub ops: Vec<Vec<KeptOp>>,
}

impl Contents {
    fn words(&self) -> Option<u64> {
        let uploads = self.uploads.iter().flatten();
        let outputs = self.ops.iter().flatten().flat_map(|op| &op.outputs);
        self.state
            .iter()
            .chain(uploads)
            .chain(outputs)
            .try_fold(0u64, |sum, part| sum.checked_add(part.words))
    }
}

/// The operations of a submit's recording.
pub fn ops_of(program: &Program, submit: &Submit) -> Vec<KeptOp> {
    let recording = &program.recordings[submit.recording.0];
    let part = |view: View| Part { name: program.spec(view.buffer).name.clone(), words: view.words as u64 };
    let op = |dispatch: &Dispatch| KeptOp {
        recording: recording.name.clone(),
        kernel: dispatch.kernel.name().to_owned(),
        identity: identity(program, dispatch),
        outputs: written(dispatch).map(|(view, _)| part(view)).collect(),
    };
    recording.dispatches.iter().map(op).collect()
}

fn identity(program: &Program, dispatch: &Dispatch) -> String {
    let views: Vec<_> = (dispatch.views.iter())
        .map(|view| (&program.spec(view.buffer).name, view.offset, view.words))
        .collect();
    let Dispatch { kernel, specialization, push, groups, .. } = dispatch;
    let text = serde_json::to_string(&(kernel.name(), specialization, push, groups, views));
    blake3::hash(text.expect("names and numbers are JSON").as_bytes()).to_hex().to_string()
}

/// Trains up to the step of `record` again, replays that step operation by operation, and writes everything
/// into a file. Returns the file's length in bytes.
///
/// # Errors
/// [`Error::Mismatch`] if the step comes out otherwise when it is replayed.
pub fn keep_step(trainer: &mut Trainer, record: &StepRecord, chain: &str, path: &Path) -> Result<u64> {
    let step = record.state.step;
    let before = trainer.state_after(step - 1)?;
    let submits = trainer.submits(before.step);
    let train = trainer.program();
    let specs = &train.model.arena.specs;
    let part = |(index, tensor): (usize, &Vec<f32>)| Part {
        name: tensor_name(specs, index),
        words: tensor.len() as u64,
    };
    let upload = |(buffer, words): &(_, Vec<u32>)| Part {
        name: train.program.spec(*buffer).name.clone(),
        words: words.len() as u64,
    };
    let contents = Contents {
        format_version: FORMAT_VERSION,
        step,
        chain: chain.to_owned(),
        traits: trainer.traits,
        tuning: trainer.session.train.model.tuning.clone(),
        state: before.tensors().enumerate().map(part).collect(),
        uploads: submits.iter().map(|submit| submit.uploads.iter().map(upload).collect()).collect(),
        ops: submits.iter().map(|submit| ops_of(&train.program, submit)).collect(),
    };
    let mut replay = Replay::load(&train, &trainer.load, &before)?;
    let mut file = Writer::create(path, &contents)?;
    before.tensors().try_for_each(|tensor| file.words(bytemuck::cast_slice(tensor)))?;
    submits.iter().flat_map(|submit| &submit.uploads).try_for_each(|(_, words)| file.words(words))?;
    for submit in &submits {
        for place in 0..train.program.recordings[submit.recording.0].dispatches.len() {
            replay.run(submit, place)?.iter().try_for_each(|output| file.words(&output.words))?;
        }
    }
    let [params, m, v] = replay.state()?.map(|words| train.model.arena.unpack(&words));
    if StateDigest::of(&TrainState { params, m, v, step }) != record.state {
        return Err(Error::Mismatch(format!(
            "step {step} cannot be kept: replayed on {}, it does not come out as it did before: its \
             hardware, its memory or its driver",
            trainer.device
        )));
    }
    file.finish()
}

/// A file on its way to its name.
struct Writer<'a> {
    path: &'a Path,
    temporary: PathBuf,
    file: BufWriter<Box<dyn StoredFile>>,
    hasher: blake3::Hasher,
    bytes: u64,
    is_done: bool,
}

impl<'a> Writer<'a> {
    fn create(path: &'a Path, contents: &Contents) -> Result<Writer<'a>> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let file = BufWriter::new(Disk.create(&temporary).map_err(Error::io("cannot write", path))?);
        let hasher = blake3::Hasher::new();
        let mut writer = Writer { path, temporary, file, hasher, bytes: 0, is_done: false };
        let mut line = serde_json::to_string(contents).expect("names and numbers are JSON");
        line.push('\n');
        writer.write(line.as_bytes())?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(Error::io("cannot write", self.path))
    }

    fn words(&mut self, words: &[u32]) -> Result<()> {
        if cfg!(target_endian = "little") {
            return self.write(bytemuck::cast_slice(words));
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.write(&bytes)
    }

    fn finish(mut self) -> Result<u64> {
        let hash = *self.hasher.finalize().as_bytes();
        self.write(&hash)?;
        let moved = (self.file.flush())
            .and_then(|()| self.file.get_mut().sync())
            .and_then(|()| Disk.rename(&self.temporary, self.path));
        moved.map_err(Error::io("cannot write", self.path))?;
        self.is_done = true;
        Ok(self.bytes)
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            // Half a file is none; that it could not be written has been said.
            let _ = Disk.remove_file(&self.temporary);
        }
    }
}

/// A kept step that is open for reading, one part after the other.
pub struct KeptStep {
    path: PathBuf,
    pub contents: Contents,
    file: BufReader<File>,
}

impl KeptStep {
    /// Opens the file of a step of the chain that has this digest after it, and checks its hash.
    pub fn open(path: &Path, step: u64, chain: &str) -> Result<KeptStep> {
        let wrong = |reason: &str| {
            let file = path.display();
            Error::Input(format!("{file} {reason}: make it again with `hlx verify --save` and --keep-step"))
        };
        let cannot_read = |error| Error::io("cannot read", path)(error);
        let mut file = BufReader::new(File::open(path).map_err(cannot_read)?);
        let bytes = file.get_ref().metadata().map_err(cannot_read)?.len();
        let hashed = bytes.checked_sub(HASH_BYTES).ok_or_else(|| wrong("is no kept step"))?;
        let mut hasher = blake3::Hasher::new();
        std::io::copy(&mut file.by_ref().take(hashed), &mut hasher).map_err(cannot_read)?;
        let mut hash = [0; HASH_BYTES as usize];
        file.read_exact(&mut hash).map_err(cannot_read)?;
        if *hasher.finalize().as_bytes() != hash {
            return Err(wrong("is damaged or no kept step (its BLAKE3 hash differs)"));
        }
        file.seek(SeekFrom::Start(0)).map_err(cannot_read)?;
        let mut line = Vec::new();
        file.by_ref().take(hashed).read_until(b'\n', &mut line).map_err(cannot_read)?;
        let contents: Contents =
            serde_json::from_slice(&line).map_err(|error| wrong(&format!("is no kept step ({error})")))?;
        if contents.format_version != FORMAT_VERSION {
            return Err(wrong(&format!(
                "has format version {}, not {FORMAT_VERSION}",
                contents.format_version
            )));
        }
        if (contents.step, contents.chain.as_str()) != (step, chain) {
            return Err(wrong("is a step of another chain"));
        }
        if contents.words().and_then(|words| words.checked_mul(4)) != Some(hashed - line.len() as u64) {
            return Err(wrong("does not hold what its first line says"));
        }
        Ok(KeptStep { path: path.to_owned(), contents, file })
    }

    /// The next words of the file.
    pub fn words(&mut self, part: &Part) -> Result<Vec<u32>> {
        // No more than the file's own length, which was compared with the sum of all parts.
        let mut bytes = vec![0; part.words as usize * 4];
        self.file.read_exact(&mut bytes).map_err(Error::io("cannot read", &self.path))?;
        Ok(bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }
}
