//! The flat arena: where each parameter lies in the one buffer that the optimizer updates in one dispatch.
//!
//! Gradients and both moments have arenas of the same layout. Matrices come first, so that weight
//! decay applies to a prefix; every tensor starts at a view's alignment, and the padding stays zero.

use crate::config::ModelConfig;
use crate::model::parameters::{ParameterSpec, parameter_specs};
use crate::recording::{View, align_words};

/// Where every parameter lies.
#[derive(Clone, Debug)]
pub struct Arena {
    /// In the canonical order of [`parameter_specs`].
    pub specs: Vec<ParameterSpec>,
    /// Start of each parameter in words, in the same order.
    pub offsets: Vec<usize>,
    /// Words of the whole arena, padding included.
    pub words: usize,
    /// Words of the prefix that decays.
    pub decay_words: usize,
}

impl Arena {
    /// Lays out the parameters of a model.
    pub fn new(config: &ModelConfig) -> Arena {
        let specs = parameter_specs(config);
        let mut offsets = vec![0; specs.len()];
        let mut words = 0;
        let mut decay_words = 0;
        for decays in [true, false] {
            for (spec, offset) in specs.iter().zip(&mut offsets) {
                if spec.decay == decays {
                    *offset = words;
                    words += align_words(spec.len());
                }
            }
            if decays {
                decay_words = words;
            }
        }
        Arena { specs, offsets, words, decay_words }
    }

    /// The parameter of this name within an arena's buffer.
    pub fn view(&self, arena: View, name: &str) -> View {
        let index = self.specs.iter().position(|s| s.name == name);
        let index = index.unwrap_or_else(|| panic!("there is no parameter {name}"));
        arena.part(self.offsets[index], self.specs[index].len())
    }

    /// The parameter that this word of an arena belongs to, padding included.
    pub fn parameter_at(&self, word: usize) -> &ParameterSpec {
        let starts_before = |index: &usize| self.offsets[*index] <= word;
        let index = (0..self.specs.len()).filter(starts_before).max_by_key(|&index| self.offsets[index]);
        &self.specs[index.expect("a parameter starts at word 0")]
    }

    /// Copies tensors in canonical order into one arena's words.
    pub fn pack(&self, tensors: &[Vec<f32>]) -> Vec<u32> {
        assert_eq!(tensors.len(), self.specs.len(), "one tensor a parameter");
        let mut words = vec![0; self.words];
        for ((tensor, spec), &offset) in tensors.iter().zip(&self.specs).zip(&self.offsets) {
            assert_eq!(tensor.len(), spec.len(), "{} has another length", spec.name);
            words[offset..offset + tensor.len()].copy_from_slice(bytemuck::cast_slice(tensor));
        }
        words
    }

    /// Copies one arena's words out into tensors in canonical order.
    pub fn unpack(&self, words: &[u32]) -> Vec<Vec<f32>> {
        assert_eq!(words.len(), self.words, "an arena has {} words", self.words);
        let tensors = self.specs.iter().zip(&self.offsets);
        tensors.map(|(s, &at)| bytemuck::cast_slice(&words[at..at + s.len()]).to_vec()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_survive_packing_and_matrices_come_first() {
        let config = ModelConfig {
            vocab_size: 11,
            context: 5,
            d_model: 6,
            n_layer: 2,
            n_head: 3,
            d_ff: 24,
            dropout: 0.0,
            layer_norm_eps: 1e-5,
        };
        let arena = Arena::new(&config);
        let tensors: Vec<Vec<f32>> = arena
            .specs
            .iter()
            .enumerate()
            .map(|(k, s)| (0..s.len()).map(|i| (k * 1000 + i) as f32).collect())
            .collect();
        assert_eq!(arena.unpack(&arena.pack(&tensors)), tensors);
        for (spec, &offset) in arena.specs.iter().zip(&arena.offsets) {
            assert_eq!(offset < arena.decay_words, spec.decay, "{}", spec.name);
            for word in [offset, offset + spec.len() - 1] {
                assert_eq!(arena.parameter_at(word).name, spec.name);
            }
        }
    }
}
