//! Lines on stderr for whoever watches.

use std::fmt::Display;
use std::io::Write;

/// Prints a line on stderr. A reader that has gone, as in `hlx train 2>&1 | head`, is no reason to stop
/// training, where `eprintln!` would panic.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
