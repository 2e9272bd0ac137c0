//! A run whose storage fails or ends at any one call loses nothing that it had saved.

#[path = "common/fixtures.rs"]
mod fixtures;
#[path = "common/scale.rs"]
mod scale;
#[path = "common/storage.rs"]
mod storage;
#[path = "common/training.rs"]
mod training;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use fixtures::{checkpoint, small_shape};
use hlx::checkpoint::{Checkpoint, RunFolder};
use hlx::config::{ResumeFrom, TrainConfig};
use hlx::data::Dataset;
use scale::{Random, count, report};
use storage::{EACCES, EIO, ENOSPC, EROFS, Fault, Faulty};
use tempfile::TempDir;
use training::{dataset, tiny_run, train};

/// The newest step of a run that `latest` names and that is whole.
fn saved_step(run: &RunFolder) -> Option<u64> {
    let latest = run.latest()?;
    Some(Checkpoint::load(&latest).expect("what `latest` names is whole").state.step)
}

/// A run that goes on after its storage ended it at one call, and is ended again at a call of going on. Where
/// and how, for messages.
struct Ends {
    first: (Fault, usize),
    again: Option<(Fault, usize)>,
}

/// What was saved before the last of the ends, and the step that the run then goes on from to its end.
fn end_and_resume(config: &TrainConfig, data: &Dataset, digest: &str, ends: &Ends) -> usize {
    let place = TempDir::new().unwrap();
    let path = place.path().join("run");
    let mut runs = 0;
    let (mut saved, mut struck) = (0, Vec::new());
    for (fault, at) in [Some(ends.first), ends.again].into_iter().flatten() {
        let faulty = Faulty::new(fault, at);
        let ended = train(config, data, &RunFolder::on(Arc::new(faulty.clone()), &path));
        let case = format!("{fault:?} at call {at}, after {struck:?}");
        // Going on may take fewer calls than that.
        let Some(call) = faulty.struck() else {
            assert_eq!(ended.unwrap_or_else(|error| panic!("{case}: {error}")), digest, "{case}");
            continue;
        };
        assert!(ended.is_err(), "{case} did not end the run");
        struck.push((fault, call));
        let now = saved_step(&RunFolder::on(Arc::new(Faulty::none()), &path)).unwrap_or(0);
        assert!(now >= saved, "{struck:?}: {now} is saved, and {saved} was");
        (saved, runs) = (now, runs + 1);
    }
    let run = RunFolder::on(Arc::new(Faulty::none()), &path);
    let from = run.load_to_resume(&ResumeFrom::Auto).unwrap().map_or(0, |(_, found)| found.state.step);
    assert!(from >= saved, "{struck:?}: goes on from {from}, and {saved} was saved");
    let resumed = train(config, data, &run).unwrap_or_else(|e| panic!("{struck:?}: {e}"));
    assert_eq!(resumed, digest, "{struck:?}");
    assert_eq!(saved_step(&run), Some(6), "{struck:?}");
    runs
}

#[test]
fn a_run_ended_at_any_storage_call_resumes_to_the_digest_of_the_unbroken_run() {
    let (config, data) = (tiny_run(), dataset());
    let unbroken = TempDir::new().unwrap();
    let counter = Faulty::none();
    let folder = RunFolder::on(Arc::new(counter.clone()), unbroken.path().join("run"));
    let digest = train(&config, &data, &folder).unwrap();
    let (mut ends, mut twice) = (0, 0);
    let mut random = Random(3);
    for fault in [Fault::Abort, Fault::AbortHalfway] {
        // Steps that share no factor with the calls of a save reach every kind of call.
        for at in (0..counter.calls()).step_by(count(5, 1)) {
            let first = (fault, at);
            ends += end_and_resume(&config, &data, &digest, &Ends { first, again: None });
            // Ended once more, early in going on or later.
            for calls in [12, 12, counter.calls()].into_iter().take(count(1, 3)) {
                let kind = if random.coin() { Fault::Abort } else { Fault::AbortHalfway };
                let again = Some((kind, random.below(calls)));
                let struck = end_and_resume(&config, &data, &digest, &Ends { first, again });
                twice += usize::from(struck == 2);
            }
        }
    }
    report("ends at a storage call, each resumed to the digest of the unbroken run", ends);
    report("and ended once more while going on, resumed to the digest of the unbroken run", twice);
    assert!(4 * twice > ends, "{twice} runs ended twice");
}

