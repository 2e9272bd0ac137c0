//! `hlx verify`: proof that training gives the same bits, run after run and device after device.

use std::path::Path;

use serde_json::{Value, json};

use super::backend::{Backend, COPIES_TO_VERIFY};
use super::tune::Tuner;
use super::{check_output, print_if_read, verify_checkpoint, verify_kept};
use crate::cli::VerifyArgs;
use crate::config::{Precision, TrainConfig, TrainOptions};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::train::finite::met;
use crate::train::init::{initial_parameters, initial_state};
use crate::train::run::{feed, hash_tokens, schedule, step_shape, total_steps};
use crate::train::session::{Session, TrainState};
use crate::train::verify::{Header, Recorded, RecordedDifference, StepRecord, Trainer, Verification, verify};

/// Digits of a digest that a line shows; JSON has them all.
const SHOWN: usize = 16;

pub fn run(args: &VerifyArgs) -> Result<()> {
    if let Some(folder) = &args.checkpoint {
        return verify_checkpoint::run(args, folder);
    }
    args.save.as_deref().map_or(Ok(()), |path| check_output("--save", path))?;
    let against = args.against.as_deref().map(|path| Recorded::load("--against", path)).transpose()?;
    let config = TrainConfig::resolve(options(args, against.as_ref())?, None)?;
    if let (Some(against), Some(path)) = (&against, &args.against) {
        check_same(against, &config, path)?;
    }
    check_one_device(args, config.precision)?;
    let data = Dataset::load(&config, None)?;
    let model = config.model_config(data.tokenizer.vocab_size());
    let initial = initial_state(initial_parameters(&model, config.seed));
    let remedy = |error| match &args.against {
        Some(path) => with_given_options(error, path),
        None => error,
    };
    let (mut trainers, backends) = trainers(args, &config, &data, &initial).map_err(remedy)?;
    let runs = args.runs.unwrap_or(if against.is_some() { 1 } else { 3 });
    let steps = total_steps(&config, &feed(&config, &data)?);
    if let Some(step) = args.keep_step.filter(|&step| step > steps) {
        return Err(Error::Usage(format!("--keep-step {step}: there are {steps} steps: give one of them")));
    }
    let found =
        verify(
            &mut trainers,
            runs,
            steps,
            |trainer, run, record| {
                if args.json { Ok(()) } else { print_step(trainer, run, record) }
            },
        );
    let found = found.map_err(|error| not_trained(remedy(error), args))?;
    let header = header(&backends[0], &config, &data);
    let recorded = Recorded::new(header, &found.records, &trainers[0].session.train.model.arena.specs);
    let elsewhere = save_and_compare(args, against.as_ref(), &mut trainers[0], &found, &recorded)?;
    let devices = trainers.iter().map(|trainer| trainer.device.clone()).collect();
    Report { runs, steps, devices, found, elsewhere }.show(args)
}

/// A trainer on each device, and the device.
fn trainers<'a>(
    args: &VerifyArgs,
    config: &TrainConfig,
    data: &'a Dataset,
    initial: &'a TrainState,
) -> Result<(Vec<Trainer<'a>>, Vec<Backend>)> {
    let mut tuner = Tuner::new(!args.no_tune);
    let open = |choice| {
        let backend = Backend::open(&choice, config.precision)?.backend;
        Ok((trainer(&backend, config, data, initial, &mut tuner)?, backend))
    };
    args.devices().into_iter().map(open).collect()
}

fn print_step(trainer: &Trainer, run: u64, record: &StepRecord) -> Result<()> {
    let digest = &trainer.digest(record)[..SHOWN];
    let (device, step, loss) = (&trainer.device, record.state.step, record.loss);
    print_if_read(&format!("{device} run {run}  step {step}  loss {loss:.6}  digest {digest}\n"))
}

/// Writes the file of `--save`, but not over that of `--against` from which it differs, and gives where the
/// first run differs from the latter.
fn save_and_compare(
    args: &VerifyArgs,
    against: Option<&Recorded>,
    trainer: &mut Trainer,
    found: &Verification,
    recorded: &Recorded,
) -> Result<Option<RecordedDifference>> {
    let mut difference = against.and_then(|against| against.first_difference(recorded));
    if let Some(path) = &args.save
        && (difference.is_none() || args.against.as_ref() != Some(path))
    {
        verify_kept::keep(args, trainer, found, recorded, path)?;
        recorded.save(path)?;
    }
    if let (Some(difference), Some(against), Some(path)) = (&mut difference, against, &args.against) {
        verify_kept::explain(difference, trainer, found, [against, recorded], path)?;
    }
    Ok(difference)
}

/// An error of a device or of what does not fit it, where the options are those of a file.
pub fn with_given_options(error: Error, file: &Path) -> Error {
    let file = file.display();
    let given = |text| format!("{text} (but the options are those of {file}: take another --device)");
    match error {
        Error::Usage(text) => Error::Usage(given(text)),
        Error::NoDevice(text) => Error::NoDevice(given(text)),
        Error::Device(text) => Error::Device(given(text)),
        other => other,
    }
}

/// A run that is verified saves nothing and is not resumed.
fn not_trained(error: Error, args: &VerifyArgs) -> Error {
    match (met(&error), &args.against) {
        (Some(what), Some(path)) => {
            Error::Mismatch(format!("not identical with {}: {what} here, and was there", path.display()))
        }
        (Some(what), None) => Error::Input(format!(
            "{what}: these options train no further: give fewer --steps, or others with --config"
        )),
        _ => error,
    }
}

