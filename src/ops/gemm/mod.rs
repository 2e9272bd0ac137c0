//! The matrix product: its API for the model, its CPU twin.

mod band;
mod pack;
pub mod problem;
mod tile;
pub mod twin;

#[cfg(test)]
mod tests;
