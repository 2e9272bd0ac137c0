//! The tokens of a training run: what to train on, what to validate on, and the tokenizer they came from.

use super::corpus::Corpus;
use super::tokenizer::Tokenizer;
use crate::config::TrainConfig;
use crate::error::{Error, Result};

/// Tokens for training and validation.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// How messages call the training text.
    pub name: String,
    /// What the tokens came from.
    pub tokenizer: Tokenizer,
    /// Token ids to train on.
    pub train: Vec<u32>,
    /// Empty if there is no validation.
    pub validation: Vec<u32>,
}

impl Dataset {
    /// Reads the corpora of a run. `known` is the tokenizer of the model that training goes on from;
    /// without one, it is built from every text given.
    pub fn load(config: &TrainConfig, known: Option<Tokenizer>) -> Result<Dataset> {
        let corpus = match &config.corpus {
            Some(path) => Corpus::read(path)?,
            None => Corpus::bundled(),
        };
        let validation_corpus = config.val_corpus.as_deref().map(Corpus::read).transpose()?;
        let tokenizer =
            known.unwrap_or_else(|| Tokenizer::build([&corpus].into_iter().chain(&validation_corpus)));
        let mut train = tokenizer.encode_corpus(&corpus)?;
        let validation = match &validation_corpus {
            Some(validation) => tokenizer.encode_corpus(validation)?,
            None => train.split_off(training_part(train.len(), config.val_fraction)),
        };
        if let Some(corpus) = validation_corpus.as_ref().filter(|_| validation.len() < 2) {
            return Err(Error::Input(format!(
                "{} (--val-corpus) has {} tokens, too few to predict one from another: give a longer text",
                corpus.name,
                validation.len()
            )));
        }
        if config.val_fraction > 0.0 && validation.len() < 2 {
            return Err(Error::Input(format!(
                "{}: --val-fraction {} of {} tokens leaves none to validate on: give a longer text or \
                 --val-fraction 0",
                corpus.name,
                config.val_fraction,
                train.len() + validation.len()
            )));
        }
        Ok(Dataset { name: corpus.name, tokenizer, train, validation })
    }
}

/// How many of `length` tokens come before the validation part.
fn training_part(length: usize, val_fraction: f64) -> usize {
    (length as f64 * (1.0 - val_fraction)) as usize
}
