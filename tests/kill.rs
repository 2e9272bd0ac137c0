//! A run that is killed at any moment goes on from its last save and ends as if nothing had happened.

#[path = "common/program.rs"]
mod program;
#[path = "common/scale.rs"]
mod scale;
#[path = "common/storage.rs"]
mod storage;
#[path = "common/training.rs"]
mod training;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
#[cfg(unix)]
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hlx::checkpoint::{Checkpoint, RunFolder};
use hlx::config::ResumeFrom;
use program::{Place, TINY};
use scale::{Random, count, report};
use storage::{Fault, Faulty};
use tempfile::TempDir;
use training::{dataset, tiny_run};

/// Saves take most of its time, so that most kills strike one.
const RUN: &str = "--dropout 0.1 --steps 24 --checkpoint-every-steps 3 --eval-every 6 --keep-last 2";

/// The number in the last `step-00000012` behind `marker` in a program's messages.
fn last_step(messages: &str, marker: &str) -> Option<u64> {
    let line = messages.lines().rfind(|line| line.contains(marker))?;
    let digits = line.rsplit_once("step-")?.1.trim_end();
    Some(digits.parse().unwrap_or_else(|_| panic!("a step at the end of {line:?}")))
}

/// Starts the run, or goes on with it, and kills it after a time. What it had said by then.
fn kill_after(place: &Place, line: &str, time: Duration) -> String {
    let mut child = place.command(line).spawn().expect("hlx starts");
    std::thread::sleep(time);
    // It may have ended before: then there is nothing left to kill.
    let _ = child.kill();
    child.wait().expect("a killed process ends");
    let mut messages = String::new();
    child.stderr.take().expect("stderr is piped").read_to_string(&mut messages).expect("UTF-8");
    messages
}

/// What `latest` names is a whole checkpoint: its step, or 0 if there is none yet.
fn latest_step(place: &Place, case: &str) -> u64 {
    let run = RunFolder::at(place.path("run"));
    let Some(latest) = run.latest() else { return 0 };
    Checkpoint::load(&latest).unwrap_or_else(|error| panic!("{case}: {error}")).state.step
}

/// True if the kill left a save half-done.
fn struck_a_save(place: &Place) -> bool {
    let Ok(names) = fs::read_dir(place.path("run")) else { return false };
    let mut names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.any(|name| name.starts_with(".step-") || name.ends_with(".tmp"))
}

#[test]
fn a_run_killed_at_any_moment_resumes_to_the_digest_of_the_unbroken_run() {
    let place = Place::new();
    let started = Instant::now();
    let unbroken = place.hlx(&format!("train --corpus sums.txt {TINY} {RUN} --out unbroken --json")).json();
    let whole_time = started.elapsed();
    let line = format!("-v train --corpus sums.txt {TINY} {RUN} --out run --resume --json");
    let mut random = Random(9);
    let (kills, mut killed, mut in_saves) = (count(8, 300), 0, 0);
    while killed < kills {
        let mut saved = 0;
        // Half of the runs are killed again after they went on.
        loop {
            let time = whole_time.mul_f64(random.below(1000) as f64 / 1000.0);
            let messages = kill_after(&place, &line, time);
            let from = last_step(&messages, "going on from").unwrap_or(0);
            assert!(
                messages.is_empty() || from >= saved || !messages.contains("training on"),
                "goes on from {from}, and {saved} was saved: {messages}"
            );
            saved = last_step(&messages, "saved ").unwrap_or(0).max(from).max(saved);
            killed += 1;
            // `latest` names it before the program says so.
            let latest = latest_step(&place, &format!("kill {killed}"));
            assert!(latest >= saved, "kill {killed}: latest is {latest}, and {saved} was saved: {messages}");
            in_saves += usize::from(struck_a_save(&place));
            if random.coin() || killed == kills {
                break;
            }
        }
        let case = format!("kill {killed}");
        if saved < 24 {
            let done = place.hlx(&line);
            let from = last_step(&done.stderr, "going on from").unwrap_or(0);
            assert!(from >= saved, "{case}: goes on from {from}, and {saved} was saved: {}", done.stderr);
            // A kill between the last save and the end leaves a run with no steps to take.
            if !done.stderr.contains("has taken all of its 24 steps") {
                assert_eq!(done.json()["digest"], unbroken["digest"], "{case}");
            }
        }
        assert_eq!(latest_step(&place, &case), 24);
        for file in ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"] {
            let [a, b] = ["unbroken", "run"].map(|run| place.read(format!("{run}/step-00000024/{file}")));
            assert!(a == b, "{case}: {file} of the last step is another");
        }
        fs::remove_dir_all(place.path("run")).expect("the run has ended");
    }
    assert!(in_saves > 0, "no kill struck a save");
    report(
        "kill -9 at random moments, resumed to the bytes of the unbroken run",
        format!("{killed}, {in_saves} of them in a save"),
    );
}

