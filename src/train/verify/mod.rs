//! Trains the same steps again and again and compares every weight, moment and loss bit for bit.
//!
//! Of a step only its hashes are kept, one a tensor. Where two differ, the reference is trained again
//! up to that step, the two states are compared element by element, and the step is replayed on both
//! devices operation by operation.

mod chain;
mod difference;
mod kept;
mod met;
mod recorded;
mod replay;

pub use chain::Chain;
pub use difference::{Difference, Elements, Op, Value, compare};
pub use kept::{KeptStep, keep_step, kept_path};
pub use met::Met;
pub use recorded::{FORMAT_VERSION, Header, Recorded, RecordedDifference};

use crate::error::{Error, Result};
use crate::recording::{Executor, Program, Traits};
use crate::train::digest::{StateDigest, tensor_name};
use crate::train::feed::Feed;
use crate::train::finite;
use crate::train::program::TrainProgram;
use crate::train::schedule::Schedule;
use crate::train::session::{Session, StepRates, StepResult, Submit, TrainState};

/// What one step left.
#[derive(Clone, Debug)]
pub struct StepRecord {
    /// Mean over every position of the whole batch.
    pub loss: f32,
    /// Before clipping.
    pub grad_norm: f32,
    /// The hashes of every parameter and moment.
    pub state: StateDigest,
}

impl StepRecord {
    /// True if every bit is the same: floats are not compared as numbers, because -0 equals 0.
    pub fn has_bits_of(&self, other: &StepRecord) -> bool {
        self.loss.to_bits() == other.loss.to_bits()
            && self.grad_norm.to_bits() == other.grad_norm.to_bits()
            && self.state == other.state
    }
}

/// Takes the memory of a program on one device.
pub type Load = Box<dyn Fn(Program) -> Result<Box<dyn Executor>>>;

/// A device and what it trains.
pub struct Trainer<'a> {
    /// The device's name.
    pub device: String,
    /// The step, loaded on it.
    pub session: Session,
    /// What each step trains on.
    pub feed: Feed<'a>,
    /// The learning rate of each step.
    pub schedule: Schedule,
    /// AdamW's decay of matrices.
    pub weight_decay: f64,
    /// The state before the first step, the same for every trainer.
    pub initial: &'a TrainState,
    /// The device's traits and how it loads further programs, to replay a step on it.
    pub traits: Traits,
    /// Loads a further program on the device.
    pub load: Load,
}

impl Trainer<'_> {
    /// Goes back to before the first step.
    pub fn restart(&mut self) -> Result<()> {
        self.session.load_state(self.initial)
    }

    /// Takes one step, and hashes what it leaves.
    pub fn step(&mut self) -> Result<StepRecord> {
        let result = self.advance()?;
        self.record(result)
    }

    /// Takes one step.
    pub fn advance(&mut self) -> Result<StepResult> {
        let step = self.session.step();
        let rates = self.rates(step);
        self.session.step_now(self.feed.micro_batches(step), rates)
    }

    /// What the last step, with this result, has left.
    pub fn record(&mut self, result: StepResult) -> Result<StepRecord> {
        let state = StateDigest::of(&self.session.state()?);
        Ok(StepRecord { loss: result.loss, grad_norm: result.grad_norm, state })
    }

    /// The step's program, written anew.
    fn program(&self) -> TrainProgram {
        self.program_for(self.traits)
    }

    fn program_for(&self, traits: Traits) -> TrainProgram {
        let tuning = &self.session.train.model.tuning;
        TrainProgram::tuned(self.session.shape(), traits, tuning)
    }

    fn rates(&self, step: u64) -> StepRates {
        StepRates { lr: self.schedule.lr(step), weight_decay: self.weight_decay }
    }

    /// What the step after `step` steps submits.
    fn submits(&mut self, step: u64) -> Vec<Submit> {
        let rates = self.rates(step);
        self.session.submits(step, self.feed.micro_batches(step), rates)
    }

    /// The state after `step` steps, trained anew.
    fn state_after(&mut self, step: u64) -> Result<TrainState> {
        self.restart()?;
        while self.session.step() < step {
            self.advance()?;
        }
        self.session.state()
    }

    /// The digest over the whole state of a record.
    pub fn digest(&self, record: &StepRecord) -> String {
        record.state.whole(&self.session.train.model.arena.specs)
    }

    /// The name of a tensor of its states.
    pub fn tensor_name(&self, index: usize) -> String {
        tensor_name(&self.session.train.model.arena.specs, index)
    }
}

