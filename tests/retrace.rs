//! Verification across machines and times: recorded chains, and checkpoints trained again.

#[path = "common/program.rs"]
mod program;

use hlx::checkpoint::Checkpoint;
use program::{Place, TINY};
use serde_json::Value;

const VERIFY: &str =
    "verify --batch-size 2 --grad-accum 2 --steps 3 --device cpu --config tiny.toml --corpus sums.txt";
const SHAPE: &str = "n-layer = 1\nd-model = 16\nn-head = 2\ncontext = 8\n";

fn place() -> Place {
    let place = Place::new();
    place.write("tiny.toml", SHAPE);
    place
}

/// The JSON that a verification with a difference prints.
fn mismatch(place: &Place, line: &str) -> Value {
    let done = place.hlx(&format!("{line} --json"));
    assert_eq!(done.code, Some(3), "hlx {line}: {}", done.stderr);
    let last = done.stderr.lines().last().expect("an error is said");
    assert!(last.starts_with("error: "), "{}", done.stderr);
    let json: Value = serde_json::from_str(&done.stdout).expect("stdout is one JSON value");
    assert_eq!(json["identical"], false);
    json["first_difference"].clone()
}

#[test]
fn a_recorded_chain_is_met_again() {
    let place = place();
    let digest = place.hlx(&format!("{VERIFY} --runs 1 --save chain.json --json")).json()["digest"].clone();
    // The file says what to train; only the text must be given again.
    let again = place.hlx("verify --against chain.json --corpus sums.txt --device cpu --json").json();
    assert_eq!((&again["identical"], &again["runs"], &again["steps"]), (&true.into(), &1.into(), &3.into()));
    assert_eq!(again["digest"], digest);
}

#[test]
fn what_differs_from_a_recorded_chain_is_named_with_its_likely_cause() {
    let place = place();
    place.hlx(&format!("{VERIFY} --runs 1 --save chain.json")).text();
    let against = "verify --against chain.json --device cpu";

    place.write("other.txt", program::sums(13));
    let text = mismatch(&place, &format!("{against} --corpus other.txt"));
    assert_eq!(text["step"], 1);
    assert!(text["likely_cause"].as_str().expect("text").contains("corpus"), "{text}");

    for other in ["--seed 2", "--steps 5", "--steps 2"] {
        let done = place.hlx(&format!("{against} --corpus sums.txt {other}"));
        assert_eq!(done.code, Some(2), "{other}: {}", done.stderr);
        assert!(done.stderr.contains("leave"), "{other}: {}", done.stderr);
    }

    // Another machine's chain with one bit of one hash, or of one loss, otherwise.
    let recorded: Value = serde_json::from_str(&place.read_text("chain.json")).expect("JSON");
    let mut other = recorded.clone();
    let hash = &mut other["steps"][1]["hashes"][7];
    *hash = format!("{}0", &hash.as_str().expect("a hash")[..63]).into();
    other["header"]["driver"] = "another driver".into();
    place.write("chain.json", other.to_string());
    let found = mismatch(&place, &format!("{against} --corpus sums.txt"));
    assert_eq!((&found["step"], &found["tensor"]), (&2.into(), &recorded["tensors"][7]));
    assert!(found["likely_cause"].as_str().expect("text").contains("driver: another driver"), "{found}");

    let mut other = recorded.clone();
    other["steps"][2]["loss"] = "3f800000".into();
    place.write("chain.json", other.to_string());
    let found = mismatch(&place, &format!("{against} --corpus sums.txt"));
    assert_eq!(
        (&found["step"], &found["tensor"], &found["reference"]),
        (&3.into(), &"loss".into(), &"3f800000".into())
    );
}

