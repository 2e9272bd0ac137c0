//! The model: GPT-2 as recordings of its forward and backward pass.

pub mod activations;
pub mod arena;
pub mod attention;
pub mod block;
pub mod gpt;
pub mod head;
pub mod linear;
pub mod mlp;
pub mod norm;
pub mod parameters;
