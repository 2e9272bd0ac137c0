//! Progress of a run on stderr: a bar on a terminal, a plain line every few seconds elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::format;

/// What the bar shows of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// From 1.
    pub step: u64,
    /// In nats per token.
    pub loss: f64,
    /// The last validation loss, if there is one yet.
    pub val_loss: Option<f64>,
    /// Of the whole gradient before clipping.
    pub grad_norm: f64,
    /// Tokens of the step over its time.
    pub tokens_per_second: f64,
}

/// Time between plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Shows how far a run is.
pub struct Progress {
    output: Output,
    first_step: u64,
    total_steps: u64,
    started: Instant,
    /// Mean over the last steps, weighted towards the newest: single steps vary too much to read.
    tokens_per_second: Option<f64>,
}

enum Output {
    Bar(ProgressBar),
    Plain { to: Box<dyn Write + Send>, every: Duration, last: Option<Instant> },
}

impl Progress {
    /// Progress on stderr of a run that has taken `first_step` of `total_steps` steps.
    pub fn new(first_step: u64, total_steps: u64) -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress::plain(first_step, total_steps, Box::new(std::io::stderr()), PLAIN_EVERY);
        }
        let style = ProgressStyle::with_template("{bar:24.cyan/dim} {pos}/{len} {msg}");
        let bar = ProgressBar::new(total_steps).with_style(style.expect("the template is well formed"));
        bar.set_position(first_step);
        Progress::with(Output::Bar(bar), first_step, total_steps)
    }

    /// Plain lines to a writer, at most one in each span of `every`.
    pub fn plain(first_step: u64, total_steps: u64, to: Box<dyn Write + Send>, every: Duration) -> Progress {
        Progress::with(Output::Plain { to, every, last: None }, first_step, total_steps)
    }

    fn with(output: Output, first_step: u64, total_steps: u64) -> Progress {
        Progress { output, first_step, total_steps, started: Instant::now(), tokens_per_second: None }
    }

    /// Shows a step that has been taken.
    pub fn step(&mut self, report: &StepReport) {
        let newest = report.tokens_per_second;
        let mean = self.tokens_per_second.map_or(newest, |mean| 0.9 * mean + 0.1 * newest);
        self.tokens_per_second = Some(mean);
        let line = self.describe(report, mean);
        match &mut self.output {
            Output::Bar(bar) => {
                bar.set_position(report.step);
                bar.set_message(line);
            }
            Output::Plain { to, every, last } => {
                let due = last.is_none_or(|last| last.elapsed() >= *every) || report.step == self.total_steps;
                if due {
                    // Nothing useful can be done if stderr is closed; training goes on.
                    let _ = writeln!(to, "step {}/{}  {line}", report.step, self.total_steps);
                    *last = Some(Instant::now());
                }
            }
        }
    }

    fn describe(&self, report: &StepReport, tokens_per_second: f64) -> String {
        let mut line = format!("loss {:.4}", report.loss);
        if let Some(val_loss) = report.val_loss {
            line += &format!("  last val {val_loss:.4}");
        }
        line += &format!("  grad {:.3}  {} tokens/s", report.grad_norm, format::count(tokens_per_second));
        let taken = report.step.saturating_sub(self.first_step);
        let left = self.total_steps.saturating_sub(report.step);
        if taken > 0 && left > 0 {
            let seconds = self.started.elapsed().as_secs_f64() / taken as f64 * left as f64;
            line += &format!("  {} left", format::duration(seconds));
        }
        line
    }

    /// Leaves the bar as it stands and the cursor below it.
    pub fn finish(&self) {
        if let Output::Bar(bar) = &self.output {
            bar.abandon();
        }
    }
}
