//! A run that was stopped and resumed ends in the same bytes as one that never stopped.

#[path = "common/program.rs"]
mod program;

use std::fs;

use program::{Place, TINY};
use serde_json::Value;

/// Dropout and accumulation, and 25.5 steps an epoch: an edge lies between steps 60 and 100, inside a step.
const RUN: &str =
    "--dropout 0.1 --grad-accum 2 --lr 1e-2 --steps 100 --checkpoint-every-steps 60 --eval-every 7";

/// A folder with the run, unbroken, in `run`, and the digest that it printed.
fn unbroken() -> (Place, Value) {
    let place = Place::new();
    let result = place.hlx(&format!("train --corpus sums.txt {TINY} {RUN} --out run --json")).json();
    (place, result["digest"].clone())
}

/// The lines of a run's metrics without what a clock decides.
fn metrics(place: &Place, run: &str) -> Vec<Value> {
    let text = place.read_text(format!("{run}/metrics.jsonl"));
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).expect("each line is JSON");
        let object = line.as_object_mut().expect("each line is an object");
        object.remove("step_ms").expect("a step takes time");
        object.remove("tokens_per_second").expect("a step has a speed");
        line
    };
    text.lines().map(line).collect()
}

fn assert_same_end(place: &Place, run: &str, other: &str) {
    for file in ["model.safetensors", "optimizer.safetensors", "state.json", "config.json", "manifest.json"] {
        let [a, b] = [run, other].map(|run| place.read(format!("{run}/step-00000100/{file}")));
        assert!(a == b, "{file} of step 100 is another in {other}");
    }
    assert_eq!(metrics(place, run), metrics(place, other));
}

#[test]
fn a_run_resumed_from_its_middle_ends_in_the_same_bytes() {
    let (place, digest) = unbroken();
    // As if it had stopped after step 60: the lines of later steps are still in metrics.jsonl.
    place.copy_folder("run", "moved/run");
    fs::remove_dir_all(place.path("moved/run/step-00000100")).expect("the last checkpoint is there");
    place.write("moved/run/latest", "step-00000060\n");
    let epoch = |step: usize| metrics(&place, "run")[step - 1]["epoch"].as_f64().expect("a number");
    assert!(epoch(60).floor() < epoch(100).floor(), "an epoch's edge lies between");

    let resumed = place.hlx("train --resume moved/run --json");
    assert!(resumed.stderr.contains("step-00000060"), "where it goes on from: {}", resumed.stderr);
    assert!(!resumed.stderr.contains("options differ"), "{}", resumed.stderr);
    assert_eq!(resumed.json()["digest"], digest);
    assert_same_end(&place, "run", "moved/run");
}

#[test]
fn a_step_folder_can_be_resumed_though_later_ones_are_there() {
    let (place, digest) = unbroken();
    place.copy_folder("run", "again");
    assert_eq!(place.hlx("train --resume again/step-00000060 --json").json()["digest"], digest);
    assert_same_end(&place, "run", "again");
}

#[test]
fn resume_auto_finds_the_newest_run_and_starts_one_where_there_is_none() {
    let place = Place::new();
    let line = |steps: u32| format!("train --corpus sums.txt {TINY} --steps {steps} --resume --json");
    let started = place.hlx(&line(4));
    assert!(started.stderr.contains("nothing to resume"), "{}", started.stderr);
    assert_eq!(started.json()["checkpoint"].as_str().map(|path| path.ends_with("step-00000004")), Some(true));
    let resumed = place.hlx(&line(6));
    assert!(resumed.stderr.contains("going on from"), "{}", resumed.stderr);
    assert!(
        resumed.stderr.contains("options differ"),
        "another --steps is another schedule: {}",
        resumed.stderr
    );
    assert_eq!(resumed.json()["steps"], 6);
    assert!(place.path("checkpoints/sums-nano/step-00000006").is_dir());
    assert!(!place.path("checkpoints/sums-nano-2").exists());
}

#[test]
fn a_resumed_run_that_ends_before_its_first_save_leaves_its_configuration() {
    let (place, _) = unbroken();
    let before = place.read("run/config.toml");
    let metrics = place.read("run/metrics.jsonl");
    // What a run needs before its first step is in the way.
    fs::remove_file(place.path("run/metrics.jsonl")).expect("it is there");
    fs::create_dir(place.path("run/metrics.jsonl")).expect("it is gone");
    let failed = place.hlx("train --resume run --lr 2e-3 --steps 101");
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains("metrics.jsonl"), "{}", failed.stderr);
    assert!(place.read("run/config.toml") == before, "{}", failed.stderr);
    fs::remove_dir(place.path("run/metrics.jsonl")).expect("it is empty");
    place.write("run/metrics.jsonl", metrics);
    place.hlx("train --resume run --steps 101 --json").json();
    assert!(place.read_text("run/config.toml").contains("steps = 101"));
}

