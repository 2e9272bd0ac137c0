//! `verify` reports a difference rightly: executors that go wrong in one bit, at one step of one run.

use hlx::config::{TrainConfig, TrainOptions};
use hlx::cpu::CpuExecutor;
use hlx::data::Dataset;
use hlx::error::{Error, Result};
use hlx::recording::{BufferId, Executor, RecordingId, Ticket, View};
use hlx::train::digest::{digest, tensor_name};
use hlx::train::init::{initial_parameters, initial_state};
use hlx::train::program::TrainProgram;
use hlx::train::run::{feed, schedule, step_shape, total_steps};
use hlx::train::session::{Session, StepRates, TrainState};
use hlx::train::verify::{Difference, Trainer, Value, Verification, verify};

const STEPS: u64 = 4;
const RUNS: u64 = 3;

/// What every trainer trains.
struct Recipe {
    config: TrainConfig,
    data: Dataset,
    initial: TrainState,
}

impl Recipe {
    /// A tiny model on the bundled text, with dropout and accumulation.
    fn new() -> Recipe {
        let options = TrainOptions {
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
        };
        let config = TrainConfig::resolve(options, None).expect("these options are sound");
        let data = Dataset::load(&config, None).expect("the bundled text is always there");
        let model = config.model_config(data.tokenizer.vocab_size());
        Recipe { initial: initial_state(initial_parameters(&model, config.seed)), config, data }
    }

    fn trainer(&self, device: &str, fault: Fault) -> Trainer<'_> {
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
    fn trained(&self, steps: u64) -> (TrainState, f32) {
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
enum Fault {
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

/// Verifies, and counts the steps that were shown.
fn found(mut trainers: Vec<Trainer>) -> (Verification, u64) {
    let mut shown = 0;
    let found = verify(&mut trainers, RUNS, STEPS, |_, _, _| {
        shown += 1;
        Ok(())
    });
    (found.expect("every step can be taken"), shown)
}

fn difference(trainers: Vec<Trainer>) -> Difference {
    found(trainers).0.first_difference.expect("there is one")
}

#[test]
fn without_a_fault_nothing_differs() {
    let recipe = Recipe::new();
    let trainers = vec![recipe.trainer("first", Fault::None), recipe.trainer("second", Fault::None)];
    let specs = trainers[0].session.train.model.arena.specs.clone();
    let (verification, shown) = found(trainers);
    assert_eq!(verification.first_difference, None);
    assert_eq!(shown, 2 * RUNS * STEPS);
    assert_eq!(verification.digest, digest(&specs, &recipe.trained(STEPS).0));
}

#[test]
fn one_bit_of_any_tensor_is_found_at_its_step_run_and_element() {
    let recipe = Recipe::new();
    let specs = recipe.trainer("any", Fault::None).session.train.model.arena.specs.clone();
    let tensors = 3 * specs.len();
    // Every tensor once, its last element or its first, at all steps of the second and third run.
    for tensor in 0..tensors {
        let (run, step) = (2 + tensor as u64 % 2, 1 + tensor as u64 % STEPS);
        let element = if tensor % 3 == 0 { 0 } else { specs[tensor % specs.len()].len() - 1 };
        let bit = [0, 22, 31][tensor % 3];
        let fault = Fault::State { step: (run - 1) * STEPS + step, tensor, element, bit };
        let sound = recipe.trained(step).0.tensors().nth(tensor).expect("the tensor exists")[element];
        let expected = Difference {
            step,
            run,
            device: "only".to_owned(),
            reference_device: "only".to_owned(),
            tensor: tensor_name(&specs, tensor),
            element,
            elements_different: 1,
            reference: Value::from(sound),
            value: Value::from(f32::from_bits(sound.to_bits() ^ 1 << bit)),
            ..Difference::default()
        };
        let found = difference(vec![recipe.trainer("only", fault)]);
        assert!(found.likely_cause.contains("comes out right when replayed"), "{}", found.likely_cause);
        assert_eq!(Difference { ulp: 0, likely_cause: String::new(), ..found }, expected);
    }
}

#[test]
fn a_device_that_differs_is_named_beside_the_first() {
    let recipe = Recipe::new();
    let fault = Fault::State { step: STEPS + 2, tensor: 1, element: 3, bit: 0 };
    let trainers = vec![recipe.trainer("sound", Fault::None), recipe.trainer("faulty", fault)];
    let (verification, shown) = found(trainers);
    let difference = verification.first_difference.expect("there is one");
    assert_eq!((difference.step, difference.run), (2, 2));
    assert_eq!((difference.device.as_str(), difference.reference_device.as_str()), ("faulty", "sound"));
    assert_eq!((difference.tensor.as_str(), difference.element), ("transformer.wpe.weight", 3));
    assert_eq!(shown, RUNS * STEPS + STEPS + 2, "it stops at the first difference");
    let text = difference.to_string();
    let [value, reference] = [&difference.value, &difference.reference];
    for part in [
        "step 2, run 2 on faulty: transformer.wpe.weight[3] is ",
        &format!("{} (0x{})", value.value, value.bits),
        &format!("{} (0x{}) in the first run on sound", reference.value, reference.bits),
    ] {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
    assert_eq!(Error::Mismatch(text).exit_code(), 3);
}

#[test]
fn a_loss_or_a_norm_may_differ_alone() {
    let recipe = Recipe::new();
    let change: [fn(u64, &mut [u32]); 2] = [
        |step, words| words[0] ^= u32::from(step == 2 * STEPS + 3),
        |step, words| words[1] ^= u32::from(step == 2 * STEPS + 3),
    ];
    for (change, name) in change.into_iter().zip(["loss", "grad_norm"]) {
        let difference = difference(vec![recipe.trainer("only", Fault::Report(change))]);
        assert_eq!((difference.step, difference.run), (3, 3));
        assert_eq!(
            (difference.tensor.as_str(), difference.element, difference.elements_different),
            (name, 0, 1)
        );
        let [reference, value] = [&difference.reference, &difference.value]
            .map(|value| u32::from_str_radix(&value.bits, 16).expect("hexadecimal digits"));
        assert_eq!(reference ^ 1, value);
        if name == "loss" {
            assert_eq!(difference.reference, Value::from(recipe.trained(3).1));
        }
    }
}

#[test]
fn a_negative_zero_is_not_a_zero() {
    let recipe = Recipe::new();
    let change = |step, words: &mut [u32]| {
        words[0] = if step == STEPS + 1 { (-0f32).to_bits() } else { 0 };
    };
    let difference = difference(vec![recipe.trainer("only", Fault::Report(change))]);
    assert_eq!((difference.step, difference.run, difference.tensor.as_str()), (1, 2, "loss"));
    assert_eq!(
        (difference.reference.bits.as_str(), difference.value.bits.as_str()),
        ("00000000", "80000000")
    );
}

#[test]
fn a_fault_of_the_first_run_itself_is_called_that() {
    let recipe = Recipe::new();
    let fault = Fault::State { step: 2, tensor: 0, element: 5, bit: 1 };
    let difference = difference(vec![recipe.trainer("only", fault)]);
    assert_eq!((difference.step, difference.run, difference.elements_different), (2, 2, 0));
    let text = difference.to_string();
    assert!(text.contains("the first run on only does not come out the same again"), "{text}");
}
