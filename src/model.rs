//! The model: GPT-2 as recordings of its forward and backward pass.

pub mod arena;
pub mod parameters;