#[test]
fn where_there_is_only_a_configuration_the_run_starts_with_it() {
    let place = Place::new();
    place.hlx(&format!("train --corpus sums.txt {TINY} --steps 3 --out run")).text();
    let text = place.read("run/config.toml");
    fs::remove_dir_all(place.path("run")).expect("it is there");
    fs::create_dir(place.path("run")).expect("it is gone");
    place.write("run/config.toml", text);
    let started = place.hlx("train --out run --resume --json");
    assert!(started.stderr.contains("with the options of its config.toml"), "{}", started.stderr);
    assert_eq!(started.json()["steps"], 3);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let (place, digest) = unbroken();
    let mut model = place.read("run/step-00000100/model.safetensors");
    *model.last_mut().expect("the file has bytes") ^= 1;
    place.write("run/step-00000100/model.safetensors", model);
    let resumed = place.hlx("train --resume run --json");
    for part in ["passing over", "step-00000100", "damaged", "going on from", "step-00000060"] {
        assert!(resumed.stderr.contains(part), "{:?} lacks {part:?}", resumed.stderr);
    }
    assert_eq!(resumed.json()["digest"], digest);
}

#[test]
fn what_a_run_left_behind_when_it_went_on_from_before_is_named_and_can_be_had() {
    let place = Place::new();
    let run = format!("train --corpus sums.txt {TINY} --checkpoint-every-steps 2 --keep-last 0");
    place.hlx(&format!("{run} --steps 6 --out run")).text();
    place.hlx("train --resume run/step-00000002 --steps 4").text();
    assert_eq!(place.read_text("run/latest"), "step-00000004\n");
    place.copy_folder("run", "again");
    place.copy_folder("run", "damaged");

    let resumed = place.hlx("train --resume run --steps 8 --json");
    let left = "passing over run/step-00000006: the run has since gone on from an earlier step";
    for part in [left, "--resume run/step-00000006 takes this one", "going on from run/step-00000004"] {
        assert!(resumed.stderr.contains(part), "{:?} lacks {part:?}", resumed.stderr);
    }
    assert_eq!(resumed.json()["steps"], 8);
    let named = place.hlx("train --resume again/step-00000006 --steps 8 --json");
    assert!(named.stderr.contains("going on from again/step-00000006"), "{}", named.stderr);
    assert!(!named.stderr.contains("passing over"), "{}", named.stderr);
    named.json();

    // Where nothing else is whole it is better than nothing.
    for step in ["2", "4"] {
        place.write(&format!("damaged/step-0000000{step}/model.safetensors"), "cut");
    }
    let last = place.hlx("train --resume damaged --steps 8 --json");
    for part in ["passing over damaged/step-00000004: ", "going on from damaged/step-00000006"] {
        assert!(last.stderr.contains(part), "{:?} lacks {part:?}", last.stderr);
    }
    last.json();
}

/// Ctrl-C after the first step; sending it is the part that is Unix's own.
#[cfg(unix)]
mod interrupt {
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Child, Command};

    use super::*;

    /// Enough steps that the signal arrives while they are taken.
    const LONG: &str = "--dropout 0.1 --grad-accum 2 --steps 2000 --checkpoint-every 0 --val-fraction 0";

    fn send_ctrl_c(child: &Child) {
        let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(sent.expect("kill can be run").success(), "the program has ended before the signal");
    }

    #[test]
    fn ctrl_c_saves_and_the_resumed_run_ends_in_the_same_digest() {
        let place = Place::new();
        let train = format!("train --corpus sums.txt {TINY} {LONG} --json --out");
        let mut child = place.command(&format!("{train} run")).spawn().expect("hlx starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let mut line = String::new();
        while !line.starts_with("step 1/") {
            line.clear();
            assert_ne!(stderr.read_line(&mut line).expect("stderr is text"), 0, "no step was taken");
        }
        send_ctrl_c(&child);
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).expect("stderr is text");
        assert_eq!(child.wait().expect("hlx ends").code(), Some(130), "{rest}");
        let last = rest.lines().last().unwrap_or_default();
        for part in ["stopped after step ", " of 2000 and saved ", "--resume run"] {
            assert!(last.contains(part), "{last:?} lacks {part:?}");
        }
        let mut stdout = String::new();
        child.stdout.take().expect("stdout is piped").read_to_string(&mut stdout).expect("text");
        assert_eq!(stdout, "", "a run that has not ended has no result");

        let unbroken = place.hlx(&format!("{train} unbroken")).json();
        let resumed = place.hlx("train --resume run --json").json();
        assert_eq!(resumed["digest"], unbroken["digest"]);
        assert_eq!(metrics(&place, "run"), metrics(&place, "unbroken"));
    }
}
