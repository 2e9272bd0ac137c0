//! Training: the step as a program, the session that runs it, and the loop around it.

pub mod digest;
pub mod evaluate;
pub mod feed;
pub mod init;
pub mod program;
pub mod schedule;
pub mod session;
