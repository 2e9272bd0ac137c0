//! metrics.jsonl: one line a step, for any plotting tool.

use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::checkpoint::{Storage, StoredFile, replace_file_on};
use crate::error::{Error, Result};

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// From 1: how many steps have been taken.
    pub step: u64,
    /// Passes over the training text so far, with their fraction.
    pub epoch: f64,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// Mean over the step's positions, in nats per token.
    #[serde(rename = "train/loss")]
    pub train_loss: f64,
    /// Over the whole validation text, in nats per token, if it was measured after this step.
    #[serde(rename = "val/loss")]
    pub val_loss: Option<f64>,
    /// The step's learning rate.
    pub lr: f64,
    /// Of the whole gradient before clipping.
    pub grad_norm: f64,
    /// Milliseconds that the step took, without evaluations and saves.
    pub step_ms: f64,
    /// Tokens of the step over its time.
    pub tokens_per_second: f64,
}

/// How old a written line may become before a reader of the file sees it.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

/// The file, open for writing.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    writer: BufWriter<Box<dyn StoredFile>>,
    flushed: Instant,
}

impl MetricsFile {
    /// Starts the file of a new run.
    pub fn create(storage: &dyn Storage, path: &Path) -> Result<MetricsFile> {
        let file = storage.create(path).map_err(Error::io("cannot create", path))?;
        Ok(MetricsFile::over(path, file))
    }

    /// Goes on with a run's file after `step` steps: later lines, and a last one that was cut off,
    /// are dropped, because those steps will be taken again.
    pub fn resume(storage: &dyn Storage, path: &Path, step: u64) -> Result<MetricsFile> {
        #[derive(Deserialize)]
        struct Step {
            step: u64,
        }
        let text = match storage.read(path) {
            // After a power failure there can be anything where the last lines were.
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io("cannot read", path)(error)),
        };
        let is_kept = |line: &&str| {
            line.ends_with('\n') && serde_json::from_str::<Step>(line).is_ok_and(|line| line.step <= step)
        };
        let kept: String = text.split_inclusive('\n').filter(is_kept).collect();
        replace_file_on(storage, path, kept.as_bytes())?;
        let file = storage.append(path).map_err(Error::io("cannot write", path))?;
        Ok(MetricsFile::over(path, file))
    }

    fn over(path: &Path, file: Box<dyn StoredFile>) -> MetricsFile {
        MetricsFile { path: path.to_owned(), writer: BufWriter::new(file), flushed: Instant::now() }
    }

    /// Adds a line. It reaches the file within a second or two of steps.
    pub fn write(&mut self, metrics: &StepMetrics) -> Result<()> {
        let mut line = serde_json::to_string(metrics).expect("numbers are JSON");
        line.push('\n');
        self.writer.write_all(line.as_bytes()).map_err(Error::io("cannot write", &self.path))?;
        if self.flushed.elapsed() >= FLUSH_AFTER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.flushed = Instant::now();
        self.writer.flush().map_err(Error::io("cannot write", &self.path))
    }

    /// Waits until the disk has every line: called before a checkpoint is saved, so that a run which
    /// goes on from there has the lines of all steps before it.
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.writer.get_mut().sync().map_err(Error::io("cannot write", &self.path))
    }
}