/// What a verification found.
#[derive(Clone, Debug)]
pub struct Verification {
    /// The first run's digest after its last step.
    pub digest: String,
    /// The first run's steps.
    pub records: Vec<StepRecord>,
    /// `None`: every run gave the same bits.
    pub first_difference: Option<Difference>,
}

/// Trains `steps` steps `runs` times on each trainer, and compares with the first run on the first,
/// until a difference is found. `each` sees every step as it is done: trainer, run from 1, record.
pub fn verify(
    trainers: &mut [Trainer],
    runs: u64,
    steps: u64,
    mut each: impl FnMut(&Trainer, u64, &StepRecord) -> Result<()>,
) -> Result<Verification> {
    let mut records: Vec<StepRecord> = Vec::new();
    let mut first_difference = None;
    'all: for index in 0..trainers.len() {
        for run in 1..=runs {
            let trainer = &mut trainers[index];
            trainer.restart()?;
            for step in 0..steps as usize {
                let is_first = index == 0 && run == 1;
                let record = trainer.step().map_err(|error| match finite::met(&error) {
                    Some(what) if !is_first => Error::Mismatch(format!(
                        "not identical: {what} in run {run} on {}, and was in the first run",
                        trainer.device
                    )),
                    _ => error,
                })?;
                each(trainer, run, &record)?;
                if is_first {
                    records.push(record);
                } else if !record.has_bits_of(&records[step]) {
                    first_difference = Some(examine(trainers, index, run, &records[step], &record)?);
                    break 'all;
                }
            }
        }
    }
    let digest = trainers[0].digest(records.last().expect("at least one step"));
    Ok(Verification { digest, records, first_difference })
}

/// Finds the element in which the trainer at `index`, which stands after the step that differs, differs
/// from the first run, and the operation that it comes from.
fn examine(
    trainers: &mut [Trainer],
    index: usize,
    run: u64,
    reference: &StepRecord,
    record: &StepRecord,
) -> Result<Difference> {
    let step = record.state.step;
    let state = trainers[index].session.state()?;
    let first = &mut trainers[0];
    let before = first.state_after(step - 1)?;
    let again = first.step()?;
    let expected = first.session.state()?;
    let mut difference = match reference.state.first_difference(&record.state) {
        Some(tensor) => {
            let [expected, actual] =
                [&expected, &state].map(|s| s.tensors().nth(tensor).expect("the tensor exists"));
            compare(first.tensor_name(tensor), expected, actual)
        }
        None if reference.loss.to_bits() != record.loss.to_bits() => {
            compare("loss".to_owned(), &[reference.loss], &[record.loss])
        }
        None => compare("grad_norm".to_owned(), &[reference.grad_norm], &[record.grad_norm]),
    };
    difference.step = step;
    difference.run = run;
    [difference.device, difference.reference_device] = [index, 0].map(|i| trainers[i].device.clone());
    let repeats = again.has_bits_of(reference);
    match replay::first_op(trainers, index, &before) {
        Ok(op) => {
            difference.op = op;
            let own_kernels = replay::own_kernels_replay(trainers, index);
            difference.likely_cause = likely_cause(&difference, repeats, own_kernels);
        }
        // The difference stands, whatever keeps it from being explained.
        Err(error) => {
            difference.likely_cause = format!("unknown: the step could not be replayed ({error})");
        }
    }
    Ok(difference)
}

fn likely_cause(difference: &Difference, reference_repeats: bool, own_kernels: bool) -> String {
    let Difference { device, reference_device, op, .. } = difference;
    match op {
        _ if !reference_repeats => {
            format!("{reference_device} does not repeat itself: its hardware, its memory or its driver")
        }
        Some(_) if device != reference_device => format!("{device} or {reference_device}: device or driver"),
        Some(_) => format!("{device} does not repeat itself: its hardware, its memory or its driver"),
        None if own_kernels => {
            format!("{device}: the step comes out right when replayed, so a passing fault of its hardware")
        }
        None => format!(
            "{device}: the step comes out right when replayed with kernels that both devices have, so one of \
             its other kernels, or a passing fault of its hardware"
        ),
    }
}
