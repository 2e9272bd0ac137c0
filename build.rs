//! Builds every kernel: GLSL in, checked SPIR-V and the Rust that describes it out.
//!
//! Each `shaders/<stem>.comp` is compiled, refused if it breaks the exact contract, hardened, and
//! reflected; then one Rust module per kernel is written to `OUT_DIR`. See `build/kernel.rs` for the order.

#[path = "build/compile.rs"]
mod compile;
#[path = "build/emit.rs"]
mod emit;
#[path = "build/harden.rs"]
mod harden;
#[path = "build/kernel.rs"]
mod kernel;
#[path = "build/reflect.rs"]
mod reflect;
#[path = "build/refuse.rs"]
mod refuse;
#[path = "build/spirv.rs"]
mod spirv;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    for input in ["build.rs", "build", "shaders"] {
        println!("cargo:rerun-if-changed={input}");
    }
    let out_dir = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    match kernel::build_all(Path::new("shaders"))
        .and_then(|kernels| emit::write(&kernels, Path::new(&out_dir)))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
