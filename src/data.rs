//! From a corpus file to batches of token ids.

pub mod batches;
pub mod corpus;
mod dataset;
pub mod tokenizer;

pub use batches::{EvaluationWindows, IGNORE, TrainingWindows, sort_positions};
pub use corpus::Corpus;
pub use dataset::Dataset;
pub use tokenizer::Tokenizer;
