//! Ctrl-C and termination signals: the first asks to stop, a second one stops at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::report::say;

/// Set once the user has asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over the process's handling of these signals. Works once a process.
    pub fn install() -> Result<Interrupt> {
        let interrupt = Interrupt::default();
        let flag = interrupt.clone();
        ctrlc::set_handler(move || {
            if flag.0.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            say("\nstopping after this step and saving; once more to stop at once");
        })
        .map_err(|error| Error::Input(format!("cannot listen for Ctrl-C: {error}")))?;
        Ok(interrupt)
    }

    /// True once the user has asked to stop.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
