//! The training loop: steps, and between them the measurements, the reports and the saves.

use std::path::PathBuf;
use std::time::Instant;

use crate::checkpoint::{Checkpoint, FORMAT_VERSION, RunFolder, RunState, Since};
use crate::config::{CheckpointEvery, Length, Precision, TrainConfig};
use crate::data::{Dataset, EvaluationWindows, TrainingWindows};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::kernels::kernels_hash;
use crate::model::parameters::ModelState;
use crate::report::{MetricsFile, Progress, StepMetrics, StepReport};
use crate::train::digest::{StateDigest, digest};
use crate::train::evaluate::evaluate;
use crate::train::feed::Feed;
use crate::train::finite::{Place, first_in_state, not_finite};
use crate::train::program::StepShape;
use crate::train::schedule::Schedule;
use crate::train::session::{Session, StepRates, StepResult, TrainState};
use crate::train::verify::{Chain, StepRecord};

/// What the loop needs to know.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    /// What was asked for.
    pub config: &'a TrainConfig,
    /// What to train and validate on.
    pub data: &'a Dataset,
    /// Where results go.
    pub folder: &'a RunFolder,
    /// Whether the user wants to stop.
    pub interrupt: &'a Interrupt,
    /// The state that the session starts from.
    pub start: &'a TrainState,
    /// Where the run stood when its checkpoint was saved; `None` for a new run.
    pub resumed: Option<&'a RunState>,
    /// The name and the driver of the device that it runs on.
    pub device: [&'a str; 2],
}

/// What a finished run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Steps taken since the start of the run.
    pub steps: u64,
    /// Of the last step, in nats a token.
    pub train_loss: f64,
    /// After the last step, if there is validation text.
    pub val_loss: Option<f64>,
    /// Over the steps taken now, without evaluations and saves.
    pub tokens_per_second: f64,
    /// The last checkpoint's folder.
    pub checkpoint: PathBuf,
    /// Over every parameter and moment after the last step.
    pub digest: String,
    /// The trained parameters in canonical order.
    pub params: Vec<Vec<f32>>,
}

/// The shape of a configuration's training step, for a vocabulary of this size.
pub fn step_shape(config: &TrainConfig, vocab_size: usize) -> StepShape {
    StepShape {
        model: config.model_config(vocab_size),
        batch_size: config.batch_size,
        grad_accum: config.grad_accum,
        beta1: config.beta1,
        beta2: config.beta2,
        eps: config.eps,
        grad_clip: config.grad_clip,
        seed: config.seed,
    }
}

/// What a configuration feeds each step with.
pub fn feed<'a>(config: &TrainConfig, data: &'a Dataset) -> Result<Feed<'a>> {
    let windows = TrainingWindows::new(data.train.len(), config.context(), config.seed, &data.name)?;
    Ok(Feed::new(&data.train, windows, config.batch_size, config.grad_accum, config.context()))
}

/// The steps of the whole run.
pub fn total_steps(config: &TrainConfig, feed: &Feed) -> u64 {
    match config.length {
        Length::Steps(steps) => steps,
        Length::Epochs(epochs) => feed.steps_of_epochs(epochs),
    }
}

/// The learning rates of a run of `total_steps` steps.
pub fn schedule(config: &TrainConfig, total_steps: u64) -> Schedule {
    Schedule { lr: config.lr, min_lr: config.min_lr, warmup_steps: config.warmup_steps, total_steps }
}

/// True if a run that goes on from `state` with this configuration comes to what it would have come to
/// without a break.
fn is_continued(state: &RunState, config: &TrainConfig, [name, driver]: [&str; 2]) -> Result<bool> {
    Ok(state.training_hash == config.training_hash()?
        && state.kernels_hash == kernels_hash(config.precision)
        && state.other_device(name, driver).is_none()
        // What an older hlx wrote says which step this holds from, but not which checkpoint of that step.
        && state.unbroken_since.as_ref().is_none_or(|since| since.digest.is_some()))
}