/// A run that goes on from an early checkpoint saves over the folders of the later ones.
#[test]
fn a_run_killed_while_it_saves_over_an_older_step_resumes_to_the_digest_of_the_unbroken_run() {
    let place = Place::new();
    let keep = RUN.replace("--keep-last 2", "--keep-last 0");
    let whole = place.hlx(&format!("train --corpus sums.txt {TINY} {keep} --out whole --json")).json();
    let line = "-v train --resume run/step-00000006 --json";
    let started = Instant::now();
    place.copy_folder("whole", "run");
    assert_eq!(place.hlx(line).json()["digest"], whole["digest"]);
    let time = started.elapsed();
    let mut random = Random(11);
    let (kills, mut in_saves) = (count(6, 60), 0);
    for kill in 1..=kills {
        fs::remove_dir_all(place.path("run")).expect("the run has ended");
        place.copy_folder("whole", "run");
        let messages = kill_after(&place, line, time.mul_f64(random.below(1000) as f64 / 1000.0));
        let case = format!("kill {kill}: {messages}");
        in_saves += usize::from(struck_a_save(&place));
        // From the older run until the first save of this one, and then from this.
        let saved = last_step(&messages, "saved ").unwrap_or(0);
        let latest = latest_step(&place, &case);
        assert!(latest == 24 || latest >= saved.max(9), "latest is {latest}, and {saved} was saved; {case}");
        for step in RunFolder::at(place.path("run")).steps().unwrap() {
            let folder = place.path(format!("run/step-{step:08}"));
            Checkpoint::load(&folder).unwrap_or_else(|error| panic!("step {step}: {error}; {case}"));
        }
        let done = place.hlx(line);
        assert_eq!(done.json()["digest"], whole["digest"], "{case}");
        assert_eq!(latest_step(&place, &case), 24);
        for file in ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"] {
            let [a, b] = ["whole", "run"].map(|run| place.read(format!("{run}/step-00000024/{file}")));
            assert!(a == b, "{file} of the last step is another; {case}");
        }
    }
    report(
        "kill -9 of a run that saves over older steps, resumed to the bytes of the unbroken run",
        format!("{kills}, {in_saves} of them in a save"),
    );
}

/// Where the process that is killed trains, and at which call of its storage it ends.
const FOLDER: &str = "HLX_KILL_FOLDER";
const CALL: &str = "HLX_KILL_CALL";

/// Not a test of its own: what the test below kills.
#[test]
fn a_process_that_ends_at_a_storage_call() {
    let (Ok(path), Ok(call)) = (env::var(FOLDER), env::var(CALL)) else { return };
    let storage = Faulty::new(Fault::Kill, call.parse().expect("a number"));
    training::train(&tiny_run(), &dataset(), &RunFolder::on(Arc::new(storage), path)).expect("it trains");
}

/// Random moments seldom strike what is short: the moment between the folder's name and `latest`, for one.
#[test]
fn a_run_killed_at_any_storage_call_resumes_to_the_digest_of_the_unbroken_run() {
    let (config, data, folder) = (tiny_run(), dataset(), TempDir::new().unwrap());
    let counter = Faulty::none();
    let unbroken = RunFolder::on(Arc::new(counter.clone()), folder.path().join("unbroken"));
    let digest = training::train(&config, &data, &unbroken).unwrap();
    let (mut kills, mut unnamed) = (0, 0);
    for call in (0..counter.calls()).step_by(count(5, 1)) {
        let path = folder.path().join(format!("killed-{call}"));
        let mut process = Command::new(env::current_exe().expect("this test has a path"));
        process.args(["a_process_that_ends_at_a_storage_call", "--exact"]);
        process.env(FOLDER, &path).env(CALL, call.to_string());
        let done = process.output().expect("it can be started");
        let text = || String::from_utf8_lossy(&done.stderr).into_owned();
        #[cfg(unix)]
        assert_eq!(done.status.signal(), Some(6), "it was not aborted at call {call}: {}", text());
        #[cfg(not(unix))]
        assert!(!done.status.success(), "it was not aborted at call {call}: {}", text());
        let run = RunFolder::at(&path);
        let latest = run.latest().map(|latest| Checkpoint::load(&latest).expect("it is whole").state.step);
        let newest = run.steps().unwrap().first().copied();
        let from = run.load_to_resume(&ResumeFrom::Auto).unwrap().map(|(_, found)| found.state.step);
        assert_eq!(from, newest, "call {call}: what has got its name is whole, and gone on from");
        let resumed = training::train(&config, &data, &run).unwrap_or_else(|e| panic!("call {call}: {e}"));
        assert_eq!(resumed, digest, "call {call}");
        kills += 1;
        unnamed += usize::from(newest > latest);
        fs::remove_dir_all(&path).expect("the run has ended");
    }
    assert!(unnamed > 0, "no kill struck between a folder's name and `latest`");
    report(
        "processes killed at a storage call, resumed to the digest of the unbroken run",
        format!("{kills}, {unnamed} of them between a folder's name and `latest`"),
    );
}

