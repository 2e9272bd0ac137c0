//! Every command as a user runs it: what it prints, what it leaves, and how it ends.

#[path = "common/program.rs"]
mod program;

use program::{Place, TINY, keys, sums};
use serde_json::Value;

/// The keys that a command promises, in alphabetical order.
const TRAIN_KEYS: [&str; 6] =
    ["checkpoint", "digest", "steps", "tokens_per_second", "train_loss", "val_loss"];
const EVAL_KEYS: [&str; 4] = ["bits_per_character", "loss", "perplexity", "tokens"];
const VERIFY_KEYS: [&str; 6] = ["devices", "digest", "first_difference", "identical", "runs", "steps"];
const GEMM_KEYS: [&str; 16] = [
    "batches",
    "checked_elements",
    "device",
    "fastest_ms",
    "frobenius_error",
    "gflops",
    "k",
    "layout",
    "m",
    "max_relative_error",
    "ms",
    "n",
    "operand_sets",
    "packing_ms",
    "precision",
    "products_per_batch",
];
const DEVICE_KEYS: [&str; 6] = ["index", "name", "driver", "kind", "exact", "reason"];
const METRICS_KEYS: [&str; 9] =
    ["epoch", "grad_norm", "lr", "step", "step_ms", "tokens", "tokens_per_second", "train/loss", "val/loss"];

/// A folder with a model of 60 steps in `run`, which has seen enough to prefer some characters.
fn trained() -> Place {
    let place = Place::new();
    place.hlx(&format!("train --corpus sums.txt {TINY} --steps 60 --lr 1e-2 --out run --json")).json();
    place
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} is a number, not {}", value[key]))
}

#[test]
fn train_prints_its_result_and_leaves_a_run_folder() {
    let place = Place::new();
    let line = format!(
        "train --corpus sums.txt {TINY} --steps 25 --checkpoint-every-steps 10 --eval-every 5 --out run \
         --json"
    );
    let done = place.hlx(&line);
    assert!(done.stderr.contains("memory on CPU executor"), "the plan: {}", done.stderr);
    assert!(done.stderr.contains("step 25/25  loss "), "progress: {}", done.stderr);
    let result = done.json();
    assert_eq!(keys(&result), TRAIN_KEYS);
    assert_eq!(result["steps"], 25);
    assert_eq!(result["checkpoint"], "run/step-00000025".replace('/', std::path::MAIN_SEPARATOR_STR));
    assert!(result["digest"].as_str().is_some_and(|digest| digest.len() == 64), "{result}");
    assert!(number(&result, "tokens_per_second") > 0.0);

    let names: Vec<String> = place.snapshot().keys().map(|name| name.display().to_string()).collect();
    let step = ["config.json", "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"];
    let steps = ["run/step-00000010", "run/step-00000020", "run/step-00000025"];
    let mut expected: Vec<String> = ["config.toml", "metrics.jsonl", "latest", "best", "lock"]
        .iter()
        .map(|name| format!("run/{name}"))
        .chain(steps.iter().map(|&folder| folder.to_owned()))
        .chain(steps.iter().flat_map(|folder| step.iter().map(move |name| format!("{folder}/{name}"))))
        .chain(steps.iter().flat_map(|folder| {
            ["tokenizer.json", "tokenizer_config.json"].iter().map(move |name| format!("{folder}/{name}"))
        }))
        .chain(["run", "sums.txt"].map(str::to_owned))
        .map(|name| name.replace('/', std::path::MAIN_SEPARATOR_STR))
        .collect();
    expected.sort();
    let mut names = names;
    names.sort();
    assert_eq!(names, expected);

    let metrics = metrics(&place);
    assert_eq!(metrics.len(), 25);
    for (number, line) in (1..).zip(&metrics) {
        assert_eq!(keys(line), METRICS_KEYS);
        assert_eq!((&line["step"], &line["tokens"]), (&Value::from(number), &Value::from(32 * number)));
        assert_eq!(line["val/loss"].is_null(), number % 5 != 0, "step {number}: {line}");
    }
    assert_eq!(metrics[24]["train/loss"], result["train_loss"]);
    assert_eq!(metrics[24]["val/loss"], result["val_loss"]);

    assert_eq!(place.read_text("run/latest"), "step-00000025\n");
    let lowest = [10, 20, 25].into_iter().min_by(|&a, &b| {
        let loss = |step: usize| number(&metrics[step - 1], "val/loss");
        loss(a).total_cmp(&loss(b))
    });
    assert_eq!(place.read_text("run/best"), format!("step-{:08}\n", lowest.expect("three were saved")));
}

