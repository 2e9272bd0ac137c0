//! The digest of a training state: one BLAKE3 hash over every parameter and moment.

use crate::model::parameters::ParameterSpec;
use crate::train::session::TrainState;

/// BLAKE3 over the step, then each tensor's name, length and bits: parameters, first and second
/// moments, each in canonical order. Returned as 64 hexadecimal digits.
pub fn digest(specs: &[ParameterSpec], state: &TrainState) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&state.step.to_le_bytes());
    for (kind, tensors) in [("", &state.params), ("m.", &state.m), ("v.", &state.v)] {
        for (spec, tensor) in specs.iter().zip(tensors) {
            hasher.update(kind.as_bytes());
            hasher.update(spec.name.as_bytes());
            hasher.update(&(tensor.len() as u64).to_le_bytes());
            update_little_endian(&mut hasher, tensor);
        }
    }
    hasher.finalize().to_hex().to_string()
}

fn update_little_endian(hasher: &mut blake3::Hasher, tensor: &[f32]) {
    if cfg!(target_endian = "little") {
        hasher.update(bytemuck::cast_slice(tensor));
    } else {
        tensor.iter().for_each(|x| {
            hasher.update(&x.to_le_bytes());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parameters::Init;

    #[test]
    fn one_flipped_bit_of_any_tensor_changes_the_digest() {
        let specs = [ParameterSpec { name: "w".into(), shape: vec![3], decay: false, init: Init::Zeros }];
        let state = TrainState {
            params: vec![vec![1.0, 2.0, 3.0]],
            m: vec![vec![0.1; 3]],
            v: vec![vec![0.2; 3]],
            step: 7,
        };
        let clean = digest(&specs, &state);
        let flip = |x: &mut f32| *x = f32::from_bits(x.to_bits() ^ 1);
        for kind in 0..3 {
            let mut other = state.clone();
            flip([&mut other.params, &mut other.m, &mut other.v][kind][0].last_mut().unwrap());
            assert_ne!(digest(&specs, &other), clean);
        }
        assert_ne!(digest(&specs, &TrainState { step: 8, ..state }), clean);
    }
}
