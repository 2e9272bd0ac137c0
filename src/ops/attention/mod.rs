//! Causal attention of one layer: by products of whole matrices and a softmax, or by fused kernels.

mod fused;
mod plans;
mod products;

pub use fused::{BackwardViews, ForwardViews, FusedAttention};
pub use plans::{PARTS, Part};
pub use products::{AttentionByProducts, ProductViews};
