//! Steps that `hlx verify` keeps beside a chain's file, and what they show of a chain from elsewhere.

use std::path::Path;

use crate::cli::VerifyArgs;
use crate::error::{Error, Result};
use crate::report::{format, say};
use crate::train::verify::{
    Header, KeptStep, Recorded, RecordedDifference, Trainer, Verification, keep_step, kept_path,
};

/// Keeps the step of `--keep-step` beside the chain's file.
pub fn keep(
    args: &VerifyArgs,
    trainer: &mut Trainer,
    found: &Verification,
    recorded: &Recorded,
    path: &Path,
) -> Result<()> {
    let Some(step) = args.keep_step else { return Ok(()) };
    let (Some(record), Some(chain)) = (found.records.get(step as usize - 1), recorded.chain_after(step))
    else {
        return Ok(());
    };
    let place = kept_path(path, step);
    let bytes = keep_step(trainer, record, chain, &place)?;
    say(format_args!("kept step {step} in {} ({})", place.display(), format::bytes(bytes)));
    Ok(())
}

/// Follows a difference from a chain to its first operation and element, if the step is kept beside it;
/// else says how to have it kept.
pub fn explain(
    difference: &mut RecordedDifference,
    trainer: &mut Trainer,
    found: &Verification,
    [there, here]: [&Recorded; 2],
    path: &Path,
) -> Result<()> {
    let step = difference.step;
    let place = kept_path(path, step);
    let Some(chain) = there.chain_after(step).filter(|_| step > 0) else { return Ok(()) };
    if !place.exists() {
        difference.next = Some(command(&there.header, path, step));
        return Ok(());
    }
    let met = KeptStep::open(&place, step, chain).and_then(|kept| kept.meet(trainer, &found.records));
    match met {
        Ok(met) => difference.explain(met, &there.header, &here.header),
        // The difference stands, whatever keeps it from being followed.
        Err(error @ Error::Input(_)) => {
            say(format_args!("{error}"));
            difference.next = Some(command(&there.header, path, step));
        }
        Err(error) => say(format_args!("step {step} could not be replayed: {error}")),
    }
    Ok(())
}

/// The command that keeps a step on the machine that a chain is from.
fn command(there: &Header, path: &Path, step: u64) -> String {
    let quoted = |text: &str| match text.contains(char::is_whitespace) {
        true => format!("\"{text}\""),
        false => text.to_owned(),
    };
    let name = quoted(&path.file_name().unwrap_or_default().to_string_lossy());
    let device = if there.device == "CPU executor" { "cpu".to_owned() } else { quoted(&there.device) };
    let corpus =
        there.corpus.as_ref().map_or(String::new(), |corpus| format!(" --corpus {}", quoted(corpus)));
    format!("hlx verify --against {name}{corpus} --device {device} --save {name} --keep-step {step}")
}