/// On Windows a virus scanner may have a file open for a moment: nobody can rename it then.
#[test]
fn what_is_busy_for_a_moment_is_tried_again() {
    let (mut struck, mut kinds) = (0, BTreeSet::new());
    for step in [30, 20] {
        let counter = Faulty::none();
        let place = TempDir::new().unwrap();
        two_saves(place.path());
        let counted = RunFolder::on(Arc::new(counter.clone()), place.path());
        counted.save(&checkpoint(&small_shape(), step), 2).unwrap();
        for at in 0..counter.calls() {
            let place = TempDir::new().unwrap();
            two_saves(place.path());
            let faulty = Faulty::new(Fault::Busy(2), at);
            let run = RunFolder::on(Arc::new(faulty.clone()), place.path());
            let saved = run.save(&checkpoint(&small_shape(), step), 2);
            let Some((what, path)) = faulty.struck() else { continue };
            let case = format!("{what} {}", path.display());
            assert_eq!(
                saved.unwrap_or_else(|error| panic!("{case}: {error}")),
                run.step_folder(step),
                "{case}"
            );
            assert_eq!(saved_step(&RunFolder::at(place.path())), Some(step), "{case}");
            kinds.insert(what);
            struck += 1;
        }
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["create", "remove_folder", "rename"]);
    // Not for ever, and an error that does not pass not at all.
    for (fault, tries) in [(Fault::Busy(1_000), 8), (Fault::Error(EACCES), 1)] {
        let place = TempDir::new().unwrap();
        two_saves(place.path());
        let renames = Faulty::new(fault, first_rename());
        let run = RunFolder::on(Arc::new(renames.clone()), place.path());
        let error = run.save(&checkpoint(&small_shape(), 30), 2).unwrap_err().to_string();
        assert!(error.contains("ermission denied"), "{error}");
        assert_eq!(renames.tries(), tries, "{fault:?}");
    }
    report("calls of a save refused twice as by a virus scanner, saved all the same", struck);
}

/// The number of a save's first call that renames something.
fn first_rename() -> usize {
    (0..)
        .find(|&at| {
            let place = TempDir::new().unwrap();
            two_saves(place.path());
            let faulty = Faulty::new(Fault::Error(EIO), at);
            let _ = RunFolder::on(Arc::new(faulty.clone()), place.path())
                .save(&checkpoint(&small_shape(), 30), 2);
            faulty.struck().is_some_and(|(what, _)| what == "rename")
        })
        .expect("a save renames")
}

/// A run's folder with checkpoints of steps 10 and 20, on the disk.
fn two_saves(path: &Path) -> RunFolder {
    let run = RunFolder::on(Arc::new(Faulty::none()), path);
    for step in [10, 20] {
        run.save(&checkpoint(&small_shape(), step), 2).unwrap();
    }
    run
}

/// Saves a step with a fault at one call, and checks what is left. True if the fault struck.
fn save_with(fault: Fault, at: usize, step: u64) -> bool {
    let place = TempDir::new().unwrap();
    let path = place.path();
    two_saves(path);
    let faulty = Faulty::new(fault, at);
    let saved = RunFolder::on(Arc::new(faulty.clone()), path).save(&checkpoint(&small_shape(), step), 2);
    let Some((what, struck)) = faulty.struck() else {
        saved.expect("nothing was in its way");
        return false;
    };
    let run = RunFolder::at(path);
    let case = format!("{fault:?} at call {at}, {what} {}", struck.display());
    let latest = saved_step(&run).unwrap_or_else(|| panic!("{case}: `latest` names nothing"));
    if fault == Fault::ShortWrite && what == "write" {
        assert_eq!(saved.unwrap_or_else(|error| panic!("{case}: {error}")), run.step_folder(step));
        assert_eq!(latest, step, "{case}: the rest is written after a short write");
    } else {
        let error = saved.expect_err(&case);
        assert_eq!(error.exit_code(), 1, "{case}");
        let message = error.to_string();
        let name = struck.file_name().unwrap().to_string_lossy().replace(".tmp", "").replace(".old", "");
        assert!(message.contains(name.trim_start_matches('.')), "{case}: {message:?} lacks {name}");
        assert!(message.contains("--resume"), "{case}: {message:?} has no remedy");
        assert!(!message.contains('\n'), "{case}: {message:?}");
        assert!(latest == 20 || latest == step, "{case}: latest is {latest}");
    }
    let loaded = Checkpoint::load(&run.step_folder(latest)).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert!(loaded == checkpoint(&small_shape(), latest), "{case}: step {latest} is another");
    let (_, resumed) = run.load_to_resume(&ResumeFrom::Auto).unwrap().unwrap();
    assert!(resumed == checkpoint(&small_shape(), resumed.state.step), "{case}");
    assert!(resumed.state.step >= 20.min(step), "{case}: goes on from {}", resumed.state.step);
    true
}

