//! What a command line or a configuration file means: layered, validated, and saved with every run.
//!
//! [`TrainOptions`] is what was said, every value optional; [`TrainConfig`] is what it comes to, every
//! value present and checked. Flags win over a `--config` file, the file over a resumed run's own
//! configuration, that over the preset and the defaults.

mod choices;
mod model;
mod options;
mod train;

pub use crate::precision::Precision;
pub use choices::{DeviceChoice, ProductLayout, ResumeFrom, RetraceFrom};
pub use model::{ModelConfig, Preset};
pub use options::TrainOptions;
pub use train::{CheckpointEvery, Length, TrainConfig};
