//! A difference from a chain of another machine is followed to its first operation and element, through a
//! step that was kept there; the likely cause is told for each kind of difference that can be planted.

#[path = "common/program.rs"]
mod program;
#[path = "common/recipe.rs"]
mod recipe;

use std::fs;
use std::path::Path;

use hlx::config::{Precision, TrainOptions};
use hlx::cpu::CpuExecutor;
use hlx::error::Result;
use hlx::kernels::{Kernel, layernorm_forward};
use hlx::recording::{Executor, Program};
use hlx::train::run::hash_tokens;
use hlx::train::session::Session;
use hlx::train::verify::{Header, KeptStep, Met, Recorded, Trainer, keep_step, kept_path, verify};
use program::{Done, Place};
use recipe::{Fault, Recipe, STEPS};
use serde_json::{Value, json};

/// What the command is to know of the recipe, whose options the chain's file has.
const AGAINST: &str = "verify --against chain.json --device cpu";
/// The step that is kept.
const KEPT: u64 = 3;

fn header(recipe: &Recipe) -> Header {
    let options = TrainOptions { corpus: None, device: None, out: None, ..recipe.config.to_options() };
    let driver = format!("hlx {}", env!("CARGO_PKG_VERSION"));
    let corpus = hash_tokens(&recipe.data.train);
    Header::new("CPU executor", &driver, recipe.config.precision, &corpus, options)
}

/// Writes the chain of a trainer's run as another machine would have, with its step kept.
fn recorded(mut trainer: Trainer, header: Header, path: &Path) {
    let found = verify(std::slice::from_mut(&mut trainer), 1, STEPS, |_, _, _| Ok(())).expect("it trains");
    let specs = trainer.session.train.model.arena.specs.clone();
    let recorded = Recorded::new(header, &found.records, &specs);
    let chain = recorded.chain_after(KEPT).expect("there is such a step");
    keep_step(&mut trainer, &found.records[KEPT as usize - 1], chain, &kept_path(path, KEPT))
        .expect("a file");
    recorded.save(path).expect("a file");
}

/// Epsilon is another in one LayerNorm: the second of a step's first micro-batch.
fn with_another_epsilon(mut program: Program) -> Program {
    let micros = program.recordings.iter_mut().filter(|recording| recording.name.starts_with("micro.first"));
    let dispatches = micros.flat_map(|recording| &mut recording.dispatches);
    let norms = dispatches.filter(|dispatch| dispatch.kernel == Kernel::LayernormForward);
    for dispatch in norms.skip(1).take(1) {
        let mut push = layernorm_forward::Push::from_bytes(&dispatch.push);
        push.eps *= 1.5;
        dispatch.push = push.to_bytes();
    }
    program
}

/// A trainer whose device calculates one operation otherwise.
fn otherwise(recipe: &Recipe) -> Trainer<'_> {
    let load = |program| -> Result<Box<dyn Executor>> {
        Ok(Box::new(CpuExecutor::load(with_another_epsilon(program))?))
    };
    let sound = recipe.trainer("another device", Fault::None);
    let shape = sound.session.shape().clone();
    let session = Session::new(shape, sound.traits, |train| load(train.program.clone())).expect("it fits");
    Trainer { session, load: Box::new(load), ..sound }
}

/// Both machines train alike up to the kept step: the chain's file is put together from two runs.
fn other_from_the_kept_step(recipe: &Recipe, place: &Place, header: Header) {
    let path = place.path("chain.json");
    recorded(recipe.trainer("sound", Fault::None), header.clone(), &path);
    let read = || -> Value { serde_json::from_str(&place.read_text("chain.json")).expect("JSON") };
    let sound = read();
    // The state that the other device starts its kept step from is the sound one.
    let (state, _) = recipe.trained(KEPT - 1);
    let mut other = otherwise(recipe);
    other.session.load_state(&state).expect("a state of this shape");
    let record = other.step().expect("it trains");
    let specs = other.session.train.model.arena.specs.clone();
    let mut records = verify(&mut [recipe.trainer("sound", Fault::None)], 1, STEPS, |_, _, _| Ok(()))
        .expect("it trains")
        .records;
    records[KEPT as usize - 1] = record.clone();
    let file = Recorded::new(header, &records, &specs);
    file.save(&path).expect("a file");
    assert_ne!(read()["steps"][KEPT as usize - 1], sound["steps"][KEPT as usize - 1]);
    // The kept step too: a trainer that goes back to that state.
    let initial = state;
    let mut again = Trainer { initial: &initial, ..otherwise(recipe) };
    let chain = file.chain_after(KEPT).expect("there is such a step");
    keep_step(&mut again, &record, chain, &kept_path(&path, KEPT)).expect("it repeats itself");
}

