//! A training session: one executor with a loaded step, its state in and out, steps and evaluations.

use std::collections::VecDeque;

use crate::checkpoint::Checkpoint;
use crate::data::batches::sort_positions;
use crate::error::Result;
use crate::ops::adam::{NONE_SPOILED, schedule_words};
use crate::ops::gemm::Tuning;
use crate::recording::{BufferId, Executor, RecordingId, Ticket, Traits};
use crate::train::finite::{self, Health, Place};
use crate::train::program::{Micro, StepShape, TrainProgram};

/// Parameters and moments on the host, each in the canonical order of parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainState {
    /// The parameters.
    pub params: Vec<Vec<f32>>,
    /// AdamW's first moments.
    pub m: Vec<Vec<f32>>,
    /// AdamW's second moments.
    pub v: Vec<Vec<f32>>,
    /// Updates made so far.
    pub step: u64,
}

impl TrainState {
    /// The state that a checkpoint holds.
    pub fn of(checkpoint: &Checkpoint) -> TrainState {
        let Checkpoint { model, m, v, state, .. } = checkpoint;
        TrainState { params: model.tensors.clone(), m: m.clone(), v: v.clone(), step: state.step }
    }

    /// Every tensor: parameters, first moments, second moments, each in canonical order.
    pub fn tensors(&self) -> impl Iterator<Item = &Vec<f32>> {
        [&self.params, &self.m, &self.v].into_iter().flatten()
    }
}

/// Tokens of one micro-batch: B*T each.
#[derive(Clone, Debug, Default)]
pub struct MicroBatch {
    /// What the model sees.
    pub tokens: Vec<u32>,
    /// What it is to predict: the tokens one further on.
    pub targets: Vec<u32>,
}

/// What changes from step to step beside the tokens.
#[derive(Clone, Copy, Debug)]
pub struct StepRates {
    /// Learning rate.
    pub lr: f64,
    /// AdamW's decay of matrices, before it is multiplied by the learning rate.
    pub weight_decay: f64,
}

/// One submit of a step: a recording and the whole content of each upload buffer that it reads.
#[derive(Clone, Debug)]
pub struct Submit {
    /// What to run.
    pub recording: RecordingId,
    /// Every upload buffer that it reads, and its words.
    pub uploads: Vec<(BufferId, Vec<u32>)>,
}

/// What a finished step reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// The step's number, from 1.
    pub step: u64,
    /// Mean over every position of the whole batch.
    pub loss: f32,
    /// Before clipping.
    pub grad_norm: f32,
}

/// A loaded training step and the state it works on.
pub struct Session {
    shape: StepShape,
    /// The program and where its state lies.
    pub train: TrainProgram,
    executor: Box<dyn Executor>,
    /// Updates submitted so far.
    step: u64,
    in_flight: VecDeque<(u64, Ticket)>,
}

/// How many steps the host may be ahead of the device.
pub const STEPS_AHEAD: usize = 2;

impl Session {
    /// `load` makes the executor for the program; it is where the device's memory is taken.
    pub fn new(
        shape: StepShape,
        traits: Traits,
        load: impl FnOnce(&TrainProgram) -> Result<Box<dyn Executor>>,
    ) -> Result<Session> {
        Session::tuned(shape, traits, &Tuning::default(), load)
    }

    /// The same, with products as a tuning says.
    pub fn tuned(
        shape: StepShape,
        traits: Traits,
        tuning: &Tuning,
        load: impl FnOnce(&TrainProgram) -> Result<Box<dyn Executor>>,
    ) -> Result<Session> {
        let train = TrainProgram::tuned(&shape, traits, tuning);
        let executor = load(&train)?;
        Ok(Session { shape, train, executor, step: 0, in_flight: VecDeque::new() })
    }

    /// Updates submitted so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What decided the recordings.
    pub fn shape(&self) -> &StepShape {
        &self.shape
    }

    /// Replaces parameters, moments and the step count.
    pub fn load_state(&mut self, state: &TrainState) -> Result<()> {
        let arena = &self.train.model.arena;
        self.executor.write(self.train.model.params, &arena.pack(&state.params))?;
        self.executor.write(self.train.m, &arena.pack(&state.m))?;
        self.executor.write(self.train.v, &arena.pack(&state.v))?;
        self.step = state.step;
        self.in_flight.clear();
        Ok(())
    }

    /// Copies the state out, after every step submitted so far. Call [`Session::drain`] first and
    /// look at its results: a state is worth keeping only if they are finite.
    pub fn state(&mut self) -> Result<TrainState> {
        let arena = &self.train.model.arena;
        Ok(TrainState {
            params: arena.unpack(&self.executor.read(self.train.model.params)?),
            m: arena.unpack(&self.executor.read(self.train.m)?),
            v: arena.unpack(&self.executor.read(self.train.v)?),
            step: self.step,
        })
    }

    /// Submits one step over `grad_accum` micro-batches and returns the results of a step that the
    /// device has finished meanwhile, at most [`STEPS_AHEAD`] steps back.
    pub fn step_ahead(&mut self, micros: &[MicroBatch], rates: StepRates) -> Result<Option<StepResult>> {
        assert_eq!(micros.len(), self.shape.grad_accum, "a step has grad_accum micro-batches");
        let mut ticket = None;
        for submit in self.submits(self.step, micros, rates) {
            let uploads: Vec<_> =
                submit.uploads.iter().map(|(buffer, words)| (*buffer, &words[..])).collect();
            ticket = Some(self.executor.submit(submit.recording, &uploads)?);
        }
        let ticket = ticket.expect("a step ends in its update");
        self.step += 1;
        self.in_flight.push_back((self.step, ticket));
        let ahead = if self.executor.is_synchronous() { 0 } else { STEPS_AHEAD };
        if self.in_flight.len() > ahead { self.oldest() } else { Ok(None) }
    }

