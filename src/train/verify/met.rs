//! A step that was kept on another machine, met again here: the first input or operation that differs.

use std::mem;

use crate::error::{Error, Result};
use crate::kernels::Element;
use crate::recording::Traits;
use crate::train::digest::{StateDigest, tensor_name};
use crate::train::program::TrainProgram;
use crate::train::session::{Submit, TrainState};
use crate::train::verify::difference::{Elements, Op};
use crate::train::verify::kept::{KeptOp, KeptStep, ops_of};
use crate::train::verify::replay::Replay;
use crate::train::verify::{StepRecord, Trainer};

/// What a kept step shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Met {
    /// What goes into the step is another: a tensor of the state before it, or one that the host gives.
    Input(Elements),
    /// An operation gives another result with the same inputs.
    Op(Op),
    /// The step is made of other operations here, so that they cannot be compared. What is other.
    OtherOps(String),
    /// Replayed here, the step comes out as it does there, and not as it came out here before.
    Passing,
    /// The step comes out here, trained and replayed, as it does there: the chain's file says something else.
    Same,
}

impl KeptStep {
    /// Replays the step on a trainer's device. `records` are the steps that the trainer has taken, which are
    /// those of the chain up to this one.
    pub fn meet(mut self, trainer: &mut Trainer, records: &[StepRecord]) -> Result<Met> {
        let record = |step: u64| records.iter().find(|record| record.state.step == step);
        let (before, here) = (record(self.contents.step - 1), record(self.contents.step));
        let state = match self.state(trainer, before)? {
            Ok(state) => state,
            Err(met) => return Ok(met),
        };
        let submits = trainer.submits(state.step);
        if let Some(met) = self.first_input(trainer, &submits)? {
            return Ok(met);
        }
        let (train, mut replay) = match self.program(trainer, &submits, &state)? {
            Ok(loaded) => loaded,
            Err(other) => return Ok(Met::OtherOps(other)),
        };
        let ops = mem::take(&mut self.contents.ops);
        for (submit, ops) in submits.iter().zip(&ops) {
            let recording = &train.program.recordings[submit.recording.0];
            for (place, op) in ops.iter().enumerate() {
                for (output, part) in replay.run(submit, place)?.iter().zip(&op.outputs) {
                    let there = self.words(part)?;
                    let found = Elements::compare(&part.name, &there, &output.words, output.element);
                    if let Some(elements) = found {
                        return Ok(Met::Op(Op::new(&op.kernel, &recording.name, place, elements)));
                    }
                }
            }
        }
        let [params, m, v] = replay.state()?.map(|words| train.model.arena.unpack(&words));
        let replayed = StateDigest::of(&TrainState { params, m, v, step: self.contents.step });
        Ok(if here.is_some_and(|here| here.state == replayed) { Met::Same } else { Met::Passing })
    }

