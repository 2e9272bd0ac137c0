//! The digest of a training state: one BLAKE3 hash a tensor, and one over all of them.

use rayon::prelude::*;

use crate::model::parameters::ParameterSpec;
use crate::train::session::TrainState;

/// What stands before a parameter's name to mean the tensor itself, its first and its second moment.
const KINDS: [&str; 3] = ["", "m.", "v."];

/// The hashes of one training state. Small enough to keep for every step, and enough to tell which
/// tensor two states differ in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDigest {
    /// Updates made.
    pub step: u64,
    /// One a tensor: parameters, first moments, second moments, each in canonical order.
    pub tensors: Vec<blake3::Hash>,
}

impl StateDigest {
    /// Hashes a state, on all cores.
    pub fn of(state: &TrainState) -> StateDigest {
        let tensors: Vec<&Vec<f32>> = state.tensors().collect();
        StateDigest { step: state.step, tensors: tensors.into_par_iter().map(|t| hash(t)).collect() }
    }

    /// BLAKE3 over the step, then each tensor's name, length and hash, as 64 hexadecimal digits.
    pub fn whole(&self, specs: &[ParameterSpec]) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.step.to_le_bytes());
        for (index, tensor) in self.tensors.iter().enumerate() {
            hasher.update(tensor_name(specs, index).as_bytes());
            hasher.update(&(specs[index % specs.len()].len() as u64).to_le_bytes());
            hasher.update(tensor.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The first tensor in which another state differs.
    pub fn first_difference(&self, other: &StateDigest) -> Option<usize> {
        (0..self.tensors.len()).find(|&index| self.tensors[index] != other.tensors[index])
    }
}

/// The digest that results and checkpoints carry: [`StateDigest::whole`].
pub fn digest(specs: &[ParameterSpec], state: &TrainState) -> String {
    StateDigest::of(state).whole(specs)
}

/// The name of tensor `index` of a state: a parameter's, behind `m.` or `v.` for its moments.
pub fn tensor_name(specs: &[ParameterSpec], index: usize) -> String {
    format!("{}{}", KINDS[index / specs.len()], specs[index % specs.len()].name)
}

/// BLAKE3 over the elements' bits, least significant byte first.
fn hash(tensor: &[f32]) -> blake3::Hash {
    if cfg!(target_endian = "little") {
        return blake3::hash(bytemuck::cast_slice(tensor));
    }
    let mut hasher = blake3::Hasher::new();
    tensor.iter().for_each(|x| {
        hasher.update(&x.to_le_bytes());
    });
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parameters::Init;

    #[test]
    fn one_flipped_bit_of_any_tensor_changes_the_digest_and_is_named() {
        let spec =
            |name: &str| ParameterSpec { name: name.into(), shape: vec![3], decay: false, init: Init::Zeros };
        let specs = [spec("w"), spec("b")];
        let tensors = |x: f32| vec![vec![x, 2.0, 3.0], vec![x; 3]];
        let state = TrainState { params: tensors(1.0), m: tensors(0.1), v: tensors(0.2), step: 7 };
        let clean = StateDigest::of(&state);
        for (index, name) in ["w", "b", "m.w", "m.b", "v.w", "v.b"].iter().enumerate() {
            let mut other = state.clone();
            let kinds = [&mut other.params, &mut other.m, &mut other.v];
            let x = kinds.into_iter().flatten().nth(index).unwrap().last_mut().unwrap();
            *x = f32::from_bits(x.to_bits() ^ 1);
            let other = StateDigest::of(&other);
            assert_ne!(other.whole(&specs), clean.whole(&specs));
            assert_eq!(clean.first_difference(&other), Some(index));
            assert_eq!(tensor_name(&specs, index), *name);
        }
        assert_ne!(digest(&specs, &TrainState { step: 8, ..state }), clean.whole(&specs));
    }
}
