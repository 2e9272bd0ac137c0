//! A run that outlives its device: when the device fails, one attempt more on a device opened anew.

use crate::checkpoint::RunState;
use crate::error::{Error, Result};
use crate::report::say;
use crate::train::run::{Outcome, Run, Setup};
use crate::train::session::{Session, TrainState};

/// The session that was loaded or, if the device failed in that, the one that `reopen` makes.
///
/// # Errors
/// As loading reports them; of a device that fails, the second failure, with the first where there is no
/// device to go on with.
pub fn load(first: Result<Session>, reopen: impl FnOnce() -> Result<Session>) -> Result<Session> {
    match first {
        Err(Error::Device(failure)) => {
            say(format_args!("the device failed while loading: {failure}\ntrying once more"));
            reopen().map_err(|error| without_device(&failure, error, "start again, or --resume"))
        }
        other => other,
    }
}

/// Trains to the end. If the device fails on the way, goes on from the newest whole checkpoint that this run
/// saved, or from where it started, on the session that `reopen` makes. What comes out is what an unbroken
/// run would have come to.
///
/// # Errors
/// As [`Run::train`]; of a device that fails, the second failure, with the first where there is no device to
/// go on with.
pub fn train(setup: Setup, session: Session, reopen: impl FnOnce() -> Result<Session>) -> Result<Outcome> {
    let mut saved = None;
    let failure = match attempt(setup, session, &mut saved) {
        Err(Error::Device(failure)) => failure,
        other => return other,
    };
    let found = match &saved {
        Some(last) => setup.folder.load_of_training(setup.start.step, last)?,
        None => None,
    };
    let from =
        found.as_ref().map_or("where it started".to_owned(), |(folder, _)| folder.display().to_string());
    say(format_args!("the device failed: {failure}\ntrying once more from {from}"));
    let resume = format!("go on with --resume {}", setup.folder.path().display());
    let session = reopen().map_err(|error| without_device(&failure, error, &resume))?;
    let Some((_, checkpoint)) = found else { return attempt(setup, session, &mut None) };
    let start = TrainState::of(&checkpoint);
    attempt(Setup { start: &start, resumed: Some(&checkpoint.state), ..setup }, session, &mut None)
}

/// That no device can be opened any more is the failed device's doing.
fn without_device(failure: &str, error: Error, remedy: &str) -> Error {
    match error {
        Error::NoDevice(reason) => Error::Device(format!(
            "the device failed ({failure}), and there is none to go on with ({reason}): {remedy} when it \
             works again"
        )),
        other => other,
    }
}

/// One run; `saved` becomes the state of the newest checkpoint that it saved. When this returns, the session
/// is gone, and all that it held of its device.
fn attempt(setup: Setup, session: Session, saved: &mut Option<RunState>) -> Result<Outcome> {
    let mut run = Run::new(setup, session)?;
    let outcome = run.train();
    *saved = run.last_saved().cloned();
    outcome
}
