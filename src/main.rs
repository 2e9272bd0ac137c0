//! hlx: parse, run, exit code.

use std::io::IsTerminal;
use std::process::ExitCode;

use hlx::cli::Cli;
use hlx::error::Error;
use hlx::report::say;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::from_command_line();
    log_to_stderr(cli.verbose);
    match hlx::commands::run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_end(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Why a command ended early, in one line. A run that was stopped and saved has not failed.
fn say_end(error: &Error) {
    match error {
        Error::Interrupted(message) => say(message),
        Error::ReaderGone => {}
        _ => say(format_args!("error: {error}")),
    }
}

/// `RUST_LOG` wins over `-v`.
fn log_to_stderr(verbose: u8) {
    let level = ["warn", "hlx=info", "hlx=debug", "hlx=trace"][usize::from(verbose.min(3))];
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let colours = std::io::stderr().is_terminal();
    let to_stderr = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .without_time();
    // A closed stderr would otherwise be reported on stderr, in a panic.
    to_stderr.log_internal_errors(false).with_env_filter(filter).init();
}