#[test]
fn what_is_to_be_done_is_what_a_verification_can_do() {
    let place = place();
    // A learning rate that ends every training.
    place.write("wild.toml", format!("{SHAPE}lr = 100\nmin-lr = 100\nwarmup-steps = 0\ngrad-clip = 0\n"));
    let line = "verify --batch-size 2 --device cpu --corpus sums.txt --runs 1";
    let wild = place.hlx(&format!("{line} --config wild.toml --steps 200"));
    assert_eq!(wild.code, Some(1), "{}", wild.stderr);
    let last = wild.stderr.lines().last().expect("an error is said");
    for part in ["at step ", "fewer --steps", "--config"] {
        assert!(last.contains(part), "{last:?} lacks {part:?}");
    }
    assert!(!last.contains("--resume") && !last.contains("--lr"), "{last:?}");
    // Of a file's own options none can be changed.
    place.hlx(&format!("{VERIFY} --runs 1 --save chain.json")).text();
    let mut chain: Value = serde_json::from_str(&place.read_text("chain.json")).expect("JSON");
    chain["header"]["options"]["precision"] = "mixed".into();
    place.write("chain.json", chain.to_string());
    let done = place.hlx("verify --against chain.json --corpus sums.txt --device cpu");
    assert_eq!(done.code, Some(4), "{}", done.stderr);
    let remedy = "(but the options are those of chain.json: take another --device)";
    assert!(done.stderr.contains(remedy), "{}", done.stderr);
    chain["header"]["options"]["precision"] = "exact".into();
    chain["header"]["options"]["lr"] = 100.0.into();
    chain["header"]["options"]["min-lr"] = 100.0.into();
    chain["header"]["options"]["warmup-steps"] = 0.into();
    chain["header"]["options"]["grad-clip"] = 0.0.into();
    chain["header"]["options"]["steps"] = 200.into();
    place.write("chain.json", chain.to_string());
    let done = place.hlx("verify --against chain.json --corpus sums.txt --device cpu");
    assert_eq!(done.code, Some(3), "{}", done.stderr);
    assert!(done.stderr.contains("not a finite number at step"), "{}", done.stderr);
    assert!(done.stderr.contains("here, and was there"), "{}", done.stderr);
    // A smaller model without a file.
    let deep = place.hlx(&format!("{line} --steps 1 --context 4 --json")).json();
    assert_eq!(deep["steps"], 1);
}

#[test]
fn a_chain_file_that_is_none_is_refused() {
    let place = place();
    for (content, part) in [("{", "chain.json"), ("{\"format_version\":9}", "--save"), ("[]", "--save")] {
        place.write("chain.json", content);
        let done = place.hlx("verify --against chain.json --device cpu");
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        assert!(done.stderr.contains(part) && done.stderr.lines().count() == 1, "{}", done.stderr);
    }
}

const RUN: &str =
    "--dropout 0.1 --lr 1e-2 --steps 20 --digest-every 5 --checkpoint-every-steps 10 --val-fraction 0.2";

#[test]
fn a_checkpoint_is_what_its_configuration_gives() {
    let place = place();
    let run = place.hlx(&format!("train --corpus sums.txt {TINY} {RUN} --out run --json")).json();
    let found = place.hlx("verify --checkpoint run --device cpu --json").json();
    assert_eq!((&found["identical"], &found["steps"]), (&true.into(), &20.into()));
    assert_eq!(found["digest"], run["digest"]);
    let middle = place.hlx("verify --checkpoint run/step-00000010 --device cpu").text();
    assert!(middle.contains("is what its configuration gives after 10 steps"), "{middle}");

    let state: Value = serde_json::from_str(&place.read_text("run/step-00000020/state.json")).expect("JSON");
    let steps: Vec<&Value> =
        state["chain"].as_array().expect("a list").iter().map(|link| &link["step"]).collect();
    assert_eq!(steps, [5, 10, 15, 20]);

    // A resumed run carries the chain on.
    place.copy_folder("run", "other");
    std::fs::remove_dir_all(place.path("other/step-00000020")).expect("the last checkpoint is there");
    place.write("other/latest", "step-00000010\n");
    place.hlx("train --resume other --json").json();
    let resumed: Value =
        serde_json::from_str(&place.read_text("other/step-00000020/state.json")).expect("JSON");
    assert_eq!(resumed["chain"], state["chain"]);
}

#[test]
fn a_checkpoint_that_is_something_else_is_told_from_it() {
    let place = place();
    place.hlx(&format!("train --corpus sums.txt {TINY} {RUN} --out run")).text();
    let folder = place.path("run/step-00000020");
    let honest = Checkpoint::load(&folder).expect("it is whole");

    // Whole and well hashed, but one bit of a moment is not what training gives.
    let mut forged = honest.clone();
    forged.m[3][5] = f32::from_bits(forged.m[3][5].to_bits() ^ 1);
    forged.save(&folder).expect("it can be saved");
    let found = mismatch(&place, "verify --checkpoint run --device cpu");
    assert_eq!(
        (&found["element"], &found["ulp"], &found["elements_different"]),
        (&5.into(), &1.into(), &1.into())
    );
    assert!(found["tensor"].as_str().expect("a name").starts_with("m.transformer."), "{found}");

    let mut forged = honest.clone();
    forged.state.chain[2].digest = "0".repeat(64);
    forged.save(&folder).expect("it can be saved");
    let found = mismatch(&place, "verify --checkpoint run --device cpu");
    assert_eq!(found["step"], 15);

    honest.save(&folder).expect("it can be saved");
    let other = place.hlx("verify --checkpoint run --device cpu --corpus other.txt");
    assert_eq!(other.code, Some(1), "{}", other.stderr);
    place.write("other.txt", program::sums(13));
    let other = place.hlx("verify --checkpoint run --device cpu --corpus other.txt");
    assert!(other.stderr.contains("other.txt is not the text"), "{}", other.stderr);
}

