//! `hlx train`: from a corpus, or from where a run was left, to a trained model.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::backend::{Backend, COPIES_TO_TRAIN};
use super::generate::{self, Prompt};
use super::tune::Tuner;
use super::{print, print_json, program};
use crate::checkpoint::{Checkpoint, RunFolder, RunLock, find_model_folder, read_model, read_tokenizer};
use crate::cli::TrainArgs;
use crate::config::{ModelConfig, Precision, ResumeFrom, TrainConfig, TrainOptions};
use crate::data::{Dataset, Tokenizer};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::kernels::kernels_hash;
use crate::model::parameters::{ModelState, parameter_count};
use crate::report::{format, say};
use crate::train::init::{initial_parameters, initial_state};
use crate::train::recover;
use crate::train::run::{Outcome, Setup, feed, hash_tokens, step_shape, total_steps};
use crate::train::sample::Sampler;
use crate::train::session::{Session, TrainState};

/// Tokens of the sample that ends a run.
const SAMPLE_TOKENS: u64 = 400;

pub fn run(args: &TrainArgs) -> Result<()> {
    let started = Instant::now();
    let interrupt = Interrupt::install()?;
    let mut origin = Origin::find(args)?;
    let lock = origin.lock.take();
    let config = &origin.config;
    let data = Dataset::load(config, origin.tokenizer.clone())?;
    let model = config.model_config(data.tokenizer.vocab_size());
    origin.check(&model, &data)?;
    check_length(config, &data, origin.resumed.as_ref())?;
    if origin.folder.is_none() {
        // A folder that cannot be taken is said before any work; it is claimed when all else is ready.
        RunFolder::for_new_run(config)?;
    }

    let chosen = Backend::open(&config.device, config.precision)?;
    say(format_args!("training on {chosen}"));
    let mut backend = chosen.backend;
    let device = [backend.name(), backend.driver()];
    origin.compare_device(&device);
    let mut tuner = Tuner::new(!args.no_tune);
    if let Some(checkpoint) = &origin.resumed {
        tuner.remember(&checkpoint.state, &backend);
    }
    let first = load(&backend, config, &model, &mut tuner);
    let mut reopen = || {
        let chosen = Backend::open(&config.device, config.precision)?;
        say(format_args!("going on with {chosen}"));
        let now = [chosen.backend.name(), chosen.backend.driver()];
        check_same_device(config.precision, &device, &now)?;
        backend = chosen.backend;
        load(&backend, config, &model, &mut tuner)
    };
    let session = recover::load(first, &mut reopen)?;
    let start = origin.start(&model, config.seed);
    let (folder, _lock) = match &origin.folder {
        Some(folder) => (folder.clone(), folder.prepare(config, lock)?),
        None => RunFolder::claim(config)?,
    };
    describe(config, &data, &model, &folder, origin.resumed.as_ref());

    let resumed = origin.resumed.as_ref().map(|checkpoint| &checkpoint.state);
    let setup = Setup {
        config,
        data: &data,
        folder: &folder,
        interrupt: &interrupt,
        start: &start,
        resumed,
        device: [&device[0], &device[1]],
    };
    let outcome = recover::train(setup, session, reopen)?;
    if args.json {
        return print_json(&json(&outcome));
    }
    print(&summary(&outcome, start.step, started))?;
    print_sample(&backend, &model, &outcome.params, &data.tokenizer, &interrupt)?;
    print(&next(folder.path(), outcome.steps))
}

/// Where a run starts: its configuration, and the weights it goes on from, if any.
struct Origin {
    config: TrainConfig,
    /// The folder of the run that goes on, and the lock on it.
    folder: Option<RunFolder>,
    lock: Option<RunLock>,
    resumed: Option<Checkpoint>,
    /// The weights of `--init-from`.
    weights: Option<ModelState>,
    /// The tokenizer that the weights were trained with.
    tokenizer: Option<Tokenizer>,
}