/// The lines of the run's metrics.jsonl.
fn metrics(place: &Place) -> Vec<Value> {
    let text = place.read_text("run/metrics.jsonl");
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

#[test]
fn train_without_json_shows_a_sample_and_says_what_to_try_next() {
    let place = Place::new();
    let text = place.hlx(&format!("train --corpus sums.txt {TINY} --steps 2")).text();
    for part in ["2 steps in", "train loss", "digest", "what it writes now", "try next", "--resume"] {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
    assert!(place.path("checkpoints/sums-nano/step-00000002").is_dir(), "the run's default folder");
    place.hlx(&format!("train --corpus sums.txt {TINY} --steps 2 --json")).json();
    assert!(place.path("checkpoints/sums-nano-2/step-00000002").is_dir(), "the next run's");
}

#[test]
fn a_configuration_file_trains_the_same_run_again() {
    let place = trained();
    let digest = |line: &str| place.hlx(line).json()["digest"].clone();
    let first = digest(&format!("train --corpus sums.txt {TINY} --steps 60 --lr 1e-2 --out a --json"));
    assert_eq!(digest("train --config run/config.toml --out again --json"), first);
    assert_ne!(digest("train --config run/config.toml --seed 2 --out other --json"), first, "flags win");
}

#[test]
fn the_most_recent_checkpoints_and_the_best_are_kept() {
    let place = Place::new();
    // A rate that only does harm, so that the first checkpoint stays the best.
    let line = "--steps 12 --checkpoint-every-steps 3 --keep-last 1 --lr 10 --min-lr 10 --warmup-steps 6";
    place.hlx(&format!("train --corpus sums.txt {TINY} {line} --out run --json")).json();
    let steps: Vec<u64> =
        (1..=12).filter(|step| place.path(format!("run/step-{step:08}")).exists()).collect();
    assert_eq!(steps, [3, 12]);
    assert_eq!(place.read_text("run/best"), "step-00000003\n");
}

#[test]
fn eval_measures_every_position_once() {
    let place = Place::new();
    place.write("val.txt", sums(6));
    let trained = place
        .hlx(&format!("train --corpus sums.txt --val-corpus val.txt {TINY} --steps 10 --out run --json"))
        .json();
    let line = "eval --checkpoint run --corpus val.txt --device cpu --json --batch-size";
    let result = place.hlx(&format!("{line} 4")).json();
    assert_eq!(keys(&result), EVAL_KEYS);
    assert_eq!(result["loss"], trained["val_loss"], "eval and the end of training measure the same");
    let loss = number(&result, "loss");
    assert_eq!(result["tokens"], sums(6).len() - 1);
    assert!((number(&result, "perplexity") - loss.exp()).abs() < 1e-9, "{result}");
    assert!((number(&result, "bits_per_character") - loss / 2f64.ln()).abs() < 1e-9, "{result}");
    let other = place.hlx(&format!("{line} 7")).json();
    assert!((number(&other, "loss") - loss).abs() < 1e-12, "the batch size is a matter of speed: {other}");
    let text = place.hlx("eval --checkpoint run/step-00000010 --corpus val.txt --device cpu").text();
    assert!(text.contains(&format!("loss {loss:.4}")), "{text}");
}

#[test]
fn generate_writes_what_the_seed_says() {
    let place = trained();
    let generate = |flags: &str| {
        place
            .hlx(&format!("generate --checkpoint run --device cpu --prompt 7 --max-tokens 40 {flags}"))
            .text()
    };
    let text = generate("--seed 5");
    assert_eq!(text.chars().count(), 1 + 40 + 1, "the prompt, 40 characters, a line's end: {text:?}");
    assert!(text.starts_with('7') && text.ends_with('\n'), "{text:?}");
    assert_eq!(generate("--seed 5"), text);
    assert_ne!(generate("--seed 6"), text);
    let likeliest = generate("--temperature 0 --seed 5");
    assert_eq!(generate("--temperature 0 --seed 6"), likeliest, "nothing is drawn");
    assert_eq!(generate("--top-k 1 --seed 6"), likeliest);
    assert_eq!(generate("--top-p 1e-9 --seed 6"), likeliest);
    let newline = place.hlx("generate --checkpoint run --device cpu --max-tokens 3").text();
    assert_eq!(newline.chars().count(), 3 + 1, "without a prompt, a text's beginning: {newline:?}");
}

#[test]
fn generate_stops_at_the_end_of_a_text() {
    let place = Place::new();
    place.write("words.jsonl", "{\"text\": \"abc\"}\n".repeat(100));
    let shape = "--n-layer 1 --d-model 16 --n-head 2 --context 8 --device cpu";
    let line = "--steps 80 --lr 2e-2 --warmup-steps 5 --val-fraction 0 --out run --json";
    let result = place.hlx(&format!("train --corpus words.jsonl {shape} {line}")).json();
    assert!(result["val_loss"].is_null(), "nothing to validate on: {result}");
    let flags = "--device cpu --temperature 0 --max-tokens 50";
    assert_eq!(place.hlx(&format!("generate --checkpoint run {flags}")).text(), "abc\n");
    assert_eq!(place.hlx(&format!("generate --checkpoint run {flags} --prompt ab")).text(), "abc\n");
}

#[test]
fn a_model_folder_starts_a_run() {
    let place = trained();
    let line = "train --corpus sums.txt --init-from run --device cpu --batch-size 4 --steps 1 --lr 1e-9";
    let before = place.hlx("eval --checkpoint run --corpus sums.txt --device cpu --json").json();
    place.hlx(&format!("{line} --out further --json")).json();
    let after = place.hlx("eval --checkpoint further --corpus sums.txt --device cpu --json").json();
    let (before, after) = (number(&before, "loss"), number(&after, "loss"));
    assert!((before - after).abs() < 1e-6, "a step of no size changes nothing: {before} and {after}");
}

#[test]
fn a_lost_manifest_is_said() {
    let place = trained();
    let lines = [
        "generate --checkpoint run --device cpu --max-tokens 3",
        "eval --checkpoint run --corpus sums.txt --device cpu",
        "train --corpus sums.txt --init-from run --device cpu --batch-size 4 --steps 1 --out further",
    ];
    let said = |line: &str| place.hlx(line).stderr.matches("has lost its manifest.json").count();
    assert_eq!(said(lines[0]), 0);
    let step = place.read_text("run/latest");
    std::fs::remove_file(place.path("run").join(step.trim()).join("manifest.json")).expect("it is there");
    for line in lines {
        assert_eq!(said(line), 1, "{line}");
    }
}

#[test]
fn verify_finds_the_same_bits() {
    let place = Place::new();
    let result =
        place.hlx("verify --runs 2 --steps 2 --batch-size 1 --grad-accum 2 --devices cpu,cpu --json").json();
    assert_eq!(keys(&result), VERIFY_KEYS);
    assert_eq!(result["identical"], true);
    assert_eq!((&result["runs"], &result["steps"]), (&2.into(), &2.into()));
    assert_eq!(result["devices"], serde_json::json!(["CPU executor", "CPU executor"]));
    assert!(result["first_difference"].is_null());
    let text = place.hlx("verify --runs 1 --steps 2 --batch-size 1 --grad-accum 2 --device cpu").text();
    assert!(text.contains(&format!("digest {}", result["digest"].as_str().expect("text"))), "{text}");
    assert_eq!(text.matches("run 1  step ").count(), 2, "a line a step: {text}");
}

#[test]
fn bench_gemm_measures() {
    let list = Place::new().hlx("bench-gemm 33 8 5 --device cpu --precision exact --json").json();
    let [row] = list.as_array().expect("a list").as_slice() else { panic!("one precision: {list}") };
    assert_eq!(keys(row), GEMM_KEYS);
    assert_eq!([&row["m"], &row["k"], &row["n"]], [33, 8, 5]);
    assert_eq!((&row["device"], &row["precision"]), (&"CPU executor".into(), &"exact".into()));
    assert!(number(row, "ms") > 0.0 && number(row, "gflops") > 0.0);
    assert!((0.0..1e-6).contains(&number(row, "max_relative_error")), "{row}");
    assert!((0.0..1e-6).contains(&number(row, "frobenius_error")), "{row}");
    assert_eq!((&row["layout"], &row["checked_elements"]), (&"nn".into(), &165.into()));
}

#[test]
fn devices_lists_at_least_the_cpu() {
    let place = Place::new();
    let list = place.hlx("devices --json").json();
    let list = list.as_array().expect("a list");
    for device in list {
        let found = keys(device);
        assert!(DEVICE_KEYS.iter().all(|key| found.contains(key)), "{device}");
        assert_eq!(device["exact"] == true, device["reason"].is_null(), "a reason where not exact: {device}");
    }
    assert_eq!((&list[0]["index"], &list[0]["exact"]), (&"cpu".into(), &true.into()));
    let text = place.hlx("devices").text();
    assert!(text.starts_with("cpu  CPU executor"), "{text}");
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_nothing_of_it_is_saved() {
    let place = Place::new();
    let line =
        "--steps 30 --lr 100 --weight-decay 100 --warmup-steps 0 --checkpoint-every-steps 30 --out run";
    let done = place.hlx(&format!("train --corpus sums.txt {TINY} {line}"));
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    let last = done.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: the loss is not a finite number at step "), "{last}");
    assert!(last.contains("lower --lr"), "what to do: {last}");
    let names: Vec<_> = place.snapshot().into_keys().filter(|name| name.starts_with("run")).collect();
    assert!(!names.iter().any(|name| name.display().to_string().contains("step-")), "{names:?}");
}
