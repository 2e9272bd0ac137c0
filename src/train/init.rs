//! A new model's parameters: GPT-2's initial values, drawn from the seed.

use crate::config::ModelConfig;
use crate::exact::{fill_normal, snap};
use crate::model::parameters::{Init, parameter_specs};
use crate::train::session::TrainState;

/// Counter purposes above every dropout site and every window's.
const INIT_PURPOSE: u32 = 0x8000_0000;

/// Parameters as GPT-2 starts them, one random stream a tensor, so that a tensor's values do not
/// depend on the others.
pub fn initial_parameters(config: &ModelConfig, seed: u64) -> Vec<Vec<f32>> {
    let specs = parameter_specs(config);
    let tensors = specs.iter().enumerate().map(|(index, spec)| {
        let mut tensor = vec![0.0; spec.len()];
        match spec.init {
            Init::Zeros => {}
            Init::Ones => tensor.fill(1.0),
            Init::Normal(std_dev) => {
                fill_normal(&mut tensor, std_dev, seed, INIT_PURPOSE + index as u32, 0);
                tensor.iter_mut().for_each(|x| *x = snap(*x));
            }
        }
        tensor
    });
    tensors.collect()
}

/// The state before the first step: given parameters, moments of zero.
pub fn initial_state(params: Vec<Vec<f32>>) -> TrainState {
    let zeros: Vec<Vec<f32>> = params.iter().map(|t| vec![0.0; t.len()]).collect();
    let params = params.into_iter().map(|t| t.into_iter().map(snap).collect()).collect();
    TrainState { params, m: zeros.clone(), v: zeros, step: 0 }
}