/// The difference that a verification finds, and all that it says.
fn difference(place: &Place, line: &str) -> (Value, Done) {
    let done = place.hlx(&format!("{line} --json"));
    assert_eq!(done.code, Some(3), "hlx {line}: {}", done.stderr);
    let json: Value = serde_json::from_str(&done.stdout).expect("stdout is one JSON value");
    assert_eq!(json["identical"], false);
    (json["first_difference"].clone(), done)
}

fn cause(found: &Value) -> &str {
    found["likely_cause"].as_str().expect("text")
}

#[test]
fn the_operation_and_the_element_are_named_and_the_cause_by_what_differs() {
    let recipe = Recipe::new();
    let sound = header(&recipe);
    let device = Header { device: "a card".into(), ..sound.clone() };
    let driver = Header { driver: "driver 7".into(), ..sound.clone() };
    let mut binary = sound.clone();
    binary.kernels.insert("layernorm_forward".into(), "0123".into());
    // Another kernel than the one that differs is not the cause.
    let mut elsewhere = driver.clone();
    elsewhere.kernels.insert("gelu_forward".into(), "0123".into());
    for (header, expected) in [
        (device, "device: a card there, CPU executor here"),
        (driver, "driver: driver 7 there"),
        (elsewhere, "driver: driver 7 there"),
        (binary, "binary: the kernel layernorm_forward is another there"),
        (sound, "the hardware: layernorm_forward gave something else there or here"),
    ] {
        let place = Place::new();
        other_from_the_kept_step(&recipe, &place, header);
        let (found, done) = difference(&place, AGAINST);
        assert_eq!(found["step"], KEPT, "{}", done.stderr);
        let op = &found["op"];
        assert_eq!((&op["kernel"], &op["recording"]), (&json!("layernorm_forward"), &json!("micro.first")));
        let number = |key: &str| op[key].as_u64().expect("a number");
        assert!(number("ulp") > 0 && number("elements_different") > 0, "{op}");
        for side in ["reference", "value"] {
            assert_eq!(op[side]["bits"].as_str().expect("bits").len(), 8, "{op}");
        }
        assert!(cause(&found).starts_with(expected), "{:?}, not {expected:?}", cause(&found));
        assert_eq!(found["next"], Value::Null);
        let text = place.hlx(AGAINST);
        let line = "  first operation that differs: layernorm_forward, dispatch ";
        assert!(text.stdout.contains(line) && text.stdout.contains(" ulp apart, "), "{}", text.stdout);
    }
}

#[test]
fn one_bit_of_any_output_of_any_operation_is_found_there() {
    let recipe = Recipe::new();
    let place = Place::new();
    let path = place.path("chain.json");
    recorded(recipe.trainer("sound", Fault::None), header(&recipe), &path);
    let file = kept_path(&path, KEPT);
    let bytes = fs::read(&file).expect("it was kept");
    let line = bytes.iter().position(|byte| *byte == b'\n').expect("a first line") + 1;
    let contents: Value = serde_json::from_slice(&bytes[..line]).expect("JSON");
    let words = |part: &Value| part["words"].as_u64().expect("a number") as usize;
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let inputs = list(&contents["state"]).iter().map(words).sum::<usize>()
        + list(&contents["uploads"]).iter().flat_map(&list).map(|part| words(&part)).sum::<usize>();
    let chain = contents["chain"].as_str().expect("a digest").to_owned();
    let mut before = recipe.trainer("here", Fault::None);
    let records = verify(std::slice::from_mut(&mut before), 1, STEPS, |_, _, _| Ok(())).unwrap().records;
    let mut at = line + 4 * inputs;
    let mut flipped = 0;
    for ops in list(&contents["ops"]) {
        for (place, op) in list(&ops).iter().enumerate() {
            for part in list(&op["outputs"]) {
                // A bit of the first, the middle or the last element.
                let element = [0, words(&part) / 2, words(&part) - 1][flipped % 3];
                let mut other = bytes[..bytes.len() - 32].to_vec();
                other[at + 4 * element] ^= 1;
                let hash = *blake3::hash(&other).as_bytes();
                other.extend(hash);
                fs::write(&file, other).expect("it can be written");
                let kept = KeptStep::open(&file, KEPT, &chain).expect("its hash fits");
                let met = kept.meet(&mut before, &records).expect("it is replayed");
                let Met::Op(found) = met else { panic!("{op}: {met:?}") };
                assert_eq!((json!(found.kernel), found.dispatch), (op["kernel"].clone(), place));
                assert_eq!((json!(found.tensor), found.element), (part["name"].clone(), element), "{op}");
                assert_eq!(found.elements_different, 1, "{op}");
                at += 4 * words(&part);
                flipped += 1;
            }
        }
    }
    assert_eq!(at, bytes.len() - 32);
    assert!(flipped > 100, "only {flipped} outputs");
    println!("result: {flipped} outputs with one bit flipped in a kept step, each named");
}