/// Flags win over `--config`, that over `--against`, that over the defaults.
fn options(args: &VerifyArgs, against: Option<&Recorded>) -> Result<TrainOptions> {
    let file = args.config.as_deref().map(|path| TrainOptions::load("--config", path)).transpose()?;
    // How long a run is meant to train, and how it is validated, is no matter of a verification.
    let file = TrainOptions {
        epochs: None,
        steps: None,
        val_fraction: None,
        val_corpus: None,
        ..file.unwrap_or_default()
    };
    if let Some(folder) = &file.init_from {
        return Err(Error::Usage(format!(
            "--config: a verification starts from fresh weights, not from init-from {}: leave init-from out",
            folder.display()
        )));
    }
    let recorded = against.map(|against| against.header.options.clone()).unwrap_or_default();
    let defaults = if against.is_some() { TrainOptions::default() } else { VerifyArgs::defaults() };
    Ok(args.train_options().over(file).over(recorded).over(defaults))
}

/// A file can only be met again by the steps that it holds.
fn check_same(against: &Recorded, config: &TrainConfig, path: &Path) -> Result<()> {
    let path = path.display();
    let recorded = TrainConfig::resolve(against.header.options.clone(), None)?;
    if config.length != recorded.length {
        return Err(Error::Usage(format!("{path} has {} steps: leave --steps out", against.steps())));
    }
    if portable(config) != portable(&recorded) {
        return Err(Error::Usage(format!(
            "{path} was made with other options than the flags beside it say: leave them out, \
             or make a file with them by --save"
        )));
    }
    Ok(())
}

/// Only `exact` gives the same bits on different devices.
fn check_one_device(args: &VerifyArgs, precision: Precision) -> Result<()> {
    if precision == Precision::Exact || args.devices().len() <= 1 {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "--devices: {precision} promises the same bits on one device only: give one, or --precision exact"
    )))
}

/// A configuration's options without its paths, which mean nothing elsewhere.
fn portable(config: &TrainConfig) -> TrainOptions {
    TrainOptions { corpus: None, device: None, out: None, ..config.to_options() }
}

/// Where and with what the chain is made.
fn header(backend: &Backend, config: &TrainConfig, data: &Dataset) -> Header {
    let corpus_hash = hash_tokens(&data.train);
    let name = config.corpus.as_deref().and_then(Path::file_name);
    let corpus = name.map(|name| name.to_string_lossy().into_owned());
    let (device, driver) = (backend.name(), backend.driver());
    Header { corpus, ..Header::new(&device, &driver, config.precision, &corpus_hash, portable(config)) }
}

/// A trainer of `config` on a device.
pub fn trainer<'a>(
    backend: &Backend,
    config: &TrainConfig,
    data: &'a Dataset,
    initial: &'a TrainState,
    tuner: &mut Tuner,
) -> Result<Trainer<'a>> {
    let shape = step_shape(config, data.tokenizer.vocab_size());
    let feed = feed(config, data)?;
    let traits = backend.traits(config.precision);
    let (plan, tuning) = tuner.plan(backend, &shape, config.precision, "", COPIES_TO_VERIFY)?;
    tracing::info!("{plan}");
    let backend = backend.clone();
    Ok(Trainer {
        device: backend.name(),
        session: Session::tuned(shape, traits, &tuning, |train| backend.load(train.program.clone()))?,
        schedule: schedule(config, total_steps(config, &feed)),
        feed,
        weight_decay: config.weight_decay,
        initial,
        traits,
        load: Box::new(move |program| backend.load(program)),
    })
}

/// What is told at the end.
struct Report {
    runs: u64,
    steps: u64,
    devices: Vec<String>,
    found: Verification,
    /// Where the first run differs from the file of `--against`.
    elsewhere: Option<RecordedDifference>,
}

impl Report {
    fn show(&self, args: &VerifyArgs) -> Result<()> {
        let here = &self.found.first_difference;
        if args.json {
            print_if_read(&format!("{}\n", self.json()))?;
        } else if let Some(difference) = here {
            print_if_read(&format!("{difference}\n{}", difference.details()))?;
        }
        if let Some(difference) = here {
            return Err(Error::Mismatch(format!("not identical: {difference}")));
        }
        if let (Some(difference), Some(path)) = (&self.elsewhere, &args.against) {
            if !args.json {
                print_if_read(&difference.details())?;
            }
            return Err(Error::Mismatch(format!("not identical with {}: {difference}", path.display())));
        }
        if args.json {
            return Ok(());
        }
        let file = args.against.as_ref().map_or(String::new(), |path| format!(" and in {}", path.display()));
        let runs = if self.runs == 1 { "1 run".to_owned() } else { format!("{} runs", self.runs) };
        let (steps, devices, digest) = (self.steps, self.devices.join(" and "), &self.found.digest);
        if self.runs == 1 && self.devices.len() == 1 && args.against.is_none() {
            return print_if_read(&format!(
                "{runs} of {steps} steps on {devices}, compared with nothing; digest {digest}\n"
            ));
        }
        print_if_read(&format!(
            "identical: {runs} of {steps} steps on {devices}{file}, every weight, moment and loss; \
             digest {digest}\n"
        ))
    }

    fn json(&self) -> Value {
        let here = self.found.first_difference.as_ref().map(|difference| json!(difference));
        let difference = here.or_else(|| self.elsewhere.as_ref().map(|difference| json!(difference)));
        json!({
            "identical": difference.is_none(),
            "runs": self.runs,
            "steps": self.steps,
            "digest": self.found.digest,
            "devices": self.devices,
            "first_difference": difference,
        })
    }
}
