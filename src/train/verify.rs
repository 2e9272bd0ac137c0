//! Trains the same steps again and again and compares every weight, moment and loss bit for bit.
//!
//! Of a step only its hashes are kept, one a tensor. Where two differ, the reference is trained again
//! up to that step, and the two states are compared element by element.

use serde::Serialize;

use crate::error::Result;
use crate::train::digest::{StateDigest, tensor_name};
use crate::train::feed::Feed;
use crate::train::schedule::Schedule;
use crate::train::session::{Session, StepRates, TrainState};

/// What one step left.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRecord {
    pub loss: f32,
    /// Before clipping.
    pub grad_norm: f32,
    pub state: StateDigest,
}

impl StepRecord {
    /// Equality of bits: -0 is not 0.
    fn has_bits_of(&self, other: &StepRecord) -> bool {
        let bits = |record: &StepRecord| [record.loss, record.grad_norm].map(f32::to_bits);
        self.state == other.state && bits(self) == bits(other)
    }
}

/// A device and what it trains.
pub struct Trainer<'a> {
    pub device: String,
    pub session: Session,
    pub feed: Feed<'a>,
    pub schedule: Schedule,
    pub weight_decay: f64,
    /// The state before the first step, the same for every trainer.
    pub initial: &'a TrainState,
}

impl Trainer<'_> {
    fn restart(&mut self) -> Result<()> {
        self.session.load_state(self.initial)
    }

    fn step(&mut self) -> Result<StepRecord> {
        let step = self.session.step();
        let rates = StepRates { lr: self.schedule.lr(step), weight_decay: self.weight_decay };
        let result = self.session.step_now(self.feed.micro_batches(step), rates)?;
        let state = StateDigest::of(&self.session.state()?);
        Ok(StepRecord { loss: result.loss, grad_norm: result.grad_norm, state })
    }

    /// The digest over the whole state of a record.
    pub fn digest(&self, record: &StepRecord) -> String {
        record.state.whole(&self.session.train.model.arena.specs)
    }
}

/// Where two runs first differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// From 1.
    pub step: u64,
    /// The run that differs from the first, from 1.
    pub run: u64,
    pub device: String,
    pub reference_device: String,
    /// A parameter's name, behind `m.` or `v.` for its moments; or `loss` or `grad_norm`.
    pub tensor: String,
    /// The first element that differs, in row-major order.
    pub element: usize,
    /// Elements of that tensor that differ; 0 if the first run, repeated to find them, came out otherwise.
    pub elements_different: usize,
    pub reference: Value,
    pub value: Value,
}

/// A number with its bits, which tell -0 from 0 and one NaN from another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Value {
    /// As text, because JSON has no infinity.
    pub value: String,
    /// Eight hexadecimal digits.
    pub bits: String,
}

impl From<f32> for Value {
    fn from(x: f32) -> Value {
        Value { value: format!("{x:e}"), bits: format!("{:08x}", x.to_bits()) }
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.elements_different == 0 {
            return write!(
                f,
                "step {}, run {} on {}: {} was another than in the first run, and no longer is: \
                 the first run on {} does not come out the same again",
                self.step, self.run, self.device, self.tensor, self.reference_device
            );
        }
        write!(
            f,
            "step {}, run {} on {}: {}[{}] is {} (0x{}), and {} (0x{}) in the first run on {}",
            self.step,
            self.run,
            self.device,
            self.tensor,
            self.element,
            self.value.value,
            self.value.bits,
            self.reference.value,
            self.reference.bits,
            self.reference_device
        )
    }
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq)]
pub struct Verification {
    /// The first run's digest after its last step.
    pub digest: String,
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
    let mut reference: Vec<StepRecord> = Vec::new();
    for index in 0..trainers.len() {
        for run in 1..=runs {
            let trainer = &mut trainers[index];
            trainer.restart()?;
            for step in 0..steps as usize {
                let record = trainer.step()?;
                each(trainer, run, &record)?;
                if index == 0 && run == 1 {
                    reference.push(record);
                } else if !record.has_bits_of(&reference[step]) {
                    let difference = examine(trainers, index, run, &reference[step], &record)?;
                    let digest = trainers[0].digest(&reference[steps as usize - 1]);
                    return Ok(Verification { digest, first_difference: Some(difference) });
                }
            }
        }
    }
    let digest = trainers[0].digest(reference.last().expect("at least one step"));
    Ok(Verification { digest, first_difference: None })
}

/// Finds the element in which the trainer at `index`, which stands after the step that differs, differs
/// from the first run.
fn examine(
    trainers: &mut [Trainer],
    index: usize,
    run: u64,
    reference: &StepRecord,
    record: &StepRecord,
) -> Result<Difference> {
    let step = record.state.step;
    let state = trainers[index].session.state()?;
    let [device, reference_device] = [index, 0].map(|i| trainers[i].device.clone());
    let first = &mut trainers[0];
    let difference =
        |tensor: String, element, elements_different, (reference, value): (f32, f32)| Difference {
            step,
            run,
            device,
            reference_device,
            tensor,
            element,
            elements_different,
            reference: reference.into(),
            value: value.into(),
        };
    let Some(tensor) = reference.state.first_difference(&record.state) else {
        let (name, values) = if reference.loss.to_bits() != record.loss.to_bits() {
            ("loss", (reference.loss, record.loss))
        } else {
            ("grad_norm", (reference.grad_norm, record.grad_norm))
        };
        return Ok(difference(name.to_owned(), 0, 1, values));
    };
    let name = tensor_name(&first.session.train.model.arena.specs, tensor);
    first.session.load_state(first.initial)?;
    while first.session.step() < step {
        first.step()?;
    }
    let again = first.session.state()?;
    let [expected, actual] = [&again, &state].map(|s| s.tensors().nth(tensor).expect("the tensor exists"));
    let differs = |&i: &usize| expected[i].to_bits() != actual[i].to_bits();
    let count = (0..expected.len()).filter(differs).count();
    // If the first run does not come out as before either, the two may now agree.
    let element = (0..expected.len()).find(differs).unwrap_or(0);
    Ok(difference(name, element, count, (expected[element], actual[element])))
}