#[test]
fn another_text_is_named_by_its_first_token() {
    let recipe = Recipe::new();
    let place = Place::new();
    let path = place.path("chain.json");
    let mut trainer = recipe.trainer("there", Fault::None);
    let found = verify(std::slice::from_mut(&mut trainer), 1, STEPS, |_, _, _| Ok(())).expect("it trains");
    let specs = trainer.session.train.model.arena.specs.clone();
    let recorded = Recorded::new(header(&recipe), &found.records, &specs);
    let chain = recorded.chain_after(1).expect("there is a first step");
    keep_step(&mut trainer, &found.records[0], chain, &kept_path(&path, 1)).expect("a file");
    recorded.save(&path).expect("a file");
    // The same characters in another order: the same model, and other tokens.
    let text: Vec<char> = hlx::data::Corpus::bundled().text.chars().collect();
    let turned: String = text[text.len() / 2..].iter().chain(&text[..text.len() / 2]).collect();
    place.write("other.txt", turned);
    let (found, done) = difference(&place, &format!("{AGAINST} --corpus other.txt"));
    assert_eq!((&found["step"], &found["op"]), (&json!(1), &Value::Null), "{}", done.stderr);
    let input = found["input"]["tensor"].as_str().expect("a name");
    assert!(input.contains("tokens"), "{input}");
    assert!(cause(&found).starts_with("corpus: the text is another"), "{}", cause(&found));
}

#[test]
fn another_precision_is_the_cause_of_an_operation_that_differs() {
    let recipe = Recipe::new();
    let sound = header(&recipe);
    let place = Place::new();
    let exact = Header { precision: Precision::F32, ..sound.clone() };
    other_from_the_kept_step(&recipe, &place, exact);
    let (found, _) = difference(&place, AGAINST);
    assert_eq!(found["op"]["kernel"], "layernorm_forward");
    assert!(cause(&found).starts_with("precision: f32 there, exact here"), "{}", cause(&found));

    // Where both promise the bits of one device only, another one may differ.
    let fast = Recipe::of(TrainOptions { precision: Some(Precision::F32), ..recipe.config.to_options() });
    let place = Place::new();
    let card = Header { device: "a card".into(), ..header(&fast) };
    other_from_the_kept_step(&fast, &place, card);
    let (found, _) = difference(&place, AGAINST);
    assert_eq!(found["op"]["kernel"], "layernorm_forward");
    let expected = "precision: f32 promises the same bits on one device only; device: a card there";
    assert!(cause(&found).starts_with(expected), "{}", cause(&found));
}

#[test]
fn a_passing_fault_comes_out_right_when_replayed() {
    let recipe = Recipe::new();
    let place = Place::new();
    let path = place.path("chain.json");
    recorded(recipe.trainer("there", Fault::None), header(&recipe), &path);
    let recorded = Recorded::load("--against", &path).expect("it was saved");
    // Here one bit of the state is wrong after the step that is kept there.
    let fault = Fault::State { step: KEPT, tensor: 5, element: 1, bit: 3 };
    let mut here = recipe.trainer("here", fault);
    let found = verify(std::slice::from_mut(&mut here), 1, STEPS, |_, _, _| Ok(())).expect("it trains");
    let specs = here.session.train.model.arena.specs.clone();
    let ours = Recorded::new(header(&recipe), &found.records, &specs);
    let mut difference = recorded.first_difference(&ours).expect("a bit was flipped");
    assert_eq!(difference.step, KEPT);
    let chain = recorded.chain_after(KEPT).expect("there is such a step");
    let kept = KeptStep::open(&kept_path(&path, KEPT), KEPT, chain).expect("it was kept");
    let met = kept.meet(&mut here, &found.records).expect("it is replayed");
    assert_eq!(met, Met::Passing);
    difference.explain(met, &recorded.header, &ours.header);
    assert!(difference.likely_cause.contains("passing fault of the hardware here"), "{difference}");

    // Nothing is wrong here, and the step was right there: only the chain's file says something else.
    let mut text: Value = serde_json::from_str(&place.read_text("chain.json")).expect("JSON");
    text["steps"][KEPT as usize - 1]["hashes"][2] = json!("0".repeat(64));
    place.write("chain.json", text.to_string());
    let (found, _) = self::difference(&place, AGAINST);
    assert_eq!((&found["step"], &found["op"]), (&json!(KEPT), &Value::Null));
    assert!(cause(&found).starts_with("the file: the step that was kept there"), "{}", cause(&found));
}

