//! Whole training steps of a preset on random tokens, the host running ahead as in training.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::super::backend::{Backend, COPIES_TO_TRAIN, plan};
use super::super::tune::Tuner;
use super::kernels::{KernelGroup, by_kernel};
use super::loaded::{Loaded, Shared};
use super::median;
use super::peaks::is_gpu;
use crate::config::{ModelConfig, Precision, Preset, TrainConfig, TrainOptions};
use crate::error::Result;
use crate::exact::random_u32;
use crate::ops::gemm::Tuning;
use crate::recording::Executor;
use crate::train::init::{initial_parameters, initial_state};
use crate::train::program::{StepShape, TrainProgram};
use crate::train::run::step_shape;
use crate::train::session::{MicroBatch, STEPS_AHEAD, Session, StepRates};
use crate::vulkan::Busy;

/// How long steps are taken, when nobody says how many, and how many at least and at most.
const TIMED: Duration = Duration::from_secs(2);
const FEWEST_STEPS: usize = 10;
const MOST_STEPS: usize = 500;

/// Steps that are not counted: the first two of each recording go dispatch by dispatch.
const WARM: Duration = Duration::from_millis(300);
const WARM_STEPS: usize = 2 + STEPS_AHEAD;

/// How long steps are logged for how busy the device is, and how many at least and at most.
const LOGGED_MS: f64 = 1000.0;
const FEWEST_LOGGED: usize = 5;
const MOST_LOGGED: usize = 30;

/// Submits of one step at most: a long recording is several.
const SUBMITS_A_STEP: usize = 64;

/// Different batches, taken in turns.
const BATCHES: usize = 4;

/// Which steps to take.
#[derive(Clone, Debug)]
pub struct StepsQuestion {
    pub model: Preset,
    pub precision: Precision,
    /// Windows; `None`: what suits the device.
    pub batch_size: Option<usize>,
    /// Tokens of a window; `None`: the preset's.
    pub context: Option<usize>,
    pub vocab_size: usize,
    /// Steps to time; `None`: as many as [`TIMED`] takes.
    pub steps: Option<usize>,
    /// Time each dispatch of a step as well.
    pub kernels: bool,
}

/// What the steps took.
pub struct StepsMeasured {
    pub model: ModelConfig,
    pub batch_size: usize,
    /// Steps timed.
    pub steps: usize,
    pub step_ms: f64,
    pub mean_step_ms: f64,
    /// How busy the device was over some further steps, and how many: on Vulkan.
    pub busy: Option<(Busy, usize)>,
    /// All that the program takes.
    pub memory_bytes: u64,
    /// Of the last step.
    pub loss: f32,
    /// The dispatches of one step, if they were asked for.
    pub kernels: Option<Vec<KernelGroup>>,
}

impl StepsMeasured {
    pub fn tokens_per_second(&self) -> f64 {
        (self.batch_size * self.model.context) as f64 / self.step_ms * 1e3
    }

    pub fn gflops(&self) -> f64 {
        flops_per_token(&self.model) * self.tokens_per_second() * 1e-9
    }
}

/// Multiplications and additions that training on one token takes: 6 for each weight of a matrix, forward and
/// backward together, and 6 L d T for attention, of which causality leaves half.
pub fn flops_per_token(model: &ModelConfig) -> f64 {
    let ModelConfig { vocab_size, context, d_model: d, n_layer, d_ff, .. } = *model;
    let weights = n_layer * (4 * d * d + 2 * d * d_ff) + vocab_size * d;
    6.0 * weights as f64 + 6.0 * (n_layer * d) as f64 * context as f64
}

/// Windows of a step where nobody says how many: much for a GPU, little for a processor.
fn usual_batch(backend: &Backend, model: Preset) -> usize {
    match (is_gpu(backend), model) {
        (true, Preset::Nano | Preset::Tiny | Preset::Small) => 64,
        (true, Preset::Medium) => 32,
        (true, Preset::Gpt2) => 16,
        (false, Preset::Nano) => 12,
        (false, Preset::Tiny) => 16,
        (false, _) => 4,
    }
}

impl StepsQuestion {
    /// The steps' shape.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::error::Error::Usage) for options that no device could keep.
    pub fn shape(&self, backend: &Backend) -> Result<StepShape> {
        let options = TrainOptions {
            model: Some(self.model),
            precision: Some(self.precision),
            batch_size: Some(self.batch_size.unwrap_or_else(|| usual_batch(backend, self.model))),
            context: self.context,
            ..TrainOptions::default()
        };
        Ok(step_shape(&TrainConfig::resolve(options, None)?, self.vocab_size))
    }

    /// Refuses what does not fit the device.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::error::Error::Usage), with the largest batch that fits.
    pub fn check_fit(&self, backend: &Backend) -> Result<()> {
        let (shape, traits) = (self.shape(backend)?, backend.traits(self.precision));
        let program =
            |batch_size| TrainProgram::new(&StepShape { batch_size, ..shape.clone() }, traits).program;
        plan(backend, &shape.model, shape.batch_size, "", COPIES_TO_TRAIN, program).map(|_| ())
    }

