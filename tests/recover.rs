//! A run whose device fails goes on from its newest whole checkpoint, past those that are damaged by then.

#[path = "common/training.rs"]
mod training;

use std::fs;
use std::path::Path;

use hlx::checkpoint::RunFolder;
use hlx::config::{Length, TrainConfig};
use hlx::cpu::CpuExecutor;
use hlx::error::{Error, Result};
use hlx::ops::gemm::Tuning;
use hlx::recording::{BufferId, Executor, RecordingId, Ticket, View};
use hlx::train::recover;
use hlx::train::run::Outcome;
use tempfile::TempDir;
use training::{dataset, new_run, session, tiny_run};

/// The CPU executor, which fails for good at one of its submits, when something else happens as well.
struct Dying {
    inner: CpuExecutor,
    submits_left: usize,
    meanwhile: Box<dyn Fn()>,
}

impl Executor for Dying {
    fn write(&mut self, view: View, words: &[u32]) -> Result<()> {
        self.inner.write(view, words)
    }

    fn read(&mut self, view: View) -> Result<Vec<u32>> {
        self.inner.read(view)
    }

    fn submit(&mut self, recording: RecordingId, uploads: &[(BufferId, &[u32])]) -> Result<Ticket> {
        if self.submits_left == 0 {
            (self.meanwhile)();
            return Err(Error::Device("the device is lost".into()));
        }
        self.submits_left -= 1;
        self.inner.submit(recording, uploads)
    }

    fn fetch(&mut self, ticket: Ticket, buffer: BufferId) -> Result<Vec<u32>> {
        self.inner.fetch(ticket, buffer)
    }

    fn is_synchronous(&self) -> bool {
        self.inner.is_synchronous()
    }

    fn wait_idle(&mut self) -> Result<()> {
        self.inner.wait_idle()
    }

    fn clear(&mut self) -> Result<()> {
        self.inner.clear()
    }
}

/// A run of 8 steps that saves after every second one and measures nothing.
fn config() -> TrainConfig {
    let mut config = tiny_run();
    (config.length, config.eval_every, config.keep_last) = (Length::Steps(8), 0, 0);
    config
}

/// Trains in a folder on a device that fails at a submit, and on one that does not after that.
fn train(path: &Path, submits: usize, meanwhile: impl Fn() + 'static) -> Result<Outcome> {
    let (config, mut data) = (config(), dataset());
    data.validation.clear();
    let session = |submits_left, meanwhile| {
        let dying = |inner| -> Box<dyn Executor> { Box::new(Dying { inner, submits_left, meanwhile }) };
        session(&config, &data, &Tuning::default(), dying)
    };
    new_run(&config, &data, &RunFolder::at(path), |setup| {
        let first = session(submits, Box::new(meanwhile))?;
        recover::train(setup, first, || session(usize::MAX, Box::new(|| {})))
    })
}

/// Submits of 7 steps: a micro-batch and an update each. Steps 2, 4 and 6 are saved by then.
const SEVEN_STEPS: usize = 14;

#[test]
fn what_is_damaged_is_passed_over() {
    let place = TempDir::new().unwrap();
    let digest = train(&place.path().join("unbroken"), usize::MAX, || {}).unwrap().digest;
    for damaged in [&[][..], &[6], &[6, 4], &[6, 4, 2]] {
        let path = place.path().join(format!("damaged-{}", damaged.len()));
        let folder = RunFolder::at(&path);
        let files: Vec<_> =
            damaged.iter().map(|&step| folder.step_folder(step).join("optimizer.safetensors")).collect();
        let outcome = train(&path, SEVEN_STEPS, move || {
            files.iter().for_each(|file| fs::write(file, "cut").expect("it is there"));
        });
        assert_eq!(outcome.unwrap().digest, digest, "{damaged:?} damaged");
    }
}

#[test]
fn what_another_run_left_there_is_not_gone_on_from() {
    let place = TempDir::new().unwrap();
    let unbroken = place.path().join("unbroken");
    let digest = train(&unbroken, usize::MAX, || {}).unwrap().digest;
    // Step 5 lies between the saves, and is whole; it is of a run with other options.
    let path = place.path().join("run");
    let other = RunFolder::at(&path);
    let mut left = hlx::checkpoint::Checkpoint::load(&RunFolder::at(&unbroken).step_folder(4)).unwrap();
    left.state.step = 5;
    left.state.training_hash = "of other options".into();
    let six = other.step_folder(6).join("optimizer.safetensors");
    let outcome = train(&path, SEVEN_STEPS, move || {
        left.save(&other.step_folder(5)).expect("it can be saved");
        fs::write(&six, "cut").expect("it is there");
    });
    assert_eq!(outcome.unwrap().digest, digest);
}