#[test]
fn an_error_at_any_storage_call_is_named_and_leaves_the_old_checkpoint() {
    let faults = [EIO, ENOSPC, EROFS].map(Fault::Error).into_iter().chain([Fault::ShortWrite, Fault::Full]);
    let mut cases = 0;
    for fault in faults {
        // A new step, and one whose folder is there already.
        for step in [30, 20] {
            cases += (0..).take_while(|&at| save_with(fault, at, step)).count();
        }
    }
    report("errors and short writes at a storage call of a save, named, old checkpoint whole", cases);
}

#[test]
fn keeping_the_last_never_removes_the_best_or_the_one_just_written() {
    let place = TempDir::new().unwrap();
    let run = two_saves(place.path());
    let mut next = checkpoint(&small_shape(), 30);
    next.state.best_step = Some(10);
    std::fs::write(place.path().join("best"), "step-00000010\n").unwrap();
    run.save(&next, 1).unwrap();
    assert_eq!(run.steps().unwrap(), [30, 10]);
    // What `best` names cannot be told: nothing is removed on a guess.
    std::fs::remove_file(place.path().join("best")).unwrap();
    std::fs::create_dir(place.path().join("best")).unwrap();
    next.state.step = 40;
    let error = run.save(&next, 1).unwrap_err().to_string();
    assert!(error.contains("best"), "{error}");
    assert_eq!(run.steps().unwrap(), [40, 30, 10]);
    assert_eq!(saved_step(&run), Some(40));
}

#[test]
fn a_whole_checkpoint_that_latest_does_not_name_yet_is_what_a_run_goes_on_from() {
    let mut newer = 0;
    // A new step, and one that a run resumed from step 10 writes over.
    for step in [30, 20] {
        for at in 0.. {
            let place = TempDir::new().unwrap();
            two_saves(place.path());
            let mut next = checkpoint(&small_shape(), step);
            next.state.windows += 1;
            let faulty = Faulty::new(Fault::Abort, at);
            let _ = RunFolder::on(Arc::new(faulty.clone()), place.path()).save(&next, 2);
            if faulty.struck().is_none() {
                break;
            }
            let run = RunFolder::at(place.path());
            let is_there = Checkpoint::load(&run.step_folder(step)).is_ok_and(|found| found == next);
            let (folder, found) = run.load_to_resume(&ResumeFrom::Auto).unwrap().unwrap();
            let case = format!("step {step} ended at call {at}, {:?}: {}", faulty.struck(), folder.display());
            assert_eq!(found == next, is_there, "{case}");
            newer += usize::from(is_there && saved_step(&run) != Some(step));
        }
    }
    assert!(newer > 0, "no save ended between the folder's name and `latest`");
}

#[test]
fn an_error_at_any_storage_call_of_claiming_a_folder_is_named_and_leaves_no_run() {
    // Only the default names are relative: no other test here has a path that is not absolute.
    let place = TempDir::new().unwrap();
    std::env::set_current_dir(place.path()).unwrap();
    let mut struck_calls = Vec::new();
    for out in [None, Some(place.path().join("given"))] {
        let mut config = tiny_run();
        config.out = out;
        for at in 0.. {
            for left in ["checkpoints", "given"] {
                let _ = std::fs::remove_dir_all(place.path().join(left));
            }
            let faulty = Faulty::new(Fault::Error(EIO), at);
            let claimed = RunFolder::claim_on(Arc::new(faulty.clone()), &config);
            let Some((what, path)) = faulty.struck() else {
                let (run, _lock) = claimed.unwrap();
                assert!(run.config_file().exists());
                break;
            };
            struck_calls.push(what);
            // A hint, which the claim does without.
            if what == "read" && path.ends_with("saving") {
                drop(claimed.unwrap());
                continue;
            }
            let error = claimed.expect_err(what);
            assert_eq!(error.exit_code(), 1, "{what}");
            let message = error.to_string();
            let name = path.file_name().map_or(".".into(), |name| name.to_string_lossy().replace(".tmp", ""));
            assert!(message.contains(&name) && !message.contains('\n'), "{what}: {message:?} lacks {name}");
        }
    }
    for what in ["create_new_folder", "create_folder", "lock", "sync_folder", "write", "sync", "rename"] {
        assert!(struck_calls.contains(&what), "{what} is not among {struck_calls:?}");
    }
    report("errors at a storage call of claiming a run's folder", struck_calls.len());
}