    /// Loads the steps and takes them. [`StepsQuestion::check_fit`] has passed.
    pub fn measure(&self, backend: &Backend, tuner: &mut Tuner) -> Result<StepsMeasured> {
        let shape = self.shape(backend)?;
        let (_, tuning) = tuner.plan(backend, &shape, self.precision, "", COPIES_TO_TRAIN)?;
        let mut steps = Steps::new(backend, self.precision, shape, &tuning)?;
        let (times, loss) = steps.timed(self.steps)?;
        let step_ms = median(&times);
        let busy = steps.busy((LOGGED_MS / step_ms) as usize)?;
        let kernels = if self.kernels { Some(steps.kernels()?) } else { None };
        Ok(StepsMeasured {
            batch_size: steps.session.shape().batch_size,
            steps: times.len(),
            step_ms,
            mean_step_ms: times.iter().sum::<f64>() / times.len() as f64,
            busy,
            memory_bytes: steps.memory_bytes(),
            loss,
            kernels,
            model: steps.session.shape().model.clone(),
        })
    }
}

/// A session that trains on random tokens, and its executor, looked into between steps.
struct Steps {
    session: Session,
    loaded: Rc<RefCell<Loaded>>,
    batches: Vec<[MicroBatch; 1]>,
    taken: usize,
}

const RATES: StepRates = StepRates { lr: 1e-3, weight_decay: 0.1 };

impl Steps {
    fn new(backend: &Backend, precision: Precision, shape: StepShape, tuning: &Tuning) -> Result<Steps> {
        let mut shared = None;
        let parameters = initial_parameters(&shape.model, shape.seed);
        let tokens = shape.batch_size * shape.model.context;
        let vocab_size = shape.model.vocab_size as u32;
        let mut session = Session::tuned(shape, backend.traits(precision), tuning, |train| {
            let loaded = Rc::new(RefCell::new(Loaded::load(backend, train.program.clone())?));
            shared = Some(Rc::clone(&loaded));
            Ok(Box::new(Shared(loaded)) as Box<dyn Executor>)
        })?;
        session.load_state(&initial_state(parameters))?;
        let draw = |batch: usize, purpose: u32| {
            (0..tokens as u32).map(|i| random_u32(1, purpose, batch as u64, i) % vocab_size).collect()
        };
        let batch = |i: usize| [MicroBatch { tokens: draw(i, 0), targets: draw(i, 1) }];
        let batches = (0..BATCHES).map(batch).collect();
        Ok(Steps { session, loaded: shared.expect("a session loads its program"), batches, taken: 0 })
    }

    /// One step; the loss of an earlier one, once there is one.
    fn step(&mut self) -> Result<Option<f32>> {
        let result = self.session.step_ahead(&self.batches[self.taken % BATCHES], RATES)?;
        self.taken += 1;
        Ok(result.map(|result| result.loss))
    }

    /// Milliseconds of each of some steps on a warm device, and the last loss. While the host is ahead, each
    /// step submitted waits for one to finish.
    fn timed(&mut self, steps: Option<usize>) -> Result<(Vec<f64>, f32)> {
        let start = Instant::now();
        while self.taken < WARM_STEPS || start.elapsed() < WARM {
            self.step()?;
        }
        let (start, mut last) = (Instant::now(), Instant::now());
        let (mut times, mut loss) = (Vec::new(), f32::NAN);
        let enough = |taken: usize| match steps {
            Some(steps) => taken == steps,
            None => taken >= FEWEST_STEPS && (start.elapsed() >= TIMED || taken >= MOST_STEPS),
        };
        while !enough(times.len()) {
            loss = self.step()?.unwrap_or(loss);
            let now = Instant::now();
            times.push((now - last).as_secs_f64() * 1e3);
            last = now;
        }
        self.session.drain()?;
        Ok((times, loss))
    }

    /// Some more steps with each submit's beginning and end by the device's clock.
    fn busy(&mut self, steps: usize) -> Result<Option<(Busy, usize)>> {
        let steps = steps.clamp(FEWEST_LOGGED, MOST_LOGGED);
        match &mut *self.loaded.borrow_mut() {
            Loaded::Cpu(_) => return Ok(None),
            Loaded::Vulkan(executor) => executor.start_submit_log(steps * SUBMITS_A_STEP)?,
        }
        for _ in 0..steps {
            self.step()?;
        }
        self.session.drain()?;
        match &mut *self.loaded.borrow_mut() {
            Loaded::Cpu(_) => Ok(None),
            Loaded::Vulkan(executor) => Ok(executor.end_submit_log()?.map(|busy| (busy, steps))),
        }
    }

    /// The dispatches of one step, grouped.
    fn kernels(&mut self) -> Result<Vec<KernelGroup>> {
        let submits = self.session.submits(self.taken as u64, &self.batches[0], RATES);
        by_kernel(&mut self.loaded.borrow_mut(), &submits)
    }

    fn memory_bytes(&self) -> u64 {
        self.loaded.borrow().program().bytes_by_group().values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flops_of_gpt2_are_those_of_the_formula() {
        // 12 layers of 12 d^2 weights and the tied output matrix; attention at half.
        let weights = 12.0 * 12.0 * 768.0 * 768.0 + 50304.0 * 768.0;
        let attention = 12.0 * 768.0 * 1024.0;
        assert_eq!(flops_per_token(&Preset::Gpt2.config(50304)), 6.0 * (weights + attention));
    }
}
