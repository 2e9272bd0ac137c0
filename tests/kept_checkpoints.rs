//! Checkpoints retraced from the start or from the one kept before, with others on the way, and from where
//! their options began to hold.

#[path = "common/program.rs"]
mod program;

use std::fs;

use hlx::checkpoint::{Checkpoint, RunState, Since};
use hlx::model::parameters::parameter_specs;
use hlx::train::digest::digest;
use hlx::train::session::TrainState;
use program::{Done, Place, TINY};
use serde_json::{Value, json};

const RUN: &str = "--dropout 0.1 --lr 1e-2 --steps 20 --digest-every 3 --checkpoint-every-steps 5 \
                   --keep-last 0 --val-fraction 0.2";

/// A run in `run` with checkpoints after 5, 10, 15 and 20 steps.
fn trained() -> Place {
    let place = Place::new();
    place.hlx(&format!("train --corpus sums.txt {TINY} {RUN} --out run --json")).json();
    place
}

fn step(number: u64) -> String {
    format!("run/step-{number:08}")
}

fn load(place: &Place, number: u64) -> Checkpoint {
    Checkpoint::load(&place.path(step(number))).expect("it is whole")
}

fn digest_of(checkpoint: &Checkpoint) -> String {
    let Checkpoint { model, m, v, state, .. } = checkpoint.clone();
    let specs = parameter_specs(&model.config);
    digest(&specs, &TrainState { params: model.tensors, m, v, step: state.step })
}

/// Makes one bit of a kept checkpoint another, well hashed; a thorough forger makes the digest fit too.
fn forge(place: &Place, number: u64, is_thorough: bool) {
    let mut forged = load(place, number);
    forged.v[2][7] = f32::from_bits(forged.v[2][7].to_bits() ^ 1);
    if is_thorough {
        forged.state.digest = digest_of(&forged);
    }
    forged.save(&place.path(step(number))).expect("it can be saved");
}

fn verify(place: &Place, flags: &str) -> Done {
    place.hlx(&format!("verify --device cpu --checkpoint {flags}"))
}

/// The JSON and the message of a verification that finds a difference.
fn mismatch(place: &Place, flags: &str) -> (Value, String) {
    let done = verify(place, &format!("{flags} --json"));
    assert_eq!(done.code, Some(3), "{flags}: {}", done.stderr);
    let json: Value = serde_json::from_str(&done.stdout).expect("stdout is one JSON value");
    assert_eq!(json["identical"], false);
    (json, done.stderr.lines().last().expect("an error is said").to_owned())
}

#[track_caller]
fn assert_parts(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
}

#[test]
fn a_sound_checkpoint_is_retraced_from_the_start_and_from_the_last_kept() {
    let place = trained();
    let json = |flags: &str| verify(&place, &format!("{flags} --json")).json();
    let whole = json("run");
    assert_eq!((&whole["from"], &whole["compared"]), (&json!(0), &json!([5, 10, 15])));
    assert_eq!(json("run --from start"), whole);
    let last = json("run --from last");
    assert_eq!((&last["from"], &last["compared"]), (&json!(15), &json!([])));
    assert_eq!(last["digest"], whole["digest"]);
    let middle = json(&format!("{} --from last", step(10)));
    assert_eq!((&middle["from"], &middle["steps"]), (&json!(5), &json!(10)));
    let first = verify(&place, &format!("{} --from last", step(5)));
    assert_parts(&first.stderr, &["no whole checkpoint", "from the start"]);
    assert_parts(&first.text(), &["after 5 steps"]);
    assert_parts(&verify(&place, "run").text(), &["and so are the 3 checkpoints kept on the way"]);
    let text = verify(&place, "run --from last").text();
    assert_parts(&text, &["from step 15 on, the checkpoint kept before it: digest"]);
    // One that is damaged is passed over, from both.
    fs::write(place.path(step(15)).join("model.safetensors"), "cut").expect("it is there");
    assert_eq!(json("run")["compared"], json!([5, 10]));
    let done = verify(&place, "run --from last --json");
    assert_parts(&done.stderr, &["passing over", "step-00000015", "model.safetensors", "damaged"]);
    assert_eq!(done.json()["from"], 10);
}

