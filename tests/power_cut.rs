//! After a power cut a run folder gives its old or its new checkpoint, never a mixture and never nothing.
//!
//! The model of the disk is the harshest that a file system may be: of what was written to a file since
//! its last sync any part may be missing or be noise, and of the changes to a folder's names since its
//! last sync any may be missing, and the others may have happened in any order.

#[path = "common/disk_model.rs"]
mod disk_model;
#[path = "common/fixtures.rs"]
mod fixtures;
#[path = "common/scale.rs"]
mod scale;
#[path = "common/storage.rs"]
mod storage;
#[path = "common/training.rs"]
mod training;

use std::path::Path;
use std::sync::Arc;

use disk_model::DiskModel;
use fixtures::{checkpoint, small_shape};
use hlx::checkpoint::{Checkpoint, RunFolder};
use hlx::config::{ResumeFrom, TrainOptions};
use scale::{Random, count, report};
use storage::{Operation, Recorder};
use tempfile::TempDir;
use training::tiny_run;

/// After how many operations a save began and had ended.
struct Save {
    began: usize,
    ended: usize,
}

/// Save number `index` of a run; no two are alike.
fn saved(index: usize, step: u64) -> Checkpoint {
    let mut checkpoint = checkpoint(&small_shape(), step);
    checkpoint.state.windows = index as u64;
    checkpoint.m[0][0] = index as f32;
    checkpoint
}

/// A run that saves these steps, two kept, and what it did to the disk.
fn record(path: &Path, steps: &[u64]) -> (Vec<Operation>, Vec<Save>) {
    let recorder = Recorder::default();
    let run = RunFolder::on(Arc::new(recorder.clone()), path);
    drop(run.prepare(&tiny_run(), None).unwrap());
    let mut saves = Vec::new();
    for (index, &step) in steps.iter().enumerate() {
        let began = recorder.operations().len();
        run.save(&saved(index, step), 2).unwrap();
        saves.push(Save { began, ended: recorder.operations().len() });
    }
    (recorder.operations(), saves)
}

/// What may be found after a cut: the checkpoint saved last, or the one whose save was under way.
fn allowed(saves: &[Save], cut: usize) -> (Option<usize>, Option<usize>) {
    let old = saves.iter().rposition(|save| save.ended <= cut);
    let new = saves.iter().position(|save| save.began < cut && cut < save.ended);
    (old, new)
}

fn loaded(run: &RunFolder) -> Result<Option<Checkpoint>, String> {
    let found = run.load_to_resume(&ResumeFrom::Auto).map_err(|error| error.to_string())?;
    Ok(found.map(|(_, checkpoint)| checkpoint))
}

/// Cuts the power at seeded moments of a run, and looks at what is left. How often a save under way was
/// found whole.
fn cut_power(steps: &[u64], states: usize, seed: u64) -> usize {
    let place = TempDir::new().unwrap();
    let path = place.path().join("run");
    let (operations, saves) = record(&path, steps);
    let mut random = Random(seed);
    let mut news = 0;
    for state in 0..states {
        let cut = random.below(operations.len() + 1);
        let mut model = DiskModel::new(place.path());
        operations[..cut].iter().for_each(|operation| model.apply(operation));
        let disk = model.after_power_cut(&mut random);
        let (old, new) = allowed(&saves, cut);
        let case = format!("state {state} of seed {seed}, cut after {cut} of {}", operations.len());
        let run = RunFolder::on(Arc::new(disk.clone()), &path);
        let found = loaded(&run).unwrap_or_else(|error| panic!("{case}: {error}"));
        let index = found.as_ref().map(|found| found.state.windows as usize);
        assert!(
            index == old || (new.is_some() && index == new),
            "{case}: {index:?}, not {old:?} or {new:?}: {:?}",
            disk.files.keys()
        );
        if let (Some(found), Some(index)) = (found, index) {
            assert!(found == saved(index, steps[index]), "{case}: a mixture");
        }
        if let Some(bytes) = disk.files.get(&path.join("config.toml")) {
            let text = std::str::from_utf8(bytes).unwrap_or_else(|_| panic!("{case}: config.toml is noise"));
            TrainOptions::parse(text).unwrap_or_else(|error| panic!("{case}: config.toml: {error}"));
            assert!(text.contains("steps = 6"), "{case}: config.toml is cut");
        }
        news += usize::from(new.is_some() && index == new);
    }
    news
}

#[test]
fn after_a_power_cut_there_is_the_old_or_the_new_checkpoint() {
    let states = count(300, 2000);
    // Rising steps, as a run saves them.
    let news = cut_power(&[10, 20, 30, 40], states / 2, 1);
    // A run that was resumed from step 10 though 20 and 30 were there writes over them.
    let over = cut_power(&[10, 20, 30, 20, 30], states / 2, 2);
    assert!(
        news > 0 && over > 0,
        "the model never lets a save under way survive: it is not harsh, it is blind"
    );
    report("power cuts: old or new checkpoint, never a mixture", format!("{states} states"));
}

/// The same cuts of a writer that leaves out its syncs must be seen to do harm, else they prove nothing.
#[test]
fn without_syncs_the_model_does_harm() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("run");
    let (operations, _) = record(&path, &[10, 20]);
    let mut random = Random(3);
    let mut harmed = 0;
    for _ in 0..50 {
        let mut model = DiskModel::new(place.path());
        let synced =
            |operation: &&Operation| !matches!(operation, Operation::Sync(_) | Operation::SyncFolder(_));
        operations.iter().filter(synced).for_each(|operation| model.apply(operation));
        let run = RunFolder::on(Arc::new(model.after_power_cut(&mut random)), &path);
        harmed += usize::from(loaded(&run).map_or(true, |found| found.is_none_or(|c| c.state.step != 20)));
    }
    assert!(harmed > 40, "only {harmed} of 50 cuts did harm");
}
