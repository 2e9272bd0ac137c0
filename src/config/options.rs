//! Everything that can be said about a training run, as flags of `hlx train` and as keys of a TOML file.

// The comments here are the help that the command shows, where brackets are no links.
#![allow(rustdoc::broken_intra_doc_links)]

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{DeviceChoice, Precision, Preset};
use crate::error::{Error, Result, one_line};

/// What was said, and nothing else: a value not given is `None`. The keys of a configuration file
/// are the flags without their dashes.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TrainOptions {
    /// Text to learn: .txt is one stream of characters, .jsonl one example a line under "text" [default: a
    /// small text built into hlx]
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub corpus: Option<PathBuf>,
    /// Part of the corpus, from its end, kept for validation; 0 for none [default: 0.1]
    #[arg(long, value_name = "FRACTION", help_heading = "Data")]
    pub val_fraction: Option<f64>,
    /// A text of its own for validation, in place of --val-fraction
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub val_corpus: Option<PathBuf>,

    /// Preset shape: nano, tiny, small, medium or gpt2 [default: nano]
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub model: Option<Preset>,
    /// Transformer blocks, in place of the preset's
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub n_layer: Option<usize>,
    /// Width of the residual stream, in place of the preset's
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub d_model: Option<usize>,
    /// Attention heads a block, in place of the preset's
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub n_head: Option<usize>,
    /// Width of the feed-forward layer [default: 4 times --d-model]
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub d_ff: Option<usize>,
    /// Tokens that the model sees at once, in place of the preset's
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub context: Option<usize>,
    /// Probability of zeroing an activation while training [default: 0]
    #[arg(long, value_name = "P", help_heading = "Model")]
    pub dropout: Option<f64>,
    /// Start from the weights of this GPT-2 model folder
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub init_from: Option<PathBuf>,

    /// Passes over the training text
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub epochs: Option<u64>,
    /// Optimizer steps, in place of --epochs [default: 3000]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub steps: Option<u64>,
    /// Windows that the device works on at once [default: 12]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub batch_size: Option<usize>,
    /// Batches whose gradients are added up for one step [default: 1]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub grad_accum: Option<usize>,
    /// Learning rate after the warm-up [default: 1e-3]
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub lr: Option<f64>,
    /// Learning rate at the end of the cosine [default: a tenth of --lr]
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub min_lr: Option<f64>,
    /// Steps over which the learning rate rises to --lr [default: 100]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub warmup_steps: Option<u64>,
    /// Decay of the weight matrices [default: 0.1]
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub weight_decay: Option<f64>,
    /// Decay of the gradient's running mean [default: 0.9]
    #[arg(long, value_name = "BETA", help_heading = "Training")]
    pub beta1: Option<f64>,
    /// Decay of the squared gradient's running mean [default: 0.99]
    #[arg(long, value_name = "BETA", help_heading = "Training")]
    pub beta2: Option<f64>,
    /// Added to AdamW's denominator [default: 1e-8]
    #[arg(long, value_name = "EPS", help_heading = "Training")]
    pub eps: Option<f64>,
    /// Largest norm of a step's whole gradient; 0 for no limit [default: 1]
    #[arg(long, value_name = "NORM", help_heading = "Training")]
    pub grad_clip: Option<f64>,
    /// Seed of the initial weights, the windows' order and dropout [default: 1337]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub seed: Option<u64>,
    /// What the arithmetic promises: exact (the same bits on every device) [default: exact]
    #[arg(long, value_name = "NAME", help_heading = "Training")]
    pub precision: Option<Precision>,
    /// Where to train: auto, cpu, or a device's number or name from `hlx devices` [default: auto]
    #[arg(long, value_name = "DEVICE", help_heading = "Training")]
    pub device: Option<DeviceChoice>,

    /// Steps between measurements of the validation loss; checkpoints are measured too; 0 for those alone
    /// [default: 250]
    #[arg(long, value_name = "STEPS", help_heading = "Run")]
    pub eval_every: Option<u64>,
    /// Epochs between checkpoints; 0 for one at the end [default: 10]
    #[arg(long, value_name = "EPOCHS", help_heading = "Run")]
    pub checkpoint_every: Option<u64>,
    /// Steps between checkpoints, in place of --checkpoint-every
    #[arg(long, value_name = "STEPS", help_heading = "Run")]
    pub checkpoint_every_steps: Option<u64>,
    /// How many of the newest checkpoints to keep, beside the best; 0 for all [default: 3]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub keep_last: Option<usize>,
    /// Steps between links of a chain of digests kept with the run, which `hlx verify --checkpoint`
    /// retraces; 0 for none [default: 0]
    #[arg(long, value_name = "STEPS", help_heading = "Run")]
    pub digest_every: Option<u64>,
    /// Folder of the run [default: checkpoints/CORPUS-MODEL, numbered if it is taken]
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    pub out: Option<PathBuf>,
}

/// The longest configuration file in bytes: what is larger is another kind of file, and the parser would
/// collect a mistake from every few bytes of it.
const LONGEST_FILE: u64 = 256 << 10;

impl TrainOptions {
    /// Reads a TOML file that `flag` has led to. Errors name the flag, the file, the line and the key.
    pub fn load(flag: &str, path: &Path) -> Result<TrainOptions> {
        let name = path.display();
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(LONGEST_FILE + 1).read_to_string(&mut text))
            .map_err(|error| Error::Input(format!("{flag} {name}: cannot read this file: {error}")))?;
        if text.len() as u64 > LONGEST_FILE {
            return Err(Error::Input(format!("{flag} {name} is no configuration: it has over 256 KiB")));
        }
        TrainOptions::parse(&text).map_err(|reason| Error::Usage(format!("{flag} {name}: {reason}")))
    }

    /// Reads TOML text; the error is one line.
    pub fn parse(text: &str) -> std::result::Result<TrainOptions, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let line = error.span().map(|span| 1 + text[..span.start].matches('\n').count());
            let message = one_line(&error.message().trim().replace('\n', ", "));
            line.map_or(message.clone(), |line| format!("line {line}: {message}"))
        })
    }

    /// These options where they say something, `lower` for the rest.
    ///
    /// Some options speak about the same thing: a `--model` here replaces the whole shape below,
    /// and `--steps` here replaces `epochs` below, so that a file can always be overruled.
    pub fn over(self, mut lower: TrainOptions) -> TrainOptions {
        if self.model.is_some() {
            (lower.n_layer, lower.d_model, lower.n_head) = (None, None, None);
            (lower.d_ff, lower.context) = (None, None);
        }
        if self.epochs.is_some() || self.steps.is_some() {
            (lower.epochs, lower.steps) = (None, None);
        }
        if self.val_fraction.is_some() || self.val_corpus.is_some() {
            (lower.val_fraction, lower.val_corpus) = (None, None);
        }
        if self.checkpoint_every.is_some() || self.checkpoint_every_steps.is_some() {
            (lower.checkpoint_every, lower.checkpoint_every_steps) = (None, None);
        }
        // A literal with every field: an option added later cannot be forgotten here.
        macro_rules! first_of {
            ($($field:ident)*) => { TrainOptions { $($field: self.$field.or(lower.$field)),* } };
        }
        first_of! {
            corpus val_fraction val_corpus
            model n_layer d_model n_head d_ff context dropout init_from
            epochs steps batch_size grad_accum lr min_lr warmup_steps weight_decay beta1 beta2 eps
            grad_clip seed precision device
            eval_every checkpoint_every checkpoint_every_steps keep_last digest_every out
        }
    }
}
