//! A small checkpoint to save and to damage.

#![allow(dead_code)] // each test binary uses a part

use hlx::checkpoint::{Checkpoint, FORMAT_VERSION, RunState};
use hlx::config::{ModelConfig, Precision};
use hlx::data::{Corpus, Tokenizer};
use hlx::model::parameters::{ModelState, parameter_specs};

/// A shape whose checkpoint is some ten kilobytes.
pub fn small_shape() -> ModelConfig {
    ModelConfig {
        vocab_size: 4,
        context: 8,
        d_model: 8,
        n_layer: 1,
        n_head: 2,
        d_ff: 16,
        dropout: 0.1,
        layer_norm_eps: 1e-5,
    }
}

/// A checkpoint with different numbers in every tensor, which follow from the step.
pub fn checkpoint(shape: &ModelConfig, step: u64) -> Checkpoint {
    let tensors = |salt: f32| -> Vec<Vec<f32>> {
        let specs = parameter_specs(shape);
        (specs.iter().enumerate())
            .map(|(i, spec)| (0..spec.len()).map(|j| salt + i as f32 + j as f32 / 1024.0).collect())
            .collect()
    };
    let corpus = Corpus { name: "x".into(), text: "ab\n".into(), has_examples: true };
    Checkpoint {
        model: ModelState { config: shape.clone(), tensors: tensors(step as f32) },
        m: tensors(0.25 + step as f32),
        v: tensors(0.5 + step as f32),
        tokenizer: Tokenizer::build([&corpus]),
        state: RunState {
            format_version: FORMAT_VERSION,
            hlx_version: "0.0.0".into(),
            kernels_hash: "k".into(),
            step,
            epoch: step / 10,
            windows: 12 * step,
            tokens: 36 * step,
            seed: 1337,
            precision: Precision::Exact,
            device: String::new(),
            driver: String::new(),
            tuning: Default::default(),
            digest: "d".into(),
            training_hash: "t".into(),
            options: None,
            unbroken_since: None,
            init_digest: None,
            corpus_hash: "c".into(),
            train_loss: 2.5,
            val_loss: Some(2.25),
            best_val_loss: Some(2.0),
            best_step: Some(step),
            chain: vec![],
        },
    }
}
