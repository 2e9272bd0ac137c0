//! Training: the step as a program, the session that runs it, and the loop around it.

pub mod digest;
pub mod evaluate;
pub mod feed;
pub mod finite;
pub mod inference;
pub mod init;
pub mod program;
pub mod recover;
pub mod run;
pub mod sample;
pub mod schedule;
pub mod session;
pub mod verify;
