//! A run that goes on with new options has them from its first save on, and not a moment sooner: its process
//! ends at each storage call of that save in turn.

#[path = "common/scale.rs"]
mod scale;
#[path = "common/storage.rs"]
mod storage;
#[path = "common/training.rs"]
mod training;

use std::path::Path;
use std::sync::Arc;

use hlx::checkpoint::{Checkpoint, RunFolder};
use hlx::config::{Length, ResumeFrom, TrainConfig};
use scale::report;
use storage::{Fault, Faulty};
use tempfile::TempDir;
use training::{dataset, tiny_run, train};

/// The run goes on to step 8 with another learning rate, and with other files about it.
fn new_options() -> TrainConfig {
    let mut config = tiny_run();
    (config.lr, config.length, config.digest_every) = (0.02, Length::Steps(8), 1);
    config
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match source.is_dir() {
            true => copy(&source, &target),
            false => drop(std::fs::copy(source, target).unwrap()),
        }
    }
}

/// What a run that goes on finds: the text of config.toml, and the checkpoint.
fn found(path: &Path) -> (String, Checkpoint) {
    let run = RunFolder::at(path);
    let _lock = run.lock().unwrap();
    run.finish_save().unwrap();
    let (_, checkpoint) = run.load_to_resume(&ResumeFrom::Auto).unwrap().unwrap();
    (std::fs::read_to_string(run.config_file()).unwrap(), checkpoint)
}

#[test]
fn new_options_come_with_the_first_save_that_has_them() {
    let (old, new, data) = (tiny_run(), new_options(), dataset());
    let place = TempDir::new().unwrap();
    let first = place.path().join("first");
    train(&old, &data, &RunFolder::at(&first)).unwrap();
    let digest = {
        let unbroken = place.path().join("unbroken");
        copy(&first, &unbroken);
        train(&new, &data, &RunFolder::at(&unbroken)).unwrap()
    };
    let texts = [&old, &new].map(|config| config.to_toml().unwrap());
    let hashes = [&old, &new].map(|config| config.training_hash().unwrap());
    let (mut ended, mut with_new) = (0, 0);
    for fault in [Fault::Abort, Fault::AbortHalfway] {
        for at in 0.. {
            let path = place.path().join("run");
            let _ = std::fs::remove_dir_all(&path);
            copy(&first, &path);
            let faulty = Faulty::new(fault, at);
            let result = train(&new, &data, &RunFolder::on(Arc::new(faulty.clone()), &path));
            if faulty.struck().is_none() {
                assert_eq!(result.unwrap(), digest);
                break;
            }
            let case = format!("{fault:?} at call {at}, {:?}", faulty.struck());
            let (text, checkpoint) = found(&path);
            let is_new = checkpoint.state.step > 6;
            assert_eq!(text, texts[usize::from(is_new)], "{case}: config.toml");
            assert_eq!(checkpoint.state.training_hash, hashes[usize::from(is_new)], "{case}");
            let options = checkpoint.state.options.expect("it has its options");
            assert_eq!(options, [&old, &new][usize::from(is_new)].training_options(), "{case}");
            ended += 1;
            with_new += usize::from(is_new);
        }
    }
    assert!(with_new > 0 && with_new < ended, "{with_new} of {ended} had the new options");
    report("ends at a storage call of a run with new options: config.toml is of the checkpoint", ended);
}

#[test]
fn new_options_come_too_where_the_save_takes_the_place_of_another() {
    let (old, data) = (tiny_run(), dataset());
    let mut new = old.clone();
    new.lr = 0.02;
    let place = TempDir::new().unwrap();
    let first = place.path().join("first");
    train(&old, &data, &RunFolder::at(&first)).unwrap();
    // `latest` names step 6 already, and the run goes on from step 4.
    let (mut old_found, mut new_found) = (0, 0);
    for at in 0.. {
        let path = place.path().join("run");
        let _ = std::fs::remove_dir_all(&path);
        copy(&first, &path);
        let faulty = Faulty::new(Fault::Abort, at);
        let run = RunFolder::on(Arc::new(faulty.clone()), &path);
        let again = || {
            let _lock = run.prepare(&new, Some(run.lock()?))?;
            let mut six = Checkpoint::load(&path.join("step-00000006"))?;
            (six.state.options, six.state.training_hash) =
                (Some(new.training_options()), new.training_hash()?);
            run.save(&six, 2)
        };
        let _ = again();
        if faulty.struck().is_none() {
            break;
        }
        let (text, checkpoint) = found(&path);
        let is_new = checkpoint.state.training_hash == new.training_hash().unwrap();
        let expected = if is_new { &new } else { &old };
        assert_eq!(text, expected.to_toml().unwrap(), "at call {at}, {:?}", faulty.struck());
        *(if is_new { &mut new_found } else { &mut old_found }) += 1;
    }
    assert!(old_found > 0 && new_found > 0, "{old_found} with the old, {new_found} with the new options");
}
