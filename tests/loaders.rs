//! Files from outside with anything in them: no loader panics, and none takes memory that the file's size
//! does not warrant.

#[path = "common/fixtures.rs"]
mod fixtures;
#[path = "common/loaders.rs"]
mod loaders;
#[path = "common/mutate.rs"]
mod mutate;
#[path = "common/scale.rs"]
mod scale;
#[path = "common/storage.rs"]
mod storage;

use std::fs;
use std::path::Path;
use std::time::Instant;

use loaders::{TARGETS, Target};
use mutate::Mutator;
use peak_alloc::PeakAlloc;
use scale::{Random, count, report};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// A loader may take this many bytes for each byte of its file: what `[` after `[` takes in memory.
const BYTES_PER_BYTE: usize = 128;
/// The TOML parser keeps every mistake in a file, each with what was expected; the file is short.
const BYTES_PER_BYTE_OF_TOML: usize = 512;
/// And this many whatever the file: for the whole checkpoint beside the file under test.
const BYTES_ANYWAY: usize = 256 << 10;

/// The committed inputs of a target, which mutations start from.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no inputs", folder.display());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs a loader and checks what memory it took.
fn run(target: &Target, input: &[u8]) {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    target.1(input);
    let taken = MEMORY.peak_usage().saturating_sub(before);
    let factor = if target.0 == "config_toml" { BYTES_PER_BYTE_OF_TOML } else { BYTES_PER_BYTE };
    let warranted = BYTES_ANYWAY + factor * input.len();
    assert!(taken <= warranted, "{} took {taken} bytes for an input of {}", target.0, input.len());
}

/// Runs a loader on an input; a panic shows the input, to be added to the committed ones.
fn run_shown(target: &Target, input: &[u8], number: usize) {
    let outcome = std::panic::catch_unwind(|| run(target, input));
    if outcome.is_err() {
        let file = std::env::temp_dir().join(format!("hlx-{}-{number}", target.0));
        fs::write(&file, input).unwrap();
        panic!("{}: input {number} fails; it is kept in {}", target.0, file.display());
    }
}

/// One test, because what each input takes is seen in the memory of the whole process.
#[test]
fn no_input_makes_a_loader_panic_or_take_too_much() {
    loaders::saved();
    let mut all = 0;
    for (index, target) in TARGETS.iter().enumerate().filter(|(_, target)| is_chosen(target.0)) {
        let seeds = seeds(target.0);
        let started = Instant::now();
        seeds.iter().enumerate().for_each(|(number, seed)| run_shown(target, seed, number));
        let mut mutator = Mutator::new(Random(index as u64), seeds);
        let inputs = count(2000, full_count(target.0));
        for number in 0..inputs {
            run_shown(target, mutator.next(), number);
        }
        all += inputs;
        let seconds = started.elapsed().as_secs_f64();
        report(&format!("inputs of the loader {}", target.0), format!("{inputs} in {seconds:.0} s"));
    }
    assert!(all > 0, "no loader was chosen");
    report("inputs of these loaders, no panic, no memory out of proportion", all);
}

/// Those of one kind alone where `HLX_LOADERS` asks for it, so that two processes can share the work.
fn is_chosen(name: &str) -> bool {
    let reads_text = ["tokenizer", "config_toml", "corpus", "jsonl"].contains(&name);
    match std::env::var("HLX_LOADERS").as_deref() {
        Err(_) => true,
        Ok("text") => reads_text,
        Ok("tensors") => !reads_text,
        Ok(other) => panic!("HLX_LOADERS is {other:?}, and `text` and `tensors` mean something"),
    }
}

/// The loaders of text are quick; those of tensors take longer an input.
fn full_count(name: &str) -> usize {
    match name {
        "optimizer" => 250_000,
        "safetensors" | "manifest" | "state" | "model_config" => 500_000,
        _ => 2_200_000,
    }
}