/// BLAKE3 of token ids: tells whether a resumed run sees the same text.
pub fn hash_tokens(tokens: &[u32]) -> String {
    let mut hasher = blake3::Hasher::new();
    for chunk in tokens.chunks(4096) {
        let bytes: Vec<u8> = chunk.iter().flat_map(|token| token.to_le_bytes()).collect();
        hasher.update(&bytes);
    }
    hasher.finalize().to_hex().to_string()
}

/// A run under way.
pub struct Run<'a> {
    setup: Setup<'a>,
    session: Session,
    feed: Feed<'a>,
    schedule: Schedule,
    metrics: MetricsFile,
    progress: Progress,
    corpus_hash: String,
    unbroken_since: Option<Since>,
    init_digest: Option<String>,
    chain: Chain,
    clock: Clock,
    /// The newest step that has finished, with its time in seconds.
    unreported: Option<(StepResult, f64)>,
    train_loss: f64,
    /// Measured after the newest step, if it was.
    val_loss: Option<f64>,
    /// Measured last.
    shown_val_loss: Option<f64>,
    /// The lowest validation loss of a checkpoint, and its step.
    best: Option<(f64, u64)>,
    /// The state of the newest checkpoint saved.
    saved: Option<RunState>,
}

/// The time that steps take, with evaluations and saves left out.
struct Clock {
    last: Instant,
    steps: u64,
    seconds: f64,
}

impl Clock {
    /// `steps` steps are done: the time that each took since the last or a pause, in seconds.
    fn steps(&mut self, steps: u64) -> f64 {
        let seconds = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        self.steps += steps;
        self.seconds += seconds;
        seconds / steps as f64
    }

    /// Leaves out what passed since the last step.
    fn resume(&mut self) {
        self.last = Instant::now();
    }
}