#[test]
fn a_forged_checkpoint_is_found_from_both() {
    for is_thorough in [false, true] {
        let place = trained();
        forge(&place, 20, is_thorough);
        for (from, since) in [("start", 0), ("last", 15)] {
            let (found, text) = mismatch(&place, &format!("run --from {from}"));
            let first = &found["first_difference"];
            assert_eq!(
                (&found["from"], &first["step"], &first["ulp"]),
                (&json!(since), &json!(20), &json!(1))
            );
            assert_eq!((&first["element"], &first["checkpoint"]), (&json!(7), &json!(step(20))));
            assert_parts(&text, &["step-00000020 is not what its configuration gives", "v.transformer."]);
        }
    }
    // Only the digest that it says is its own.
    let place = trained();
    let mut forged = load(&place, 20);
    forged.state.digest = "0".repeat(64);
    forged.save(&place.path(step(20))).expect("it can be saved");
    let (found, text) = mismatch(&place, "run");
    assert_eq!(found["first_difference"]["tensor"], "the digest");
    assert_parts(&text, &["every element of step 20 is right"]);
}

#[test]
fn a_forged_predecessor_is_found_on_the_way_and_not_begun_with() {
    // Its digest gives it away: the one before it is begun with, and it is found on the way.
    let place = trained();
    forge(&place, 15, false);
    for (from, since) in [("start", 0), ("last", 10)] {
        let (found, text) = mismatch(&place, &format!("run --from {from}"));
        let first = &found["first_difference"];
        assert_eq!((&found["from"], &first["checkpoint"]), (&json!(since), &json!(step(15))));
        assert_eq!((&first["step"], &first["element"]), (&json!(15), &json!(7)));
        assert_parts(&text, &["step-00000015, met on the way, is not", "step-00000020 itself is what"]);
    }
    let said = verify(&place, "run --from last").stderr;
    assert_parts(&said, &["passing over", "step-00000015: the digest of its tensors is"]);

    // With a digest that fits, it is begun with, and does not lead to the next one.
    let place = trained();
    forge(&place, 15, true);
    let (found, text) = mismatch(&place, "run --from last");
    assert_eq!(found["from"], 15);
    assert_parts(&text, &["the digest of step 18", "from step 15 on", "--from start tells"]);
    let (found, text) = mismatch(&place, "run");
    assert_eq!(found["first_difference"]["checkpoint"], step(15));
    assert_parts(&text, &["step-00000020 itself is what its configuration gives"]);

    // Both are wrong.
    forge(&place, 20, true);
    let (_, text) = mismatch(&place, "run");
    let parts = ["step-00000020 is not what", "before that", "step-00000015, met on the way, is not"];
    assert_parts(&text, &parts);
}

#[test]
fn a_checkpoint_whose_chain_does_not_lead_to_this_one_is_passed_over() {
    let place = trained();
    let mut other = load(&place, 15);
    other.state.chain[0].digest = "0".repeat(64);
    other.save(&place.path(step(15))).expect("it can be saved");
    let done = verify(&place, "run --from last --json");
    assert_parts(&done.stderr, &["passing over", "step-00000015: it does not lead to this one"]);
    assert_eq!(done.json()["from"], 10);
    // Of another training: not compared, and that is said.
    let mut other = load(&place, 15);
    other.state.training_hash = "0".repeat(64);
    other.save(&place.path(step(15))).expect("it can be saved");
    let done = verify(&place, "run --json");
    assert_parts(&done.stderr, &["passing over", "step-00000015: it is of another training"]);
    assert_eq!(done.json()["compared"], json!([5, 10]));
}

#[test]
fn a_checkpoint_alone_is_retraced_with_its_own_options() {
    let place = trained();
    place.copy_folder(&step(20), "elsewhere/alone");
    let line = "verify --device cpu --checkpoint elsewhere/alone --corpus sums.txt --json";
    assert_eq!(place.hlx(line).json()["steps"], 20);
    let without = place.hlx("verify --device cpu --checkpoint elsewhere/alone");
    assert_eq!(without.code, Some(1), "{}", without.stderr);
    assert_parts(&without.stderr, &["is not the text", "--corpus"]);
}