    /// The state before the step, if it is the same here.
    fn state(
        &mut self,
        trainer: &Trainer,
        before: Option<&StepRecord>,
    ) -> Result<std::result::Result<TrainState, Met>> {
        let specs = &trainer.session.train.model.arena.specs;
        let parts = mem::take(&mut self.contents.state);
        let here: Vec<&Vec<f32>> = trainer.initial.tensors().collect();
        let mut tensors = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let words = self.words(part)?;
            let is_known = here.get(index).is_some_and(|tensor| tensor.len() == words.len())
                && part.name == tensor_name(specs, index);
            if !is_known {
                let what = format!("{} has {} elements there, and not here", part.name, part.words);
                return Ok(Err(Met::OtherOps(what)));
            }
            if before.is_none()
                && let Some(found) =
                    Elements::compare(&part.name, &words, bytemuck::cast_slice(here[index]), Element::F32)
            {
                return Ok(Err(Met::Input(found)));
            }
            tensors.push(words.into_iter().map(f32::from_bits).collect());
        }
        if tensors.len() != here.len() {
            return Ok(Err(Met::OtherOps(format!("a state has {} tensors there", tensors.len()))));
        }
        let mut take = || tensors.drain(..specs.len()).collect();
        let state = TrainState { params: take(), m: take(), v: take(), step: self.contents.step - 1 };
        match before {
            Some(before) if StateDigest::of(&state) != before.state => Err(Error::Input(format!(
                "the kept step {} does not begin with what the step before it left: make it again with \
                 `hlx verify --save` and --keep-step",
                self.contents.step
            ))),
            _ => Ok(Ok(state)),
        }
    }

    /// The first input of the step that is another here.
    fn first_input(&mut self, trainer: &Trainer, submits: &[Submit]) -> Result<Option<Met>> {
        let program = &trainer.session.train.program;
        let kept = mem::take(&mut self.contents.uploads);
        let mut first = None;
        for (index, parts) in kept.iter().enumerate() {
            for (place, part) in parts.iter().enumerate() {
                let there = self.words(part)?;
                let upload = submits.get(index).and_then(|submit| submit.uploads.get(place));
                let met = match upload {
                    Some((buffer, words)) if program.spec(*buffer).name == part.name => {
                        let element = element_of(&part.name);
                        let found = Elements::compare(&part.name, &there, words, element).map(Met::Input);
                        let is_longer = || (there.len() != words.len()).then_some(part.words);
                        found.or_else(|| is_longer().map(|n| other_input(&part.name, n)))
                    }
                    _ => Some(other_input(&part.name, part.words)),
                };
                // Read to the end: the outputs follow.
                first = first.or(met);
            }
        }
        Ok(first)
    }

    /// The step's program as it was chosen there, or as it is here, whichever has the operations of the file
    /// and can be loaded. If none can: why.
    fn program(
        &self,
        trainer: &Trainer,
        submits: &[Submit],
        before: &TrainState,
    ) -> Result<std::result::Result<(TrainProgram, Replay), String>> {
        let (there, here) = (self.contents.traits, trainer.traits);
        // What is not here cannot be asked for.
        let can_be_asked =
            (there.matrix_units.is_none() || there.matrix_units == here.matrix_units) && there.run_on(&here);
        let chosen_there = can_be_asked.then_some(Traits { precision: here.precision, ..there });
        let mut reason =
            "the device there had units, subgroups or ways to load that this one lacks".to_owned();
        let shape = trainer.session.shape();
        let there = chosen_there.map(|traits| TrainProgram::tuned(shape, traits, &self.contents.tuning));
        for train in there.into_iter().chain([trainer.program()]) {
            reason = match self.other_op(&train, submits) {
                Some(other) => other,
                None => match Replay::load(&train, &trainer.load, before) {
                    Ok(replay) => return Ok(Ok((train, replay))),
                    Err(error) => format!("what ran there cannot be loaded here ({error})"),
                },
            };
        }
        Ok(Err(reason))
    }

    /// The first operation of a program that is not the one in the file.
    fn other_op(&self, train: &TrainProgram, submits: &[Submit]) -> Option<String> {
        let kept = &self.contents.ops;
        if kept.len() != submits.len() {
            return Some(format!("the step has {} submits there, and {} here", kept.len(), submits.len()));
        }
        submits.iter().zip(kept).find_map(|(submit, kept)| {
            let here = ops_of(&train.program, submit);
            let name = &train.program.recordings[submit.recording.0].name;
            let place = (0..kept.len().max(here.len())).find(|&place| kept.get(place) != here.get(place))?;
            let kernel = |ops: &[KeptOp]| ops.get(place).map_or("nothing".to_owned(), |op| op.kernel.clone());
            let (there, here) = (kernel(kept), kernel(&here));
            Some(match there == here {
                true => format!("dispatch {place} of {name} is {there} with other numbers"),
                false => format!("dispatch {place} of {name} is {there} there, and {here} here"),
            })
        })
    }
}

fn other_input(name: &str, words: u64) -> Met {
    Met::OtherOps(format!("the input {name} has {words} words there, and not here"))
}

/// What the words of an input are: all are whole numbers but the learning rate and its company.
fn element_of(upload: &str) -> Element {
    if upload == "schedule" { Element::F32 } else { Element::U32 }
}