impl<'a> Run<'a> {
    /// A run on a session that holds nothing yet.
    pub fn new(setup: Setup<'a>, mut session: Session) -> Result<Run<'a>> {
        let feed = feed(setup.config, setup.data)?;
        let total = total_steps(setup.config, &feed);
        let path = setup.folder.metrics_file();
        let metrics = match setup.resumed {
            None => MetricsFile::create(setup.folder.storage(), &path)?,
            Some(state) => MetricsFile::resume(setup.folder.storage(), &path, state.step)?,
        };
        session.load_state(setup.start)?;
        let start_digest = || digest(&session.train.model.arena.specs, setup.start);
        let (unbroken_since, init_digest) = match setup.resumed {
            Some(state) if is_continued(state, setup.config, setup.device)? => {
                (state.unbroken_since.clone(), state.init_digest.clone())
            }
            Some(state) => {
                let since = Since { step: state.step, digest: Some(start_digest()) };
                (Some(since), state.init_digest.clone())
            }
            None => (None, setup.config.init_from.is_some().then(start_digest)),
        };
        let best = setup.resumed.and_then(|state| state.best_val_loss.zip(state.best_step));
        Ok(Run {
            schedule: schedule(setup.config, total),
            progress: Progress::new(setup.start.step, total),
            corpus_hash: hash_tokens(&setup.data.train),
            unbroken_since,
            init_digest,
            chain: Chain { links: setup.resumed.map_or(vec![], |state| state.chain.clone()) },
            clock: Clock { last: Instant::now(), steps: 0, seconds: 0.0 },
            unreported: None,
            train_loss: f64::NAN,
            val_loss: None,
            shown_val_loss: None,
            best,
            saved: None,
            setup,
            session,
            feed,
            metrics,
        })
    }

    /// Trains to the end.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after the user asked to stop and the state was saved; [`Error::Input`]
    /// if a loss, a gradient or the state is not finite; whatever a file or the device reports.
    pub fn train(&mut self) -> Result<Outcome> {
        self.clock.resume();
        let outcome = self.take_steps();
        self.progress.finish();
        outcome
    }

    /// The state of the newest checkpoint that this run has saved.
    pub fn last_saved(&self) -> Option<&RunState> {
        self.saved.as_ref()
    }

    fn take_steps(&mut self) -> Result<Outcome> {
        loop {
            self.submit()?;
            let step = self.session.step();
            let last = step == self.schedule.total_steps;
            let stop = self.setup.interrupt.requested() && !last;
            let due = last || self.is_save_due(step);
            let save = due || stop;
            // A user who stops the run waits: then only what would have been measured anyway is.
            let measure = due || self.is_evaluation_due(step);
            let digest = is_due(self.setup.config.digest_every, step);
            if !save && !measure && !digest {
                continue;
            }
            let last_step = self.catch_up(measure)?;
            if digest {
                self.add_link(last_step)?;
            }
            let saved = if save { Some(self.save()?) } else { None };
            self.clock.resume();
            match saved {
                Some((folder, _)) if stop => return Err(self.interrupted(step, folder)),
                Some((folder, state)) if last => return Ok(self.outcome(folder, state)),
                _ => {}
            }
        }
    }

    /// Sends the next step to the device and reports what has finished meanwhile.
    fn submit(&mut self) -> Result<()> {
        let step = self.session.step();
        let rates = StepRates { lr: self.schedule.lr(step), weight_decay: self.setup.config.weight_decay };
        if let Some(result) = self.session.step_ahead(self.feed.micro_batches(step), rates)? {
            let seconds = self.clock.steps(1);
            self.finished(result, seconds)?;
        }
        Ok(())
    }

    /// Takes note of a finished step. It is reported when the next one has finished, or with the
    /// validation loss that was measured after it.
    fn finished(&mut self, result: StepResult, seconds: f64) -> Result<()> {
        match self.unreported.replace((result, seconds)) {
            Some((earlier, seconds)) => self.report(earlier, None, seconds),
            None => Ok(()),
        }
    }

    /// Waits for the steps in flight and reports them, the last with the validation loss, if one is
    /// to be measured and there is text to measure it on.
    fn catch_up(&mut self, measure: bool) -> Result<StepResult> {
        let results = self.session.drain()?;
        if !results.is_empty() {
            let seconds = self.clock.steps(results.len() as u64);
            results.into_iter().try_for_each(|result| self.finished(result, seconds))?;
        }
        let (last, seconds) = self.unreported.take().expect("a step was submitted");
        self.val_loss = if measure { self.measure()? } else { None };
        self.shown_val_loss = self.val_loss.or(self.shown_val_loss);
        self.report(last, self.val_loss, seconds)?;
        Ok(last)
    }

    /// Adds the state after the last step to the chain of digests.
    fn add_link(&mut self, last: StepResult) -> Result<()> {
        let state = StateDigest::of(&self.session.state()?);
        let record = StepRecord { loss: last.loss, grad_norm: last.grad_norm, state };
        self.chain.add(&record, &self.session.train.model.arena.specs);
        Ok(())
    }

    fn measure(&mut self) -> Result<Option<f64>> {
        let (context, tokens) = (self.setup.config.context(), &self.setup.data.validation);
        if tokens.is_empty() {
            return Ok(None);
        }
        let windows = EvaluationWindows::new(tokens.len(), context, "the validation text")?;
        let words = self.setup.config.batch_size * context;
        let losses = |batch: &_| self.session.losses(batch);
        let loss = evaluate(tokens, &windows, words, context, losses)?.loss;
        if !loss.is_finite() {
            return Err(not_finite("the validation loss", self.session.step(), Place::default()));
        }
        Ok(Some(loss))
    }

    fn report(&mut self, result: StepResult, val_loss: Option<f64>, seconds: f64) -> Result<()> {
        let tokens_per_step = self.feed.tokens_per_step();
        let tokens_per_second = tokens_per_step as f64 / seconds;
        self.train_loss = f64::from(result.loss);
        let metrics = StepMetrics {
            step: result.step,
            epoch: self.feed.epochs(result.step),
            tokens: result.step * tokens_per_step,
            train_loss: self.train_loss,
            val_loss,
            lr: self.schedule.lr(result.step - 1),
            grad_norm: f64::from(result.grad_norm),
            step_ms: seconds * 1e3,
            tokens_per_second,
        };
        self.metrics.write(&metrics)?;
        self.progress.step(&StepReport {
            step: result.step,
            loss: metrics.train_loss,
            val_loss: self.shown_val_loss,
            grad_norm: metrics.grad_norm,
            tokens_per_second,
        });
        Ok(())
    }

    fn is_evaluation_due(&self, step: u64) -> bool {
        is_due(self.setup.config.eval_every, step) && !self.setup.data.validation.is_empty()
    }

    fn is_save_due(&self, step: u64) -> bool {
        match self.setup.config.checkpoint_every {
            CheckpointEvery::Steps(every) => step.is_multiple_of(every),
            CheckpointEvery::Epochs(0) => false,
            CheckpointEvery::Epochs(every) => {
                self.feed.whole_epochs(step) / every > self.feed.whole_epochs(step - 1) / every
            }
        }
    }

    /// Saves the state after the last step, measured or not.
    fn save(&mut self) -> Result<(PathBuf, SavedState)> {
        let state = self.session.state()?;
        if let Some(tensor) = first_in_state(&self.session.train.model.arena.specs, &state) {
            return Err(not_finite(
                "the state",
                state.step,
                Place { tensor: Some(tensor), ..Place::default() },
            ));
        }
        let step = state.step;
        if let Some(val_loss) = self.val_loss
            && self.best.is_none_or(|(best, _)| val_loss < best)
        {
            self.best = Some((val_loss, step));
        }
        self.metrics.sync()?;
        let specs = &self.session.train.model.arena.specs;
        let digest = digest(specs, &state);
        let config = self.session.train.model.config.clone();
        let checkpoint = Checkpoint {
            model: ModelState { config, tensors: state.params },
            m: state.m,
            v: state.v,
            tokenizer: self.setup.data.tokenizer.clone(),
            state: self.run_state(step, digest.clone())?,
        };
        let folder = self.setup.folder.save(&checkpoint, self.setup.config.keep_last)?;
        tracing::info!("saved {}", folder.display());
        self.saved = Some(checkpoint.state);
        Ok((folder, SavedState { digest, params: checkpoint.model.tensors }))
    }

    fn run_state(&self, step: u64, digest: String) -> Result<RunState> {
        let windows = step * self.feed.windows_per_step();
        let precision = self.setup.config.precision;
        // A checkpoint of an exact run has the same bytes wherever it was made.
        let ([device, driver], tuning) = match precision {
            Precision::Exact => ([""; 2], Default::default()),
            Precision::F32 | Precision::Mixed => {
                (self.setup.device, self.session.train.model.tuning.names.clone())
            }
        };
        Ok(RunState {
            format_version: FORMAT_VERSION,
            hlx_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernels_hash: kernels_hash(precision),
            step,
            epoch: self.feed.whole_epochs(step),
            windows,
            tokens: step * self.feed.tokens_per_step(),
            seed: self.setup.config.seed,
            precision,
            device: device.to_owned(),
            driver: driver.to_owned(),
            tuning,
            digest,
            training_hash: self.setup.config.training_hash()?,
            options: Some(self.setup.config.training_options()),
            unbroken_since: self.unbroken_since.clone(),
            init_digest: self.init_digest.clone(),
            corpus_hash: self.corpus_hash.clone(),
            train_loss: self.train_loss,
            val_loss: self.val_loss,
            best_val_loss: self.best.map(|(loss, _)| loss),
            best_step: self.best.map(|(_, step)| step),
            chain: self.chain.links.clone(),
        })
    }

    fn interrupted(&self, step: u64, folder: PathBuf) -> Error {
        Error::Interrupted(format!(
            "stopped after step {step} of {} and saved {}: go on with: hlx train --resume {}",
            self.schedule.total_steps,
            folder.display(),
            self.setup.folder.path().display()
        ))
    }

    fn outcome(&self, checkpoint: PathBuf, state: SavedState) -> Outcome {
        let tokens = self.clock.steps * self.feed.tokens_per_step();
        Outcome {
            steps: self.session.step(),
            train_loss: self.train_loss,
            val_loss: self.val_loss,
            tokens_per_second: tokens as f64 / self.clock.seconds,
            checkpoint,
            digest: state.digest,
            params: state.params,
        }
    }
}

/// True after every `every` steps; never for 0.
fn is_due(every: u64, step: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// What a save leaves for the end of the run.
struct SavedState {
    digest: String,
    params: Vec<Vec<f32>>,
}
