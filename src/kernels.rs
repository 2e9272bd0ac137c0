//! The kernels as Rust sees them: what build.rs generated from `shaders/*.comp`.

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