    /// Waits for the steps in flight and returns their results.
    pub fn drain(&mut self) -> Result<Vec<StepResult>> {
        let mut results = Vec::new();
        while let Some(result) = self.oldest()? {
            results.push(result);
        }
        Ok(results)
    }

    /// One step, waited for.
    pub fn step_now(&mut self, micros: &[MicroBatch], rates: StepRates) -> Result<StepResult> {
        let early = self.step_ahead(micros, rates)?;
        let mut results: Vec<StepResult> = early.into_iter().chain(self.drain()?).collect();
        Ok(results.pop().expect("a step was submitted"))
    }

    /// Losses `[B*T]` of one batch, without training. Targets equal to
    /// [`IGNORE`](crate::ops::cross_entropy::IGNORE) give 0.
    pub fn losses(&mut self, batch: &MicroBatch) -> Result<Vec<f32>> {
        let evaluation = &self.train.evaluation;
        let uploads = [
            (evaluation.inputs.tokens.buffer, &batch.tokens[..]),
            (evaluation.inputs.targets.buffer, &batch.targets[..]),
            (evaluation.inputs.step_number.buffer, &[0, 0][..]),
        ];
        let ticket = self.executor.submit(evaluation.recording, &uploads)?;
        let words = self.executor.fetch(ticket, evaluation.losses.buffer)?;
        Ok(bytemuck::cast_slice(&words).to_vec())
    }

    /// Logits `[rows,V]` of the batch last given to [`Session::losses`]; of its last rows where there are so
    /// many that they are worked on in parts.
    pub fn logits(&mut self) -> Result<Vec<f32>> {
        let words = self.executor.read(self.train.model.logits())?;
        Ok(bytemuck::cast_slice(&words).to_vec())
    }

    /// What the step after `step` steps submits: its micro-batches, then the update.
    pub fn submits(&self, step: u64, micros: &[MicroBatch], rates: StepRates) -> Vec<Submit> {
        let first = step * self.shape.grad_accum as u64;
        let mut submits: Vec<Submit> = micros
            .iter()
            .zip(first..)
            .map(|(micro, number)| self.micro(number > first, number, micro))
            .collect();
        let StepShape { beta1, beta2, .. } = self.shape;
        let words = schedule_words(step + 1, rates.lr, beta1, beta2, rates.weight_decay);
        let update = &self.train.update;
        submits.push(Submit {
            recording: update.recording,
            uploads: vec![(update.schedule.buffer, words.to_vec())],
        });
        submits
    }

    /// `number` counts micro-batches since the start of training: dropout draws by it.
    fn micro(&self, further: bool, number: u64, micro: &MicroBatch) -> Submit {
        let Micro { recording, inputs, sorted, .. } = match (further, &self.train.next) {
            (true, Some(next)) => next,
            _ => &self.train.first,
        };
        let vocab_size = self.shape.model.vocab_size;
        let (mut order, mut starts) = (vec![0; micro.tokens.len()], vec![0; vocab_size + 1]);
        sort_positions(&micro.tokens, vocab_size, &mut order, &mut starts);
        let uploads = vec![
            (inputs.tokens.buffer, micro.tokens.clone()),
            (inputs.targets.buffer, micro.targets.clone()),
            (inputs.step_number.buffer, vec![number as u32, (number >> 32) as u32]),
            (sorted.order.buffer, order),
            (sorted.starts.buffer, starts),
        ];
        Submit { recording: *recording, uploads }
    }

    fn oldest(&mut self) -> Result<Option<StepResult>> {
        let Some((step, ticket)) = self.in_flight.pop_front() else { return Ok(None) };
        let words = self.executor.fetch(ticket, self.train.update.results.buffer)?;
        let [loss, grad_norm, sum_of_squares] = [0, 1, 2].map(|i| f32::from_bits(words[i]));
        let spoiled = self.executor.fetch(ticket, self.train.update.spoiled.buffer)?[0];
        let health = Health { loss, grad_norm, sum_of_squares, spoiled };
        match health.fault() {
            None if health.is_gradient_too_large() => Err(finite::gradient_too_large(step, sum_of_squares)),
            None => Ok(Some(StepResult { step, loss, grad_norm })),
            Some(what) => {
                let (tensor, operation) = (self.first_not_finite(spoiled)?, self.first_operation()?);
                Err(finite::not_finite(what, step, Place { tensor, operation }))
            }
        }
    }

    /// The first operation of the last step whose result holds a number that is not finite.
    fn first_operation(&mut self) -> Result<Option<String>> {
        let TrainProgram { first, next, update, .. } = &self.train;
        let micros = [Some(first), next.as_ref()].into_iter().flatten().map(|micro| micro.recording);
        let recordings: Vec<RecordingId> = micros.chain([update.recording]).collect();
        for remains in finite::remains(&self.train.program, &recordings) {
            if remains.are_broken(&self.executor.read(remains.view)?) {
                return Ok(Some(remains.operation));
            }
        }
        Ok(None)
    }

    /// The first tensor that is not finite after a step that met such a number. The update left out what
    /// it would have spoiled, so the state still shows where it began.
    fn first_not_finite(&mut self, spoiled: u32) -> Result<Option<String>> {
        let state = self.state()?;
        let arena = &self.train.model.arena;
        if let Some(name) = finite::first_in_state(&arena.specs, &state) {
            return Ok(Some(name));
        }
        if spoiled != NONE_SPOILED {
            return Ok(Some(arena.parameter_at(spoiled as usize).name.clone()));
        }
        let grads = arena.unpack(&self.executor.read(self.train.grads)?);
        Ok(finite::first_in_gradients(&arena.specs, &grads))
    }
}
