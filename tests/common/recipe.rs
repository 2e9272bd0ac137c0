//! A tiny training that is verified, and executors that go wrong in it.

#![allow(dead_code)] // each test binary uses a part

use hlx::config::{TrainConfig, TrainOptions};
use hlx::cpu::CpuExecutor;
use hlx::data::Dataset;
use hlx::error::Result;
use hlx::recording::{BufferId, Executor, RecordingId, Ticket, View};
use hlx::train::init::{initial_parameters, initial_state};
use hlx::train::program::TrainProgram;
use hlx::train::run::{feed, schedule, step_shape, total_steps};
use hlx::train::session::{Session, StepRates, TrainState};
use hlx::train::verify::Trainer;

pub const STEPS: u64 = 4;
pub const RUNS: u64 = 3;

/// What every trainer trains.
pub struct Recipe {
    pub config: TrainConfig,
    pub data: Dataset,
    pub initial: TrainState,
}

impl Recipe {
    /// A tiny model on the bundled text, with dropout and accumulation.
    pub fn new() -> Recipe {
        Recipe::of(TrainOptions {
            n_layer: Some(1),
            d_model: Some(16),
            n_head: Some(2),
            context: Some(8),
            batch_size: Some(2),
            grad_accum: Some(2),
            dropout: Some(0.1),
            steps: Some(STEPS),
            val_fraction: Some(0.0),
            ..TrainOptions::default()
        })
    }

    /// What these options give, on the bundled text.
    pub fn of(options: TrainOptions) -> Recipe {
        let config = TrainConfig::resolve(options, None).expect("these options are sound");
        let data = Dataset::load(&config, None).expect("the bundled text is always there");
        let model = config.model_config(data.tokenizer.vocab_size());
        Recipe { initial: initial_state(initial_parameters(&model, config.seed)), config, data }
    }

    pub fn trainer(&self, device: &str, fault: Fault) -> Trainer<'_> {
        let shape = step_shape(&self.config, self.data.tokenizer.vocab_size());
        let feed = feed(&self.config, &self.data).expect("the bundled text is long enough");
        let session =
            Session::new(shape, CpuExecutor::TRAITS, |train| Ok(Box::new(Faulty::new(train, fault)?)));
        Trainer {
            device: device.to_owned(),
            session: session.expect("a tiny model fits"),
            schedule: schedule(&self.config, total_steps(&self.config, &feed)),
            feed,
            weight_decay: self.config.weight_decay,
            initial: &self.initial,
            traits: CpuExecutor::TRAITS,
            load: Box::new(|program| Ok(Box::new(CpuExecutor::load(program)?))),
        }
    }

    /// The state and the loss after some steps without a fault.
    pub fn trained(&self, steps: u64) -> (TrainState, f32) {
        let mut trainer = self.trainer("sound", Fault::None);
        trainer.session.load_state(trainer.initial).expect("a state of this shape");
        let mut loss = 0.0;
        for step in 0..steps {
            let rates = StepRates { lr: trainer.schedule.lr(step), weight_decay: trainer.weight_decay };
            let micros = trainer.feed.micro_batches(step);
            loss = trainer.session.step_now(micros, rates).expect("a step").loss;
        }
        (trainer.session.state().expect("a state"), loss)
    }
}

/// What goes wrong. Steps are counted over all runs of one executor, from 1.
pub enum Fault {
    None,
    /// A bit of the state is another after one step.
    State {
        step: u64,
        tensor: usize,
        element: usize,
        bit: u32,
    },
    /// What a step reports, its loss and its gradient norm first, is changed by this.
    Report(fn(u64, &mut [u32])),
}

/// The CPU executor with a fault.
struct Faulty {
    inner: CpuExecutor,
    fault: Fault,
    update: RecordingId,
    results: BufferId,
    /// Where the faulty element lies, if the fault is one of the state.
    tensor: Option<View>,
    /// Updates made so far.
    steps: u64,
}

impl Faulty {
    fn new(train: &TrainProgram, fault: Fault) -> Result<Faulty> {
        let arena = &train.model.arena;
        let tensor = match fault {
            Fault::State { tensor, .. } => {
                let buffer = [train.model.params, train.m, train.v][tensor / arena.specs.len()];
                Some(arena.view(buffer, &arena.specs[tensor % arena.specs.len()].name))
            }
            _ => None,
        };
        Ok(Faulty {
            inner: CpuExecutor::load(train.program.clone())?,
            fault,
            update: train.update.recording,
            results: train.update.results.buffer,
            tensor,
            steps: 0,
        })
    }
}

impl Executor for Faulty {
    fn write(&mut self, view: View, words: &[u32]) -> Result<()> {
        self.inner.write(view, words)
    }

    fn read(&mut self, view: View) -> Result<Vec<u32>> {
        self.inner.read(view)
    }

    fn submit(&mut self, recording: RecordingId, uploads: &[(BufferId, &[u32])]) -> Result<Ticket> {
        let ticket = self.inner.submit(recording, uploads)?;
        if recording == self.update {
            self.steps += 1;
            if let (Fault::State { step, element, bit, .. }, Some(view)) = (&self.fault, self.tensor)
                && self.steps == *step
            {
                let mut words = self.inner.read(view)?;
                words[*element] ^= 1 << bit;
                self.inner.write(view, &words)?;
            }
        }
        Ok(ticket)
    }

    fn fetch(&mut self, ticket: Ticket, buffer: BufferId) -> Result<Vec<u32>> {
        let mut words = self.inner.fetch(ticket, buffer)?;
        if let Fault::Report(change) = self.fault
            && buffer == self.results
        {
            change(self.steps, &mut words);
        }
        Ok(words)
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
