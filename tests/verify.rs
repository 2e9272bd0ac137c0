//! `verify` reports a difference rightly: executors that go wrong in one bit, at one step of one run.

#[path = "common/recipe.rs"]
mod recipe;

use hlx::cpu::CpuExecutor;
use hlx::error::Error;
use hlx::exact::random_u32;
use hlx::kernels::{Kernel, layernorm_forward};
use hlx::recording::Program;
use hlx::train::digest::{digest, tensor_name};
use hlx::train::session::Session;
use hlx::train::verify::{Difference, Trainer, Value, Verification, verify};
use recipe::{Fault, RUNS, Recipe, STEPS};

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

/// How many single bits are flipped, one a verification.
const FLIPS: u32 = 1000;

#[test]
fn a_thousand_random_flips_are_each_found_where_they_are() {
    let recipe = Recipe::new();
    let specs = recipe.trainer("any", Fault::None).session.train.model.arena.specs.clone();
    for flip in 0..FLIPS {
        let below = |purpose: u32, limit: usize| random_u32(7, purpose, 0, flip) as usize % limit;
        let (run, step) = (2 + below(0, RUNS as usize - 1) as u64, 1 + below(1, STEPS as usize) as u64);
        let tensor = below(2, 3 * specs.len());
        let element = below(3, specs[tensor % specs.len()].len());
        let bit = below(4, 32) as u32;
        let fault = Fault::State { step: (run - 1) * STEPS + step, tensor, element, bit };
        let found = difference(vec![recipe.trainer("only", fault)]);
        assert_eq!((found.step, found.run), (step, run), "flip {flip}");
        assert_eq!((found.tensor, found.element), (tensor_name(&specs, tensor), element), "flip {flip}");
        assert_eq!(found.elements_different, 1, "flip {flip}");
    }
}

#[test]
fn a_hundred_clean_runs_raise_no_alarm() {
    let recipe = Recipe::new();
    let mut trainers = [recipe.trainer("only", Fault::None)];
    let found = verify(&mut trainers, 100, STEPS, |_, _, _| Ok(())).expect("every step can be taken");
    assert_eq!(found.first_difference, None);
}

/// The last bit of epsilon is another in one LayerNorm of a program.
fn with_another_epsilon(mut program: Program) -> Program {
    let dispatches = program.recordings.iter_mut().flat_map(|recording| &mut recording.dispatches);
    for dispatch in dispatches.filter(|dispatch| dispatch.kernel == Kernel::LayernormForward).skip(1).take(1)
    {
        let mut push = layernorm_forward::Push::from_bytes(&dispatch.push);
        push.eps = f32::from_bits(push.eps.to_bits() + 100_000);
        dispatch.push = push.to_bytes();
    }
    program
}

#[test]
fn the_operation_that_differs_is_named() {
    let recipe = Recipe::new();
    let faulty = |recipe| -> Trainer {
        let trainer: Trainer = Recipe::trainer(recipe, "faulty", Fault::None);
        let session = Session::new(trainer.session.shape().clone(), trainer.traits, |train| {
            Ok(Box::new(CpuExecutor::load(with_another_epsilon(train.program.clone()))?))
        });
        let load = Box::new(|program| -> hlx::error::Result<Box<dyn hlx::recording::Executor>> {
            Ok(Box::new(CpuExecutor::load(with_another_epsilon(program))?))
        });
        Trainer { session: session.expect("it fits"), load, ..trainer }
    };
    let found = difference(vec![recipe.trainer("sound", Fault::None), faulty(&recipe)]);
    assert_eq!((found.step, found.run), (1, 1));
    let op = found.op.as_ref().expect("the replay finds it");
    assert_eq!((op.kernel.as_str(), op.recording.as_str()), ("layernorm_forward", "micro.first"));
    let sound = recipe.trainer("sound", Fault::None);
    let dispatches = &sound.session.train.program.recordings[0].dispatches;
    let norms = dispatches.iter().enumerate().filter(|(_, d)| d.kernel == Kernel::LayernormForward);
    assert_eq!(op.dispatch, norms.map(|(place, _)| place).nth(1).expect("a block has two"));
    assert!(found.details().contains("layernorm_forward, dispatch"), "{}", found.details());
    assert!(found.likely_cause.contains("device or driver"), "{}", found.likely_cause);
}
