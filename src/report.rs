//! What the user sees while hlx works: the memory plan, the progress bar, metrics.jsonl.

mod metrics;
mod plan;
mod progress;
mod say;

pub use crate::format;
pub use metrics::{MetricsFile, StepMetrics};
pub use plan::MemoryPlan;
pub use progress::{Progress, StepReport};
pub use say::say;
