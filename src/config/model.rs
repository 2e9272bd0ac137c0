//! The shape of a model: the presets, and what makes a shape valid.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The shape of a GPT-2 model and the constants of its arithmetic.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Rows of the token embedding: how many different tokens there are.
    pub vocab_size: usize,
    /// The longest input in tokens: rows of the position embedding.
    pub context: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Transformer blocks.
    pub n_layer: usize,
    /// Attention heads a block; divides `d_model`.
    pub n_head: usize,
    /// Width of the feed-forward layer.
    pub d_ff: usize,
    /// Probability with which training zeroes an activation, in [0, 1).
    pub dropout: f64,
    /// Added to the variance in every LayerNorm.
    pub layer_norm_eps: f64,
}

/// GPT-2's own epsilon.
pub const LAYER_NORM_EPS: f64 = 1e-5;

/// The widest attention head that the kernels hold in registers.
const MAX_D_HEAD: usize = 256;

impl ModelConfig {
    /// Width of one attention head.
    pub fn d_head(&self) -> usize {
        self.d_model / self.n_head
    }

    /// The largest batch whose tensors the kernels can address: indices have 32 bits, of which hlx uses
    /// 31, and a dispatch has at most 65,535 workgroups in a direction, each of 8 rows or of one head.
    pub fn max_batch_size(&self) -> usize {
        let widest = self.vocab_size.max(self.d_ff).max(3 * self.d_model);
        let per_window = self.context * widest.max(self.n_head * self.context);
        let by_words = (1 << 31) / per_window;
        let by_rows = 8 * 65_535 / self.context;
        let by_heads = 65_535 / self.n_head;
        by_words.min(by_rows).min(by_heads)
    }

    /// Checks every range and relation. The error names the flag to change.
    pub fn validate(&self) -> Result<()> {
        within("--context", self.context, 2, 1 << 16)?;
        within("--n-layer", self.n_layer, 1, 1 << 10)?;
        within("--n-head", self.n_head, 1, 1 << 10)?;
        within("--d-model", self.d_model, 1, 1 << 16)?;
        within("--d-ff", self.d_ff, 1, 1 << 18)?;
        if self.vocab_size == 0 {
            return usage("the vocabulary is empty".to_owned());
        }
        let (d_model, n_head) = (self.d_model, self.n_head);
        if !d_model.is_multiple_of(n_head) {
            let near = d_model.next_multiple_of(n_head);
            return usage(format!(
                "--d-model {d_model} cannot be divided among --n-head {n_head} heads: {near} can"
            ));
        }
        if self.d_head() > MAX_D_HEAD {
            let enough = (n_head..=d_model).find(|&n| d_model.is_multiple_of(n) && d_model / n <= MAX_D_HEAD);
            return usage(format!(
                "--d-model {d_model} with --n-head {n_head} makes heads {} wide, more than {MAX_D_HEAD}: use \
                 --n-head {}",
                self.d_head(),
                enough.unwrap_or(d_model)
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return usage(format!("--dropout {} is not at least 0 and below 1", self.dropout));
        }
        // A row of equal numbers has no variance, and the reciprocal root of almost nothing is out of range.
        if !(1e-12..=0.1).contains(&self.layer_norm_eps) {
            return usage(format!("layer_norm_epsilon {} is not in 1e-12..=0.1", self.layer_norm_eps));
        }
        Ok(())
    }
}

/// A named shape for `--model`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Preset {
    /// 4 layers, d_model 128, 4 heads, context 64.
    #[default]
    Nano,
    /// 4 layers, d_model 256, 4 heads, context 128.
    Tiny,
    /// 6 layers, d_model 512, 8 heads, context 256.
    Small,
    /// 12 layers, d_model 768, 12 heads, context 512.
    Medium,
    /// 12 layers, d_model 768, 12 heads, context 1,024: the smallest GPT-2.
    Gpt2,
}

impl Preset {
    /// Every preset, smallest first.
    pub const ALL: &'static [Preset] =
        &[Preset::Nano, Preset::Tiny, Preset::Small, Preset::Medium, Preset::Gpt2];

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Nano => "nano",
            Preset::Tiny => "tiny",
            Preset::Small => "small",
            Preset::Medium => "medium",
            Preset::Gpt2 => "gpt2",
        }
    }

    /// The preset's shape for a vocabulary, without dropout.
    pub fn config(self, vocab_size: usize) -> ModelConfig {
        let (n_layer, d_model, n_head, context) = match self {
            Preset::Nano => (4, 128, 4, 64),
            Preset::Tiny => (4, 256, 4, 128),
            Preset::Small => (6, 512, 8, 256),
            Preset::Medium => (12, 768, 12, 512),
            Preset::Gpt2 => (12, 768, 12, 1024),
        };
        let (d_ff, dropout) = (4 * d_model, 0.0);
        let layer_norm_eps = LAYER_NORM_EPS;
        ModelConfig { vocab_size, context, d_model, n_layer, n_head, d_ff, dropout, layer_norm_eps }
    }
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Preset::ALL.iter().copied().find(|p| p.name() == text).ok_or_else(|| {
            let names: Vec<_> = Preset::ALL.iter().map(|p| p.name()).collect();
            format!("there is no preset `{text}`; choose from: {}", names.join(", "))
        })
    }
}

impl TryFrom<String> for Preset {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<Preset> for &'static str {
    fn from(preset: Preset) -> &'static str {
        preset.name()
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

pub(super) fn usage<T>(message: String) -> Result<T> {
    Err(Error::Usage(message))
}

/// Refuses a whole number outside `low..=high`.
pub(super) fn within(flag: &str, value: usize, low: usize, high: usize) -> Result<()> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        usage(format!("{flag} {value} is not in {low}..={high}"))
    }
}
