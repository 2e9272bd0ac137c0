//! A training run's configuration with every value decided and checked.

use std::path::PathBuf;

use super::model::{usage, within};
use super::{DeviceChoice, ModelConfig, Precision, Preset, TrainOptions};
use crate::error::{Error, Result};

/// How long to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Passes over the training part, at least 1.
    Epochs(u64),
    /// Optimizer steps, at least 1.
    Steps(u64),
}

/// How often to save. The last step is always saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointEvery {
    /// 0: only the last step.
    Epochs(u64),
    /// At least 1.
    Steps(u64),
}

/// Everything that decides a training run.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainConfig {
    /// `None`: the corpus built into the program.
    pub corpus: Option<PathBuf>,
    /// The text to validate on; `None`: a part of the corpus.
    pub val_corpus: Option<PathBuf>,
    /// Part of the corpus kept for validation, in [0, 0.9]; 0 with a `val_corpus`.
    pub val_fraction: f64,

    /// The name the shape started from.
    pub model: Preset,
    /// The shape. `vocab_size` is 0 until the tokenizer is known: see [`TrainConfig::model_config`].
    shape: ModelConfig,
    /// The model folder whose weights training starts from; `None`: fresh weights.
    pub init_from: Option<PathBuf>,

    /// How long the whole run is.
    pub length: Length,
    /// Windows in a micro-batch.
    pub batch_size: usize,
    /// Micro-batches in a step.
    pub grad_accum: usize,
    /// Learning rate after the warm-up, above 0.
    pub lr: f64,
    /// Learning rate at the end, in `0..=lr`.
    pub min_lr: f64,
    /// Steps over which the learning rate rises.
    pub warmup_steps: u64,
    /// AdamW's decay of matrices.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to AdamW's denominator.
    pub eps: f64,
    /// 0: no limit.
    pub grad_clip: f64,
    /// Decides initial weights, windows and dropout; fits in an `i64`.
    pub seed: u64,
    /// What the arithmetic promises.
    pub precision: Precision,
    /// Where to train.
    pub device: DeviceChoice,

    /// Steps; 0: only after the last.
    pub eval_every: u64,
    /// How often to save.
    pub checkpoint_every: CheckpointEvery,
    /// 0: all.
    pub keep_last: usize,
    /// Steps between links of the chain of digests; 0: none.
    pub digest_every: u64,
    /// `None`: named after the corpus and the model.
    pub out: Option<PathBuf>,
}

impl TrainConfig {
    /// Decides what was left open and checks everything. `base` is the shape of the model folder
    /// behind `--init-from`: it stands in for the preset, and a shape given beside it must agree.
    pub fn resolve(options: TrainOptions, base: Option<&ModelConfig>) -> Result<TrainConfig> {
        let o = options;
        let model = o.model.unwrap_or_default();
        let shape = resolve_shape(&o, model, base)?;
        let lr = o.lr.unwrap_or(1e-3);
        let config = TrainConfig {
            val_fraction: match (&o.val_corpus, o.val_fraction) {
                (Some(_), Some(_)) => return both("--val-fraction", "--val-corpus"),
                (Some(_), None) => 0.0,
                (None, fraction) => fraction.unwrap_or(0.1),
            },
            corpus: o.corpus,
            val_corpus: o.val_corpus,
            model,
            shape,
            init_from: o.init_from,
            length: match (o.epochs, o.steps) {
                (Some(_), Some(_)) => return both("--epochs", "--steps"),
                (Some(epochs), None) => Length::Epochs(epochs),
                (None, steps) => Length::Steps(steps.unwrap_or(3000)),
            },
            batch_size: o.batch_size.unwrap_or(12),
            grad_accum: o.grad_accum.unwrap_or(1),
            lr,
            min_lr: o.min_lr.unwrap_or(lr / 10.0),
            warmup_steps: o.warmup_steps.unwrap_or(100),
            weight_decay: o.weight_decay.unwrap_or(0.1),
            beta1: o.beta1.unwrap_or(0.9),
            beta2: o.beta2.unwrap_or(0.99),
            eps: o.eps.unwrap_or(1e-8),
            grad_clip: o.grad_clip.unwrap_or(1.0),
            seed: o.seed.unwrap_or(1337),
            precision: o.precision.unwrap_or_default(),
            device: o.device.unwrap_or_default(),
            eval_every: o.eval_every.unwrap_or(250),
            checkpoint_every: match (o.checkpoint_every, o.checkpoint_every_steps) {
                (Some(_), Some(_)) => return both("--checkpoint-every", "--checkpoint-every-steps"),
                (None, Some(steps)) => CheckpointEvery::Steps(steps),
                (epochs, None) => CheckpointEvery::Epochs(epochs.unwrap_or(10)),
            },
            keep_last: o.keep_last.unwrap_or(3),
            digest_every: o.digest_every.unwrap_or(0),
            out: o.out,
        };
        config.validate()?;
        Ok(config)
    }