impl Origin {
    fn find(args: &TrainArgs) -> Result<Origin> {
        let file = args
            .config
            .as_deref()
            .map(|path| TrainOptions::load("--config", path))
            .transpose()?
            .unwrap_or_default();
        let given = args.options.clone().over(file);
        match &args.resume {
            Some(choice) => Origin::resumed(given, choice),
            None => Origin::new(given),
        }
    }

    fn new(options: TrainOptions) -> Result<Origin> {
        let Some(path) = options.init_from.clone() else {
            let config = TrainConfig::resolve(options, None)?;
            return Ok(Origin::fresh(config));
        };
        // The folder itself is what the configuration keeps: a run's latest checkpoint is soon another.
        let path = find_model_folder("--init-from", &path)?;
        let weights = read_model(&path)?;
        let options = TrainOptions { init_from: Some(path.clone()), ..options };
        let config = TrainConfig::resolve(options, Some(&weights.config))?;
        let tokenizer = read_tokenizer(&path)?;
        Ok(Origin { weights: Some(weights), tokenizer, ..Origin::fresh(config) })
    }

    /// Random weights, and a folder that is still to be found.
    fn fresh(config: TrainConfig) -> Origin {
        Origin { config, folder: None, lock: None, resumed: None, weights: None, tokenizer: None }
    }

    fn resumed(given: TrainOptions, choice: &ResumeFrom) -> Result<Origin> {
        let folder = RunFolder::to_resume(choice, &given)?;
        // Before anything is read: a run that is still going on would remove what this one goes on from.
        let lock = if folder.holds_run()? { Some(folder.lock()?) } else { None };
        if lock.is_some() {
            folder.finish_save()?;
        }
        let found = folder.load_to_resume(choice)?;
        let saved = match folder.config_file() {
            file if file.exists() => TrainOptions::load("--resume", &file)?,
            _ => TrainOptions::default(),
        };
        let Some((path, checkpoint)) = found else {
            let there = folder.path().display();
            let how =
                if saved == TrainOptions::default() { "" } else { " with the options of its config.toml" };
            say(format_args!("there is nothing to resume in {there}: starting a new run there{how}"));
            return Ok(Origin { folder: Some(folder), lock, ..Origin::new(given.over(saved))? });
        };
        let before = match &checkpoint.state.options {
            Some(own) => own_options(own, saved, &folder.config_file()),
            None => saved,
        };
        let config = TrainConfig::resolve(given.over(before.clone()), Some(&checkpoint.model.config))?;
        say(format_args!("going on from {}", path.display()));
        if checkpoint.state.training_hash != config.training_hash()? {
            say(format_args!(
                "options differ from those this checkpoint was trained with{}: \
                 the result will not be that of one unbroken run",
                changes(&before, &config.to_options())
            ));
        }
        if checkpoint.state.kernels_hash != kernels_hash(checkpoint.state.precision) {
            say(format_args!(
                "this checkpoint was trained by hlx {} with other kernels: \
                 the result will not be that of one unbroken run",
                checkpoint.state.hlx_version
            ));
        }
        let tokenizer = Some(checkpoint.tokenizer.clone());
        let resumed = Some(checkpoint);
        Ok(Origin { folder: Some(folder), lock, resumed, tokenizer, ..Origin::fresh(config) })
    }

    /// The weights and the text belong together.
    fn check(&self, model: &ModelConfig, data: &Dataset) -> Result<()> {
        if let Some(weights) = &self.weights
            && weights.config.vocab_size != model.vocab_size
        {
            return Err(Error::Input(format!(
                "the model of --init-from has {} tokens and no tokenizer.json, and {} has {} different \
                 characters: give the text that the model was trained on, or a folder with its tokenizer",
                weights.config.vocab_size, data.name, model.vocab_size
            )));
        }
        if let Some(checkpoint) = &self.resumed
            && checkpoint.state.corpus_hash != hash_tokens(&data.train)
        {
            return Err(Error::Input(format!(
                "{} is not the text that this run was trained on (or --val-fraction differs): give that \
                 text, or start a new run from its weights with --init-from",
                data.name
            )));
        }
        Ok(())
    }

