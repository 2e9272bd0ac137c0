//! The CPU executor: the same recordings, the same bits, in portable Rust.

pub mod twins;
