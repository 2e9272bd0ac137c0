//! `hlx verify`: proof that training gives the same bits, run after run and device after device.

use serde_json::json;

use super::backend::{self, Backend};
use super::{print, print_json};
use crate::cli::VerifyArgs;
use crate::config::TrainConfig;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::train::init::{initial_parameters, initial_state};
use crate::train::program::{StepShape, TrainProgram};
use crate::train::run::{feed, schedule, step_shape, total_steps};
use crate::train::session::{Session, TrainState};
use crate::train::verify::{Trainer, Verification, verify};

/// Digits of a digest that a line shows; JSON has them all.
const SHOWN: usize = 16;

pub fn run(args: &VerifyArgs) -> Result<()> {
    let config = TrainConfig::resolve(args.train_options(), None)?;
    let data = Dataset::load(&config, None)?;
    let model = config.model_config(data.tokenizer.vocab_size());
    let initial = initial_state(initial_parameters(&model, config.seed));
    let mut trainers = Vec::new();
    for choice in args.devices() {
        let chosen = Backend::open(&choice)?;
        trainers.push(trainer(&chosen.backend, &config, &data, &initial)?);
    }
    let devices: Vec<String> = trainers.iter().map(|trainer| trainer.device.clone()).collect();
    let found = verify(&mut trainers, args.runs, args.steps, |trainer, run, record| {
        if args.json {
            return Ok(());
        }
        let digest = &trainer.digest(record)[..SHOWN];
        let (step, loss) = (record.state.step, record.loss);
        print(&format!("{} run {run}  step {step}  loss {loss:.6}  digest {digest}\n", trainer.device))
    })?;
    report(args, &devices, &found)
}

fn trainer<'a>(
    backend: &Backend,
    config: &TrainConfig,
    data: &'a Dataset,
    initial: &'a TrainState,
) -> Result<Trainer<'a>> {
    let shape = step_shape(config, data.tokenizer.vocab_size());
    let feed = feed(config, data)?;
    let traits = backend.traits();
    let program = |batch_size| TrainProgram::new(&StepShape { batch_size, ..shape.clone() }, traits).program;
    let plan = backend::plan(backend, &shape.model, config.batch_size, "", program)?;
    tracing::info!("{plan}");
    Ok(Trainer {
        device: backend.name(),
        session: Session::new(shape, traits, |train| backend.load(train.program.clone()))?,
        schedule: schedule(config, total_steps(config, &feed)),
        feed,
        weight_decay: config.weight_decay,
        initial,
    })
}

fn report(args: &VerifyArgs, devices: &[String], found: &Verification) -> Result<()> {
    let identical = found.first_difference.is_none();
    if args.json {
        print_json(&json!({
            "identical": identical,
            "runs": args.runs,
            "steps": args.steps,
            "digest": found.digest,
            "devices": devices,
            "first_difference": found.first_difference,
        }))?;
    }
    if let Some(difference) = &found.first_difference {
        return Err(Error::Mismatch(format!("not identical: {difference}")));
    }
    if !args.json {
        print(&format!(
            "identical: {} runs of {} steps on {}, every weight, moment and loss; digest {}\n",
            args.runs,
            args.steps,
            devices.join(" and "),
            found.digest
        ))?;
    }
    Ok(())
}
