//! One checkpoint: a model folder with the optimizer's moments and the place in the run.

use std::collections::BTreeMap;
use std::path::Path;

use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::atomic::{publish_folder, remove_folder, unfinished_folder};
use super::manifest::{Folder, Manifest, damaged};
use super::model_folder::{
    CONFIG, MODEL, TOKENIZER, TOKENIZER_CONFIG, config_json, encode_parameters, model_in,
    tokenizer_config_json, tokenizer_in,
};
use super::storage::{Disk, Storage};
use super::tensors::TensorFile;
use crate::config::{Precision, TrainOptions};
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::model::parameters::{ModelState, parameter_specs};

const OPTIMIZER: &str = "optimizer.safetensors";
pub const STATE: &str = "state.json";

/// The layout of a step folder; raised when an older hlx could not read it.
pub const FORMAT_VERSION: u32 = 2;
/// The oldest layout that is read. Version 1 names no options, and of `unbroken_since` the step alone.
const OLDEST_VERSION: u32 = 1;

/// One link of a run's chain of digests: each covers the one before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// From 1.
    pub step: u64,
    /// 64 hexadecimal digits.
    pub digest: String,
}

/// The checkpoint from which on a run has had the options and kernels that it has now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// Its step.
    pub step: u64,
    /// Its [`RunState::digest`]: another folder of that step is not the one. `None` if it was not kept, as
    /// in version 1.
    pub digest: Option<String>,
}

/// Where a run stands: with the weights and moments, all that training needs to go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// [`FORMAT_VERSION`] of the program that wrote it.
    pub format_version: u32,
    /// Version of the program that wrote it.
    pub hlx_version: String,
    /// [`crate::kernels::kernels_hash`] of that program.
    #[serde(default)]
    pub kernels_hash: String,
    /// Optimizer steps taken.
    pub step: u64,
    /// Epochs completed.
    pub epoch: u64,
    /// Windows trained on, over all epochs: the next step starts with this window.
    pub windows: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Precision of the run.
    pub precision: Precision,
    /// Name of the device that it was trained on, where the precision promises the same bits on one device
    /// only; empty for what is exact.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// That device's driver.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// The tiles that its products were computed by, where they were chosen by timing on that device and the
    /// precision promises the same bits on one device only: names by product. Of what is exact any tile gives
    /// the same bits, and a checkpoint has the same bytes wherever it was made.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tuning: BTreeMap<String, String>,
    /// Over every parameter and moment.
    pub digest: String,
    /// [`crate::config::TrainConfig::training_hash`] of the run.
    pub training_hash: String,
    /// The options behind it, without those of which it does not depend: see
    /// [`crate::config::TrainConfig::training_options`].
    #[serde(default, serialize_with = "said")]
    pub options: Option<TrainOptions>,
    /// From where on the run has had this `training_hash` and `kernels_hash`: its start, or the checkpoint
    /// that it was resumed from with others.
    #[serde(default, deserialize_with = "since")]
    pub unbroken_since: Option<Since>,
    /// [`crate::train::digest::digest`] of the state that the run started from, if that was the weights of
    /// `--init-from`.
    #[serde(default)]
    pub init_digest: Option<String>,
    /// BLAKE3 of the training tokens.
    pub corpus_hash: String,
    /// Loss of the last step, in nats per token.
    pub train_loss: f64,
    /// Validation loss after the last step, if it was measured, in nats per token.
    pub val_loss: Option<f64>,
    /// The lowest validation loss so far, and the step after which it was measured.
    pub best_val_loss: Option<f64>,
    /// The step after which the lowest validation loss was measured.
    pub best_step: Option<u64>,
    /// The chain of digests, if `--digest-every` asked for one.
    #[serde(default)]
    pub chain: Vec<Link>,
}

/// Everything that a step folder holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Shape and parameters.
    pub model: ModelState,
    /// AdamW's first moment, laid out like the model's tensors.
    pub m: Vec<Vec<f32>>,
    /// AdamW's second moment, laid out like the model's tensors.
    pub v: Vec<Vec<f32>>,
    /// The tokenizer that the training text was read with.
    pub tokenizer: Tokenizer,
    /// The place in the run.
    pub state: RunState,
}

/// Only what has a value.
fn said<S: Serializer>(options: &Option<TrainOptions>, to: S) -> std::result::Result<S::Ok, S::Error> {
    let mut value = serde_json::to_value(options).map_err(S::Error::custom)?;
    if let Some(options) = value.as_object_mut() {
        options.retain(|_, value| !value.is_null());
    }
    value.serialize(to)
}

/// A checkpoint; or a step alone, with 0 for the start, in version 1.
fn since<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<Since>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Now(Since),
        Before(u64),
    }
    Ok(match Option::deserialize(from)? {
        None | Some(Written::Before(0)) => None,
        Some(Written::Before(step)) => Some(Since { step, digest: None }),
        Some(Written::Now(since)) => Some(since),
    })
}

impl RunState {
    /// The device that the state was trained on, if its bits are that device's alone and this is another.
    pub fn other_device(&self, name: &str, driver: &str) -> Option<String> {
        let is_other = (self.device.as_str(), self.driver.as_str()) != (name, driver);
        let counts = self.precision != Precision::Exact && !self.device.is_empty();
        (counts && is_other).then(|| format!("{} ({})", self.device, self.driver))
    }