    /// The model's configuration, now that the size of the vocabulary is known.
    pub fn model_config(&self, vocab_size: usize) -> ModelConfig {
        ModelConfig { vocab_size, ..self.shape.clone() }
    }

    /// Tokens in a window.
    pub fn context(&self) -> usize {
        self.shape.context
    }

    /// Probability of zeroing an activation.
    pub fn dropout(&self) -> f64 {
        self.shape.dropout
    }

    fn validate(&self) -> Result<()> {
        self.model_config(1).validate()?;
        if self.out.as_ref().is_some_and(|out| out.as_os_str().is_empty()) {
            return usage("out is empty: name a folder, or leave it out".into());
        }
        match self.length {
            Length::Epochs(0) => return usage("--epochs 0 trains nothing: give at least 1".into()),
            Length::Steps(0) => return usage("--steps 0 trains nothing: give at least 1".into()),
            _ => {}
        }
        if self.checkpoint_every == CheckpointEvery::Steps(0) {
            return usage(
                "--checkpoint-every-steps 0: give at least 1, or --checkpoint-every 0 to save only the end"
                    .into(),
            );
        }
        within("--batch-size", self.batch_size, 1, 1 << 16)?;
        within("--grad-accum", self.grad_accum, 1, 1 << 16)?;
        let (length, steps_or_epochs) = match self.length {
            Length::Epochs(epochs) => ("--epochs", epochs),
            Length::Steps(steps) => ("--steps", steps),
        };
        let (saves, between_saves) = match self.checkpoint_every {
            CheckpointEvery::Epochs(epochs) => ("--checkpoint-every", epochs),
            CheckpointEvery::Steps(steps) => ("--checkpoint-every-steps", steps),
        };
        storable(length, steps_or_epochs)?;
        storable(saves, between_saves)?;
        storable("--warmup-steps", self.warmup_steps)?;
        storable("--eval-every", self.eval_every)?;
        storable("--keep-last", self.keep_last as u64)?;
        storable("--seed", self.seed)?;
        between("--val-fraction", self.val_fraction, 0.0, 0.9)?;
        if !(self.lr > 0.0 && self.lr <= 100.0) {
            return usage(format!("--lr {} is not above 0 and at most 100", self.lr));
        }
        if !(self.min_lr >= 0.0 && self.min_lr <= self.lr) {
            return usage(format!("--min-lr {} is not between 0 and --lr {}", self.min_lr, self.lr));
        }
        between("--weight-decay", self.weight_decay, 0.0, 100.0)?;
        // Above this, 1 - beta has lost most of its bits in f32 and the bias correction with it.
        between("--beta1", self.beta1, 0.0, 0.99999)?;
        between("--beta2", self.beta2, 0.0, 0.99999)?;
        // Below this, a moment snapped to zero could divide by almost nothing.
        between("--eps", self.eps, 1e-12, 1.0)?;
        if self.grad_clip > 0.0 && self.grad_clip < 1e-6 {
            return usage(format!("--grad-clip {} is below 1e-6: give 0 for no limit", self.grad_clip));
        }
        between("--grad-clip", self.grad_clip, 0.0, 1e6)
    }

    /// The options that resolve to this configuration again.
    pub fn to_options(&self) -> TrainOptions {
        let c = self.clone();
        let (epochs, steps) = match c.length {
            Length::Epochs(n) => (Some(n), None),
            Length::Steps(n) => (None, Some(n)),
        };
        let (checkpoint_every, checkpoint_every_steps) = match c.checkpoint_every {
            CheckpointEvery::Epochs(n) => (Some(n), None),
            CheckpointEvery::Steps(n) => (None, Some(n)),
        };
        TrainOptions {
            val_fraction: c.val_corpus.is_none().then_some(c.val_fraction),
            corpus: c.corpus,
            val_corpus: c.val_corpus,
            model: Some(c.model),
            n_layer: Some(c.shape.n_layer),
            d_model: Some(c.shape.d_model),
            n_head: Some(c.shape.n_head),
            d_ff: Some(c.shape.d_ff),
            context: Some(c.shape.context),
            dropout: Some(c.shape.dropout),
            init_from: c.init_from,
            epochs,
            steps,
            batch_size: Some(c.batch_size),
            grad_accum: Some(c.grad_accum),
            lr: Some(c.lr),
            min_lr: Some(c.min_lr),
            warmup_steps: Some(c.warmup_steps),
            weight_decay: Some(c.weight_decay),
            beta1: Some(c.beta1),
            beta2: Some(c.beta2),
            eps: Some(c.eps),
            grad_clip: Some(c.grad_clip),
            seed: Some(c.seed),
            precision: Some(c.precision),
            device: Some(c.device),
            eval_every: Some(c.eval_every),
            checkpoint_every,
            checkpoint_every_steps,
            keep_last: Some(c.keep_last),
            digest_every: Some(c.digest_every),
            out: c.out,
        }
    }