#[test]
fn options_hold_from_one_checkpoint_and_not_from_another_of_its_step() {
    let place = trained();
    place
        .hlx(&format!("train --resume {} --steps 20 --lr 5e-3 --checkpoint-every-steps 10", step(10)))
        .text();
    let since = load(&place, 20).state.unbroken_since.expect("its options changed");
    assert_eq!(since, Since { step: 10, digest: Some(digest_of(&load(&place, 10))) });
    for from in ["start", "last"] {
        // Step 15 is of the run before.
        let done = verify(&place, &format!("run --from {from} --json"));
        assert_parts(&done.stderr, &["passing over", "step-00000015"]);
        let found = done.json();
        assert_eq!((&found["from"], &found["compared"]), (&json!(10), &json!([])));
    }
    // Another branch saves the step: no longer the one.
    place.copy_folder(&step(20), "kept");
    place.hlx(&format!("train --resume {} --steps 10 --lr 2e-2", step(5))).text();
    fs::remove_dir_all(place.path(step(20))).expect("it is there");
    place.copy_folder("kept", &step(20));
    let done = verify(&place, &step(20));
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    let digests = [since.digest.expect("it is kept"), digest_of(&load(&place, 10))];
    let last = done.stderr.lines().last().expect("an error is said");
    assert_parts(last, &["step 10", "step-00000010 is not it", &digests[0], &digests[1], "another branch"]);

    // What an older hlx wrote names the step alone.
    let mut old = load(&place, 20);
    old.state.unbroken_since = Some(Since { step: 10, digest: None });
    old.save(&place.path(step(20))).expect("it can be saved");
    let done = verify(&place, &step(20));
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert_parts(&done.stderr, &["step 10", "did not keep which checkpoint", "--resume"]);
}

#[test]
fn where_options_began_to_hold_is_kept_as_long_as_what_needs_it() {
    let place = Place::new();
    let run = RUN.replace("--keep-last 0", "--keep-last 2").replace("--val-fraction 0.2", "--val-fraction 0");
    place.hlx(&format!("train --corpus sums.txt {TINY} {run} --out run")).text();
    place.hlx("train --resume run --steps 45 --lr 5e-3").text();
    let kept = || -> Vec<String> {
        let names = place.snapshot().into_keys().map(|name| name.to_string_lossy().into_owned());
        names.filter(|name| name.matches('/').count() == 1 && name.contains("step-")).collect()
    };
    assert_eq!(kept(), [20, 40, 45].map(step));
    assert_eq!(verify(&place, "run --json").json()["from"], 20);
    // With other options again, it is needed until what needs it is gone.
    place.hlx("train --resume run --steps 50").text();
    assert_eq!(kept(), [20, 45, 50].map(step));
    fs::remove_dir_all(place.path(step(50))).expect("it is there");
    place.write("run/latest", "step-00000045\n");
    place.hlx("train --resume run --steps 60").text();
    assert_eq!(kept(), [45, 55, 60].map(step));
    let found = verify(&place, "run --json").json();
    assert_eq!((&found["from"], &found["compared"]), (&json!(45), &json!([55])));
}

#[test]
fn a_state_of_version_1_is_read() {
    let place = trained();
    let text = place.read_text(format!("{}/state.json", step(20)));
    for (written, read) in [
        (json!(0), None),
        (json!(12), Some(Since { step: 12, digest: None })),
        (Value::Null, None),
        (json!({"step": 3, "digest": "d"}), Some(Since { step: 3, digest: Some("d".into()) })),
    ] {
        let mut state: Value = serde_json::from_str(&text).expect("JSON");
        state["format_version"] = json!(1);
        state["unbroken_since"] = written;
        state.as_object_mut().expect("an object").remove("options");
        let state: RunState = serde_json::from_value(state).expect("it is read");
        assert_eq!((state.unbroken_since, state.options), (read, None));
    }
}