#[test]
fn without_the_step_the_command_that_keeps_it_is_given_and_works() {
    let place = Place::new();
    place.write("tiny.toml", "n-layer = 1\nd-model = 16\nn-head = 2\ncontext = 8\n");
    let flags = "--batch-size 2 --steps 3 --device cpu --config tiny.toml --corpus sums.txt --runs 1";
    place.hlx(&format!("verify {flags} --save chain.json")).text();
    let text = place.read_text("chain.json");
    let mut other: Value = serde_json::from_str(&text).expect("JSON");
    other["steps"][1]["hashes"][4] = json!("0".repeat(64));
    place.write("chain.json", other.to_string());
    let (found, done) = difference(&place, "verify --against chain.json --corpus sums.txt --device cpu");
    let command = "hlx verify --against chain.json --corpus sums.txt --device cpu --save chain.json \
                   --keep-step 2";
    assert_eq!(found["next"], command);
    assert!(done.stderr.contains(command), "{}", done.stderr);
    // On the other machine, where the chain is what comes out.
    place.write("chain.json", &text);
    let kept = place.hlx(command.strip_prefix("hlx ").expect("it begins with the program"));
    assert!(kept.stderr.contains("kept step 2 in chain.json.step-2"), "{}", kept.stderr);
    kept.text();
    assert_eq!(place.read_text("chain.json"), text);
    let step = place.read("chain.json.step-2");

    // The step is of that chain and no other, and is damaged by any bit.
    place.write("chain.json", other.to_string().replace("\"chain\":\"", "\"chain\":\"0"));
    let (found, done) = difference(&place, "verify --against chain.json --corpus sums.txt --device cpu");
    assert_eq!((&found["step"], &found["op"]), (&json!(1), &Value::Null), "{}", done.stderr);
    let mut chained = other.clone();
    chained["steps"][1]["chain"] = json!("0".repeat(64));
    place.write("chain.json", chained.to_string());
    let (found, done) = difference(&place, "verify --against chain.json --corpus sums.txt --device cpu");
    assert!(done.stderr.contains("chain.json.step-2 is a step of another chain"), "{}", done.stderr);
    assert_eq!(found["next"], command);
    place.write("chain.json", other.to_string());
    for at in [0, 100, step.len() / 2, step.len() - 1] {
        let mut damaged = step.clone();
        damaged[at] ^= 4;
        place.write("chain.json.step-2", damaged);
        let (_, done) = difference(&place, "verify --against chain.json --corpus sums.txt --device cpu");
        assert!(done.stderr.contains("chain.json.step-2 is damaged"), "{}", done.stderr);
    }
    for length in [0, 31, 40, step.len() - 1] {
        place.write("chain.json.step-2", &step[..length]);
        let (_, done) = difference(&place, "verify --against chain.json --corpus sums.txt --device cpu");
        assert!(done.stderr.contains("--keep-step"), "{}", done.stderr);
    }
}

#[test]
fn a_chain_that_does_not_come_out_again_is_not_saved_over() {
    let place = Place::new();
    place.write("tiny.toml", "n-layer = 1\nd-model = 16\nn-head = 2\ncontext = 8\n");
    let flags = "--batch-size 2 --steps 2 --device cpu --config tiny.toml --corpus sums.txt --runs 1";
    place.hlx(&format!("verify {flags} --save chain.json")).text();
    let text = place.read_text("chain.json");
    place.write("other.txt", program::sums(13));
    difference(
        &place,
        "verify --against chain.json --corpus other.txt --device cpu --save chain.json --keep-step 1",
    );
    assert_eq!(place.read_text("chain.json"), text);
    assert!(!place.path("chain.json.step-1").exists());
    let late = place.hlx(&format!("verify {flags} --save new.json --keep-step 3"));
    assert_eq!(late.code, Some(2), "{}", late.stderr);
    assert!(late.stderr.contains("--keep-step 3: there are 2 steps"), "{}", late.stderr);
}
