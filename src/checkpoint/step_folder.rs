//! One checkpoint: a model folder with the optimizer's moments and the place in the run.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::atomic::{publish_folder, remove_folder};
use super::manifest::{Manifest, damaged};
use super::model_folder::{
    CONFIG, MODEL, TOKENIZER, TOKENIZER_CONFIG, config_json, encode_parameters, read_model, read_tokenizer,
    tokenizer_config_json,
};
use super::tensors::TensorFile;
use crate::config::Precision;
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::model::parameters::{ModelState, parameter_specs};

const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// The layout of a step folder; raised when an older hlx could not read it.
pub const FORMAT_VERSION: u32 = 1;

/// One link of a run's chain of digests: each covers the one before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// From 1.
    pub step: u64,
    /// 64 hexadecimal digits.
    pub digest: String,
}

/// Where a run stands: with the weights and moments, all that training needs to go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// [`FORMAT_VERSION`] of the program that wrote it.
    pub format_version: u32,
    /// Version of the program that wrote it.
    pub hlx_version: String,
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
    /// Over every parameter and moment.
    pub digest: String,
    /// [`crate::config::TrainConfig::training_hash`] of the run.
    pub training_hash: String,
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

impl Checkpoint {
    /// Writes the checkpoint as `folder`, whole or not at all.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let name = folder.file_name().expect("a step folder has a name").to_string_lossy().into_owned();
        let temporary = folder.with_file_name(format!(".{name}.tmp"));
        remove_folder(&temporary)?;
        std::fs::create_dir_all(&temporary).map_err(Error::io("cannot create", &temporary))?;
        let written = self.write_files(&temporary).and_then(|()| publish_folder(&temporary, folder));
        if written.is_err() {
            // The first error is the one to report: a full disk often fails here too.
            let _ = remove_folder(&temporary);
        }
        written
    }

    fn write_files(&self, folder: &Path) -> Result<()> {
        let config = &self.model.config;
        let mut manifest = Manifest::default();
        let model_config = config_json(config, self.tokenizer.end_of_text());
        manifest.write_file(folder, CONFIG, model_config.as_bytes())?;
        manifest.write_file(folder, TOKENIZER, self.tokenizer.to_json().as_bytes())?;
        let tokenizer_config = tokenizer_config_json(self.tokenizer.end_of_text().is_some());
        manifest.write_file(folder, TOKENIZER_CONFIG, tokenizer_config.as_bytes())?;
        manifest.write_file(folder, MODEL, &encode_parameters(config, &[("", &self.model.tensors)]))?;
        let moments = encode_parameters(config, &[("m.", &self.m), ("v.", &self.v)]);
        manifest.write_file(folder, OPTIMIZER, &moments)?;
        let mut state = serde_json::to_string_pretty(&self.state).expect("numbers and names are JSON");
        state.push('\n');
        manifest.write_file(folder, STATE, state.as_bytes())?;
        manifest.finish(folder)
    }

    /// Reads a checkpoint and checks every file. Errors name the file that is missing or damaged.
    pub fn load(folder: &Path) -> Result<Checkpoint> {
        let Some(manifest) = Manifest::read(folder)? else {
            return Err(Error::Input(format!(
                "{} has no manifest.json, so it is not a whole checkpoint to resume from: \
                 --init-from takes weights alone",
                folder.display()
            )));
        };
        let state = parse_state(&folder.join(STATE), &manifest.read_file(folder, STATE)?)?;
        let model = read_model(folder)?;
        let tokenizer =
            read_tokenizer(folder)?.ok_or_else(|| damaged(&folder.join(TOKENIZER), "the file is missing"))?;
        // Only other programs read this one; it belongs to a whole checkpoint all the same.
        manifest.read_file(folder, TOKENIZER_CONFIG)?;
        let path = folder.join(OPTIMIZER);
        let bytes = manifest.read_file(folder, OPTIMIZER)?;
        let file = TensorFile::parse(&path, &bytes)?;
        let specs = parameter_specs(&model.config);
        let read = |prefix: &str| {
            specs.iter().map(|spec| file.read(&[&format!("{prefix}.{}", spec.name)], &spec.shape)).collect()
        };
        let (m, v): (Result<_>, Result<_>) = (read("m"), read("v"));
        Ok(Checkpoint { m: m?, v: v?, model, tokenizer, state })
    }
}

fn parse_state(path: &Path, bytes: &[u8]) -> Result<RunState> {
    // The version first: another version may have other fields.
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let wrong = |error: serde_json::Error| damaged(path, &error.to_string());
    let version: Version = serde_json::from_slice(bytes).map_err(wrong)?;
    if version.format_version != FORMAT_VERSION {
        return Err(Error::Input(format!(
            "{} has format version {}, and this hlx ({}) reads version {FORMAT_VERSION}: use the hlx that \
             wrote it",
            path.display(),
            version.format_version,
            env!("CARGO_PKG_VERSION")
        )));
    }
    serde_json::from_slice(bytes).map_err(wrong)
}
