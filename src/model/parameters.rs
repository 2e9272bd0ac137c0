//! The canonical list of a model's parameters: names, shapes, decay and initial values, in one order.
//!
//! Files, the optimizer, the digest and the device's arena all follow this order. Names and layouts
//! are those of the transformers library's GPT-2, which stores a linear layer as [in, out].

use crate::config::ModelConfig;

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
}

/// One parameter tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterSpec {
    /// As in a model folder: `transformer.h.0.attn.c_attn.weight`.
    pub name: String,
    /// One or two dimensions, row-major.
    pub shape: Vec<usize>,
    /// Weight decay applies: true for matrices only.
    pub decay: bool,
    /// How it starts.
    pub init: Init,
}

impl ParameterSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True for a tensor without elements; no valid model has one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How many numbers a model learns. The tied output layer is the token embedding, counted once.
pub fn parameter_count(config: &ModelConfig) -> usize {
    parameter_specs(config).iter().map(ParameterSpec::len).sum()
}

/// A model's parameters on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelState {
    /// The model's shape.
    pub config: ModelConfig,
    /// One row-major tensor a parameter, in the order of [`parameter_specs`].
    pub tensors: Vec<Vec<f32>>,
}

/// GPT-2's standard deviation for every weight matrix.
const INIT_STD: f64 = 0.02;

/// Every parameter, in the order of GPT2LMHeadModel. The output layer is tied to `wte` and not listed.
pub fn parameter_specs(config: &ModelConfig) -> Vec<ParameterSpec> {
    let ModelConfig { vocab_size, context, d_model, n_layer, d_ff, .. } = *config;
    // Each block adds two projections into the residual stream; scaling them keeps its variance
    // independent of depth (Radford et al. 2019, section 2.3).
    let residual_std = INIT_STD / libm::sqrt(2.0 * n_layer as f64);
    let mut specs = Specs(Vec::with_capacity(4 + 12 * n_layer));
    specs.add("wte.weight", &[vocab_size, d_model], Init::Normal(INIT_STD));
    specs.add("wpe.weight", &[context, d_model], Init::Normal(INIT_STD));
    for layer in 0..n_layer {
        specs.norm(&format!("h.{layer}.ln_1"), d_model);
        specs.linear(&format!("h.{layer}.attn.c_attn"), d_model, 3 * d_model, INIT_STD);
        specs.linear(&format!("h.{layer}.attn.c_proj"), d_model, d_model, residual_std);
        specs.norm(&format!("h.{layer}.ln_2"), d_model);
        specs.linear(&format!("h.{layer}.mlp.c_fc"), d_model, d_ff, INIT_STD);
        specs.linear(&format!("h.{layer}.mlp.c_proj"), d_ff, d_model, residual_std);
    }
    specs.norm("ln_f", d_model);
    specs.0
}

struct Specs(Vec<ParameterSpec>);

impl Specs {
    fn add(&mut self, name: &str, shape: &[usize], init: Init) {
        let name = format!("transformer.{name}");
        self.0.push(ParameterSpec { name, shape: shape.to_vec(), decay: shape.len() == 2, init });
    }

    fn norm(&mut self, name: &str, d_model: usize) {
        self.add(&format!("{name}.weight"), &[d_model], Init::Ones);
        self.add(&format!("{name}.bias"), &[d_model], Init::Zeros);
    }

    fn linear(&mut self, name: &str, d_in: usize, d_out: usize, std: f64) {
        self.add(&format!("{name}.weight"), &[d_in, d_out], Init::Normal(std));
        self.add(&format!("{name}.bias"), &[d_out], Init::Zeros);
    }
}
