//! A LayerNorm's place in the arena.

use crate::model::arena::Arena;
use crate::ops::layernorm::LayerNorm;
use crate::recording::View;

/// gamma and beta of one LayerNorm, as offsets into any arena of the model.
#[derive(Clone, Copy)]
pub struct Norm {
    d_model: usize,
    eps: f32,
    gamma: usize,
    beta: usize,
}

impl Norm {
    /// `name` without `.weight`.
    pub fn new(arena: &Arena, name: &str, d_model: usize, eps: f64) -> Norm {
        let find = |suffix: &str| {
            let full = format!("{name}.{suffix}");
            arena.specs.iter().position(|s| s.name == full).unwrap_or_else(|| panic!("there is no {full}"))
        };
        Norm {
            d_model,
            eps: eps as f32,
            gamma: arena.offsets[find("weight")],
            beta: arena.offsets[find("bias")],
        }
    }

    /// The gain's place in an arena, `[C]`.
    pub fn gamma(&self, arena: View) -> View {
        arena.part(self.gamma, self.d_model)
    }

    /// The bias's place in an arena, `[C]`.
    pub fn beta(&self, arena: View) -> View {
        arena.part(self.beta, self.d_model)
    }

    /// The operation over parameters in `params`, with its statistics in `stats` `[N,2]`.
    pub fn op(&self, params: View, stats: View) -> LayerNorm {
        LayerNorm {
            d_model: self.d_model,
            eps: self.eps,
            gamma: self.gamma(params),
            beta: self.beta(params),
            stats,
        }
    }
}
