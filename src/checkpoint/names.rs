//! The names in and of run folders.

use std::path::{Path, PathBuf};

use crate::config::Preset;

/// `checkpoints/CORPUS-MODEL`, then the same with 2, 3, ... behind it.
pub fn default_paths(corpus: Option<&Path>, model: Preset) -> impl Iterator<Item = PathBuf> {
    let corpus = corpus.and_then(Path::file_stem);
    let corpus = corpus.map_or("hlx".into(), |stem| stem.to_string_lossy().into_owned());
    let name = format!("{corpus}-{model}");
    (1u64..).map(move |number| {
        let name = if number == 1 { name.clone() } else { format!("{name}-{number}") };
        Path::new("checkpoints").join(name)
    })
}

/// The folder with the highest number behind the name of `first`, if any is there.
pub fn newest_default(first: &Path) -> Option<PathBuf> {
    let stem = first.file_name()?.to_str()?;
    let number = |name: &str| match name.strip_prefix(stem)? {
        "" => Some(1),
        rest => rest.strip_prefix('-')?.parse::<u64>().ok().filter(|&number| number > 1),
    };
    let entries = std::fs::read_dir(first.parent()?).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let newest = names.filter_map(|name| Some((number(&name)?, name))).max()?;
    Some(first.with_file_name(newest.1))
}

/// The name of a step's folder.
pub fn step_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// The step that a folder of this name is for.
pub fn parse_step(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("step-")?;
    let step = digits.parse().ok()?;
    (step_name(step) == name).then_some(step)
}

/// The step whose folder made way under this hidden name.
pub fn replaced_step(name: &str) -> Option<u64> {
    parse_step(name.strip_prefix('.')?.strip_suffix(".old")?)
}

/// True of the path of a step's folder.
pub fn is_step_folder(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).and_then(parse_step).is_some()
}