    /// The text of the run's `config.toml`. The run's folder is left out, so that training again
    /// from the file makes a new one.
    pub fn to_toml(&self) -> Result<String> {
        // Absolute, so that the run can go on from any folder.
        let absolute = |path: Option<PathBuf>| path.map(|path| std::path::absolute(&path).unwrap_or(path));
        let options = self.to_options();
        let options = TrainOptions {
            corpus: absolute(options.corpus),
            val_corpus: absolute(options.val_corpus),
            init_from: absolute(options.init_from),
            out: None,
            ..options
        };
        let keys = toml::to_string(&options).map_err(|error| {
            Error::Usage(format!("config.toml cannot be written: {error}: rename that file"))
        })?;
        Ok(format!("# Every option of this run: `hlx train --config FILE` trains it again.\n{keys}"))
    }

    /// A fingerprint of everything that decides the weights beside the corpus and the initial ones: two
    /// runs with the same hash take the same steps. Where they run and where results go does not count.
    pub fn training_hash(&self) -> Result<String> {
        let text = toml::to_string(&self.training_options()).expect("numbers and names are TOML");
        Ok(blake3::hash(text.as_bytes()).to_hex().to_string())
    }

    /// The options that [`TrainConfig::training_hash`] covers, each with its value.
    pub fn training_options(&self) -> TrainOptions {
        TrainOptions {
            corpus: None,
            val_corpus: None,
            device: None,
            eval_every: None,
            checkpoint_every: None,
            checkpoint_every_steps: None,
            keep_last: None,
            digest_every: None,
            out: None,
            init_from: None,
            model: None,
            ..self.to_options()
        }
    }
}

fn resolve_shape(o: &TrainOptions, preset: Preset, base: Option<&ModelConfig>) -> Result<ModelConfig> {
    let dropout = o.dropout.unwrap_or(0.0);
    let Some(base) = base else {
        let preset = preset.config(0);
        let d_model = o.d_model.unwrap_or(preset.d_model);
        return Ok(ModelConfig {
            context: o.context.unwrap_or(preset.context),
            d_model,
            n_layer: o.n_layer.unwrap_or(preset.n_layer),
            n_head: o.n_head.unwrap_or(preset.n_head),
            d_ff: o.d_ff.unwrap_or(d_model.saturating_mul(4)),
            dropout,
            ..preset
        });
    };
    let from = o
        .init_from
        .as_deref()
        .map_or("the checkpoint".into(), |dir| format!("--init-from {}", dir.display()));
    let agree = |flag: &str, given: Option<usize>, there: usize| match given {
        Some(given) if given != there => {
            usage(format!("{flag} {given} disagrees with {from}, which has {there}: leave {flag} out"))
        }
        _ => Ok(()),
    };
    agree("--context", o.context, base.context)?;
    agree("--d-model", o.d_model, base.d_model)?;
    agree("--n-layer", o.n_layer, base.n_layer)?;
    agree("--n-head", o.n_head, base.n_head)?;
    agree("--d-ff", o.d_ff, base.d_ff)?;
    // A preset that was said alone; a saved configuration says every part of the shape as well.
    if let (Some(preset), None) = (o.model, o.n_layer) {
        let shape = preset.config(0);
        let parts = |m: &ModelConfig| [m.context, m.d_model, m.n_layer, m.n_head, m.d_ff];
        if parts(&shape) != parts(base) {
            return usage(format!("--model {preset} disagrees with the shape of {from}: leave --model out"));
        }
    }
    Ok(ModelConfig { vocab_size: 0, dropout, ..base.clone() })
}

fn both<T>(a: &str, b: &str) -> Result<T> {
    usage(format!("{a} and {b} say the same thing twice: give one of them"))
}

/// TOML's integers are signed: a larger number could not be written down with the run.
fn storable(flag: &str, value: u64) -> Result<()> {
    match i64::try_from(value) {
        Ok(_) => Ok(()),
        Err(_) => usage(format!("{flag} {value} is above {}", i64::MAX)),
    }
}

/// Refuses a number outside `low..=high`, and NaN.
fn between(flag: &str, value: f64, low: f64, high: f64) -> Result<()> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        usage(format!("{flag} {value} is not in {low}..={high}"))
    }
}