    /// Says so if a run whose bits are one device's own goes on with another.
    fn compare_device(&self, [name, driver]: &[String; 2]) {
        let state = self.resumed.as_ref().map(|checkpoint| &checkpoint.state);
        if let Some((state, other)) = state.and_then(|s| Some((s, s.other_device(name, driver)?))) {
            say(format_args!(
                "this checkpoint was trained on {other}, and --precision {} gives the same bits on one \
                 device only: the result will not be that of one unbroken run",
                state.precision
            ));
        }
    }

    /// The state before the first step.
    fn start(&self, model: &ModelConfig, seed: u64) -> TrainState {
        if let Some(checkpoint) = &self.resumed {
            return TrainState::of(checkpoint);
        }
        let weights = self.weights.as_ref().map(|weights| weights.tensors.clone());
        initial_state(weights.unwrap_or_else(|| initial_parameters(model, seed)))
    }
}

/// The options that a checkpoint was trained with, and what is in config.toml of all that does not decide the
/// training. Its training options may be others: after a run has gone on from an earlier checkpoint, or where
/// somebody has changed them.
fn own_options(own: &TrainOptions, file: TrainOptions, path: &Path) -> TrainOptions {
    let changes = changes(own, &file);
    if !changes.is_empty() {
        say(format_args!(
            "{} has other options than this checkpoint was trained with{changes}: going on with the \
             checkpoint's, which flags can change",
            path.display()
        ));
    }
    own.clone().over(file)
}

/// Which options are others than before: ` (steps 20 -> 40, lr 0.001 -> 0.002)`, or nothing.
fn changes(before: &TrainOptions, now: &TrainOptions) -> String {
    let json = |options| serde_json::to_value(options).expect("options are numbers and names");
    let (before, now) = (json(before), json(now));
    // What decides where things are, and how often they are written, does not count.
    let counts = |key: &str| {
        !["corpus", "val-corpus", "device", "out", "init-from", "model"].contains(&key)
            && !key.ends_with("-every")
            && !key.ends_with("-steps")
            && key != "keep-last"
            || key == "warmup-steps"
    };
    let pairs = now.as_object().into_iter().flatten().filter(|(key, value)| {
        counts(key) && before.get(key).is_some_and(|old| !old.is_null() && old != *value)
    });
    let list: Vec<String> = pairs.map(|(key, value)| format!("{key} {} -> {value}", before[key])).collect();
    if list.is_empty() { String::new() } else { format!(" ({})", list.join(", ")) }
}

/// A resumed run has steps left to take.
fn check_length(config: &TrainConfig, data: &Dataset, resumed: Option<&Checkpoint>) -> Result<()> {
    let total = total_steps(config, &feed(config, data)?);
    if config.warmup_steps > total {
        say(format_args!(
            "--warmup-steps {} is longer than the run of {total} steps: the learning rate never reaches --lr",
            config.warmup_steps
        ));
    }
    match resumed {
        Some(checkpoint) if checkpoint.state.step >= total => Err(Error::Usage(format!(
            "the checkpoint is at step {}, and the run has taken all of its {total} steps: give \
             more --steps (or --epochs)",
            checkpoint.state.step
        ))),
        _ => Ok(()),
    }
}

/// A precision that promises the same bits on one device only does not go on with another one.
fn check_same_device(precision: Precision, before: &[String; 2], now: &[String; 2]) -> Result<()> {
    if precision == Precision::Exact || before == now {
        return Ok(());
    }
    let [[before, driver], [other, other_driver]] = [before, now];
    Err(Error::NoDevice(format!(
        "--precision {precision} gives the same bits on one device only, and {other} ({other_driver}) is not \
         {before} ({driver}): go on with --resume on the same device"
    )))
}

