//! The model.

pub mod parameters;