    /// True of two states that one and the same training gives, at different steps: options, kernels, text
    /// and beginning are the same, and for what is not exact the device.
    pub fn is_of_training(&self, other: &RunState) -> bool {
        self.training_hash == other.training_hash
            && self.kernels_hash == other.kernels_hash
            && self.corpus_hash == other.corpus_hash
            && self.unbroken_since == other.unbroken_since
            && self.init_digest == other.init_digest
            && (&self.device, &self.driver) == (&other.device, &other.driver)
    }
}

impl Checkpoint {
    /// Writes the checkpoint as `folder`, whole or not at all.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.save_on(&Disk, folder)
    }

    /// [`Checkpoint::save`], on any storage.
    pub fn save_on(&self, storage: &dyn Storage, folder: &Path) -> Result<()> {
        self.save_announced(storage, folder, |_| Ok(()))
    }

    /// [`Checkpoint::save_on`], where `announce` gets the manifest's hash when everything is written but has
    /// not got its place yet.
    pub fn save_announced(
        &self,
        storage: &dyn Storage,
        folder: &Path,
        announce: impl FnOnce(&str) -> Result<()>,
    ) -> Result<()> {
        let temporary = unfinished_folder(folder);
        remove_folder(storage, &temporary)?;
        let written = (storage.create_folder(&temporary).map_err(Error::io("cannot create", &temporary)))
            .and_then(|()| self.write_files(storage, &temporary))
            .and_then(|hash| announce(&hash))
            .and_then(|()| publish_folder(storage, &temporary, folder));
        if written.is_err() {
            // The first error is the one to report: a full disk often fails here too.
            let _ = remove_folder(storage, &temporary);
        }
        written
    }

    fn write_files(&self, storage: &dyn Storage, folder: &Path) -> Result<String> {
        let config = &self.model.config;
        let mut manifest = Manifest::default();
        let mut write = |name, bytes: &[u8]| manifest.write_file(storage, folder, name, bytes);
        write(CONFIG, config_json(config, self.tokenizer.end_of_text()).as_bytes())?;
        write(TOKENIZER, self.tokenizer.to_json().as_bytes())?;
        let has_end_of_text = self.tokenizer.end_of_text().is_some();
        write(TOKENIZER_CONFIG, tokenizer_config_json(has_end_of_text).as_bytes())?;
        write(MODEL, &encode_parameters(config, &[("", &self.model.tensors)]))?;
        write(OPTIMIZER, &encode_parameters(config, &[("m.", &self.m), ("v.", &self.v)]))?;
        let mut state = serde_json::to_string_pretty(&self.state).expect("numbers and names are JSON");
        state.push('\n');
        write(STATE, state.as_bytes())?;
        manifest.finish(storage, folder)
    }

    /// Reads a checkpoint and checks every file. Errors name the file that is missing or damaged, and
    /// the tensor.
    pub fn load(folder: &Path) -> Result<Checkpoint> {
        Checkpoint::load_from(&Disk, folder)
    }

    /// [`Checkpoint::load`], from any storage.
    pub fn load_from(storage: &dyn Storage, path: &Path) -> Result<Checkpoint> {
        let folder = Folder::open(storage, path)?;
        if !folder.has_manifest() {
            return Err(Error::Input(format!(
                "{} has no manifest.json, so it is not a whole checkpoint: `hlx train --init-from` starts \
                 from its weights alone",
                path.display()
            )));
        }
        let state = parse_state(&path.join(STATE), &folder.read(STATE)?)?;
        let model = model_in(&folder)?;
        let tokenizer =
            tokenizer_in(&folder)?.ok_or_else(|| damaged(&path.join(TOKENIZER), "the file is missing"))?;
        // Only other programs read this one; it belongs to a whole checkpoint all the same.
        folder.read(TOKENIZER_CONFIG)?;
        let [m, v] = moments_in(&folder, &model)?;
        Ok(Checkpoint { m, v, model, tokenizer, state })
    }
}

/// AdamW's moments, laid out like the model's tensors.
fn moments_in(folder: &Folder<'_>, model: &ModelState) -> Result<[Vec<Vec<f32>>; 2]> {
    let path = folder.path.join(OPTIMIZER);
    let bytes = folder.read(OPTIMIZER)?;
    let file = TensorFile::parse(&path, &bytes)?;
    let specs = parameter_specs(&model.config);
    let read = |prefix: &str| {
        specs.iter().map(|spec| file.read(&[&format!("{prefix}.{}", spec.name)], &spec.shape)).collect()
    };
    let (m, v): (Result<_>, Result<_>) = (read("m"), read("v"));
    Ok([m?, v?])
}

fn parse_state(path: &Path, bytes: &[u8]) -> Result<RunState> {
    // The version first: another version may have other fields.
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let wrong = |error: serde_json::Error| damaged(path, &error.to_string());
    let version: Version = serde_json::from_slice(bytes).map_err(wrong)?;
    if !(OLDEST_VERSION..=FORMAT_VERSION).contains(&version.format_version) {
        return Err(Error::Input(format!(
            "{} has format version {}, and this hlx ({}) reads versions {OLDEST_VERSION} to \
             {FORMAT_VERSION}: use the hlx that wrote it",
            path.display(),
            version.format_version,
            env!("CARGO_PKG_VERSION")
        )));
    }
    serde_json::from_slice(bytes).map_err(wrong)
}

/// The step from which on the checkpoint with this state.json holds, if that is not the run's start. `None`
/// also of what is no state.
pub fn since_of(bytes: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Part {
        #[serde(default, deserialize_with = "since")]
        unbroken_since: Option<Since>,
    }
    Some(serde_json::from_slice::<Part>(bytes).ok()?.unbroken_since?.step)
}