/// Plans the memory, times the products, prints the plan, and takes the memory.
fn load(backend: &Backend, config: &TrainConfig, model: &ModelConfig, tuner: &mut Tuner) -> Result<Session> {
    let shape = step_shape(config, model.vocab_size);
    let traits = backend.traits(config.precision);
    let hint = " (--grad-accum makes up for it)";
    let (plan, tuning) = tuner.plan(backend, &shape, config.precision, hint, COPIES_TO_TRAIN)?;
    say(plan);
    Session::tuned(shape, traits, &tuning, |train| backend.load(train.program.clone()))
}

fn describe(
    config: &TrainConfig,
    data: &Dataset,
    model: &ModelConfig,
    folder: &RunFolder,
    resumed: Option<&Checkpoint>,
) {
    say(format_args!(
        "{}: {} tokens to train on, {} to validate on, {} different ones",
        data.name,
        format::count(data.train.len() as f64),
        format::count(data.validation.len() as f64),
        model.vocab_size
    ));
    let from = resumed.map_or(String::new(), |checkpoint| format!(", from step {}", checkpoint.state.step));
    say(format_args!(
        "{} of {} parameters, {} windows of {} tokens a step{from}, into {}",
        config.model,
        format::count(parameter_count(model) as f64),
        config.batch_size * config.grad_accum,
        config.context(),
        folder.path().display()
    ));
}

fn json(outcome: &Outcome) -> Value {
    json!({
        "steps": outcome.steps,
        "train_loss": outcome.train_loss,
        "val_loss": outcome.val_loss,
        "tokens_per_second": outcome.tokens_per_second,
        "checkpoint": outcome.checkpoint,
        "digest": outcome.digest,
    })
}

/// What the run came to, for people.
fn summary(outcome: &Outcome, first_step: u64, started: Instant) -> String {
    let val_loss = outcome.val_loss.map_or(String::new(), |loss| format!(", validation loss {loss:.4}"));
    let taken = outcome.steps - first_step;
    let to = if first_step > 0 { format!(" (to step {})", outcome.steps) } else { String::new() };
    format!(
        "{taken} steps{to} in {}: train loss {:.4}{val_loss}, {} tokens/s\ncheckpoint {}\ndigest {}\n",
        format::duration(started.elapsed().as_secs_f64()),
        outcome.train_loss,
        format::count(outcome.tokens_per_second),
        outcome.checkpoint.display(),
        outcome.digest
    )
}

/// Some text by the trained model.
fn print_sample(
    backend: &Backend,
    model: &ModelConfig,
    params: &[Vec<f32>],
    tokenizer: &Tokenizer,
    interrupt: &Interrupt,
) -> Result<()> {
    print("\nwhat it writes now:\n----\n")?;
    let sampler = Sampler { temperature: 0.8, top_k: None, top_p: None, seed: 1337 };
    let mut inference = generate::load(backend, model, params)?;
    generate::stream(
        &mut inference,
        &sampler,
        tokenizer,
        Prompt::start(tokenizer),
        SAMPLE_TOKENS,
        interrupt,
    )?;
    print("\n----\n\n")
}

/// What to try next, as commands to copy.
fn next(folder: &Path, steps: u64) -> String {
    let (hlx, folder) = (program(), folder.display());
    let more = 2 * steps;
    format!(
        "try next:\n  \
         {hlx} generate --checkpoint {folder} --max-tokens 1000\n  \
         {hlx} train --resume {folder} --steps {more}\n  \
         {hlx} train --corpus YOUR-TEXT.txt --model tiny\n  \
         {hlx} verify --runs 3\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_exact_goes_on_with_another_device() {
        let device = |name: &str, driver: &str| [name.to_owned(), driver.to_owned()];
        let before = device("a card", "driver 1");
        for now in [device("CPU executor", "hlx"), device("a card", "driver 2")] {
            assert!(check_same_device(Precision::Exact, &before, &now).is_ok());
            let text = check_same_device(Precision::F32, &before, &now).unwrap_err().to_string();
            for part in ["f32", "a card (driver 1)", &now[1], "--resume on the same device"] {
                assert!(text.contains(part), "{text:?} lacks {part:?}");
            }
        }
        assert!(check_same_device(Precision::Mixed, &before, &before).is_ok());
    }
}