/// Reads a program's messages until one has `part` in it.
fn wait_for(child: &mut Child, part: &str) -> String {
    let mut messages = BufReader::new(child.stderr.take().expect("stderr is piped"));
    let mut line = String::new();
    while !line.contains(part) {
        line.clear();
        assert_ne!(messages.read_line(&mut line).expect("stderr is text"), 0, "hlx ended before {part:?}");
    }
    child.stderr = Some(messages.into_inner());
    line
}

#[test]
fn a_second_run_on_a_folder_is_refused_until_the_first_one_is_dead() {
    let place = Place::new();
    let long = "--steps 1000000 --checkpoint-every-steps 50 --val-fraction 0 --out run";
    let mut first = place.command(&format!("-v train --corpus sums.txt {TINY} {long}")).spawn().unwrap();
    wait_for(&mut first, "saved ");
    let before = place.read("run/config.toml");
    for second in [format!("train --corpus sums.txt {TINY} {long}"), "train --resume run".to_owned()] {
        let done = place.hlx(&second);
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        let error = done.stderr.lines().last().unwrap_or_default();
        let process =
            if cfg!(windows) { "another process".into() } else { format!("process {}", first.id()) };
        for part in ["error: run is in use", &process, "another --out"] {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    }
    assert!(place.read("run/config.toml") == before, "a refused run changes nothing");
    first.kill().expect("the first run goes on");
    first.wait().expect("a killed process ends");
    let resumed = place.hlx("train --resume run --steps 1").stderr;
    assert!(!resumed.contains("in use"), "the lock of a dead run is free: {resumed}");
    assert!(resumed.contains("taken all of its 1 steps"), "{resumed}");
}

/// Sending a signal is the part that is Unix's own.
#[cfg(unix)]
mod terminate {
    use super::*;

    fn terminate(child: &Child) {
        let sent = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(sent.expect("kill can be run").success(), "the program has ended before the signal");
    }

    #[test]
    fn a_termination_signal_saves_before_the_end() {
        let place = Place::new();
        let long = "--steps 1000000 --checkpoint-every 0 --val-fraction 0 --out run";
        let mut child = place.command(&format!("train --corpus sums.txt {TINY} {long}")).spawn().unwrap();
        wait_for(&mut child, "step 1/");
        terminate(&child);
        assert_eq!(child.wait().expect("hlx ends").code(), Some(130));
        assert!(place.read_text("run/latest").starts_with("step-"), "the state was saved");
        assert_eq!(place.read_text("run/lock"), "", "the lock was given back");
    }

    #[test]
    fn a_second_signal_does_not_wait_for_the_step() {
        let place = Place::new();
        // A step of many seconds.
        let slow = "--model small --context 64 --batch-size 64 --grad-accum 8 --device cpu --val-fraction 0";
        let line = format!("train --corpus sums.txt {slow} --out run");
        let mut child = place.command(&line).spawn().unwrap();
        wait_for(&mut child, "into run");
        std::thread::sleep(Duration::from_millis(200));
        terminate(&child);
        wait_for(&mut child, "stopping after this step");
        let asked = Instant::now();
        terminate(&child);
        assert_eq!(child.wait().expect("hlx ends").code(), Some(130));
        assert!(asked.elapsed() < Duration::from_secs(2), "it ends at once, not after {:?}", asked.elapsed());
        assert!(!place.path("run/latest").exists(), "nothing was saved");
    }
}
