//! The commands, one a file: each reads its input, runs, and prints.

mod backend;
mod bench;
mod bench_gemm;
mod devices;
mod eval;
mod generate;
mod measure;
mod retrace;
mod retrace_report;
mod train;
mod tune;
mod verify;
mod verify_checkpoint;
mod verify_kept;

use std::io::Write;
use std::path::Path;

use crate::cli::{Cli, Command};
use crate::error::{Error, Result};

/// Does what the command line says.
pub fn run(cli: &Cli) -> Result<()> {
    match &cli.command {
        Command::Train(args) => train::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Bench(args) => bench::run(args),
        Command::BenchGemm(args) => bench_gemm::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Devices(args) => devices::run(args),
    }
}

/// Writes a result to stdout at once.
///
/// # Errors
/// [`Error::ReaderGone`] if nobody reads it: a command that only prints may end then.
fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Error::ReaderGone),
        Err(error) => Err(Error::io("cannot write to", "stdout")(error)),
    }
}

/// Writes a result that is not all the command is for: its exit code tells the outcome, read or not.
fn print_if_read(text: &str) -> Result<()> {
    match print(text) {
        Err(Error::ReaderGone) => Ok(()),
        other => other,
    }
}

/// Writes a JSON value and a line's end to stdout.
fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value}\n"))
}

/// Refuses, before any work, a path under which no file can be written because of where it is.
fn check_output(flag: &str, path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() && path.file_name().is_some() && !path.is_dir() {
        return Ok(());
    }
    Err(Error::Input(format!(
        "{flag} {} cannot be written: give the name of a file in a folder that is there",
        path.display()
    )))
}

/// The command as the user typed it, for hints that can be copied.
fn program() -> String {
    std::env::args_os().next().map_or("hlx".into(), |path| path.to_string_lossy().into_owned())
}