#[test]
fn a_checkpoint_after_options_changed_is_retraced_from_where_they_did() {
    let place = place();
    place.hlx(&format!("train --corpus sums.txt {TINY} {RUN} --out run")).text();
    place.hlx("train --resume run --steps 40 --lr 5e-3").text();
    let found = place.hlx("verify --checkpoint run --device cpu").text();
    for part in ["after 40 steps", "from step 20 on, where its options changed"] {
        assert!(found.contains(part), "{found}");
    }
    // Resumed once more, with nothing changed: it still holds from step 20.
    std::fs::remove_dir_all(place.path("run/step-00000040")).expect("the last checkpoint is there");
    place.hlx("train --resume run").text();
    place.hlx("verify --checkpoint run --device cpu --json").json();
    // What was saved before has its own options.
    let early = place.hlx("verify --checkpoint run/step-00000020 --device cpu --json").json();
    assert_eq!((&early["steps"], &early["from"]), (&20.into(), &0.into()));
    std::fs::remove_dir_all(place.path("run/step-00000020")).expect("it is kept");
    let gone = place.hlx("verify --checkpoint run --device cpu");
    assert_eq!(gone.code, Some(1), "{}", gone.stderr);
    assert!(gone.stderr.contains("went on from step 20 with other options"), "{}", gone.stderr);
}

#[test]
fn weights_that_a_run_started_from_and_that_have_changed_are_told() {
    let place = place();
    place.hlx(&format!("train --corpus sums.txt {TINY} {RUN} --out first")).text();
    place.copy_folder("first/step-00000020", "weights");
    place.hlx(&format!("train --corpus sums.txt --init-from weights --batch-size 2 {RUN} --out run")).text();
    place.hlx("verify --checkpoint run --device cpu --json").json();
    // Of the same shape, and of another with more tensors.
    let deep = TINY.replace("--n-layer 1", "--n-layer 3");
    place.hlx(&format!("train --corpus sums.txt {deep} {RUN} --out deep")).text();
    for weights in ["first/step-00000010", "deep/step-00000020"] {
        std::fs::remove_dir_all(place.path("weights")).expect("they are there");
        place.copy_folder(weights, "weights");
        let other = place.hlx("verify --checkpoint run --device cpu");
        assert_eq!(other.code, Some(1), "{}", other.stderr);
        assert!(
            other.stderr.contains("weights has other weights than when this run started"),
            "{}",
            other.stderr
        );
    }
}

#[test]
fn a_checkpoint_of_another_device_is_not_judged_where_bits_are_a_devices_own() {
    let place = place();
    place.hlx(&format!("train --corpus sums.txt {TINY} {RUN} --precision f32 --out run")).text();
    place.hlx("verify --checkpoint run --device cpu --json").json();
    let folder = place.path("run/step-00000010");
    let mut other = Checkpoint::load(&folder).expect("it is whole");
    assert_eq!(other.state.device, "CPU executor");
    other.state.driver = "hlx of another time".into();
    other.save(&folder).expect("it can be saved");
    let done = place.hlx("verify --checkpoint run/step-00000010 --device cpu");
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(done.stderr.contains("same bits on one device only"), "{}", done.stderr);
    // A run that goes on elsewhere says so, and holds from there.
    let resumed = place.hlx("train --resume run/step-00000010");
    assert!(
        resumed.stderr.contains("was trained on CPU executor (hlx of another time)"),
        "{}",
        resumed.stderr
    );
    let found = place.hlx("verify --checkpoint run/step-00000020 --device cpu").text();
    assert!(found.contains("from step 10 on"), "{found}");

    place.hlx(&format!("train --corpus sums.txt {TINY} {RUN} --out exact")).text();
    assert!(!place.read_text("exact/step-00000010/state.json").contains("device"));
}
