//! A model as a Hugging Face GPT-2 folder: config.json, model.safetensors, tokenizer.json.

use std::path::Path;

use serde_json::{Value, json};

use super::manifest::Folder;
use super::storage::{Disk, Storage};
use super::tensors::{Tensor, TensorFile, encode};
use crate::config::ModelConfig;
use crate::data::Tokenizer;
use crate::data::corpus::END_OF_TEXT;
use crate::error::{Error, Result, one_line};
use crate::model::parameters::{ModelState, parameter_specs};

pub const CONFIG: &str = "config.json";
pub const MODEL: &str = "model.safetensors";
pub const TOKENIZER: &str = "tokenizer.json";
/// Tells transformers' AutoTokenizer to take tokenizer.json as it is: without it, a folder whose model
/// is a GPT-2 gets GPT-2's own byte tokenizer, which loses spaces.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Names in older folders leave this out.
const PREFIX: &str = "transformer.";

/// What config.json calls the parts of a shape, by the flags that errors about a shape name.
const KEYS: [(&str, &str); 6] = [
    ("--context", "n_positions"),
    ("--n-layer", "n_layer"),
    ("--n-head", "n_head"),
    ("--d-model", "n_embd"),
    ("--d-ff", "n_inner"),
    ("--dropout", "resid_pdrop"),
];

/// Reads a model's shape from the folder's config.json. Errors name the file and the key.
pub fn read_model_config(folder: &Path) -> Result<ModelConfig> {
    config_in(&Folder::open(&Disk, folder)?)
}

/// Reads a model's shape and weights: F32, F16 or BF16, names with or without `transformer.`.
/// Errors name the file, the tensor and both shapes.
pub fn read_model(folder: &Path) -> Result<ModelState> {
    read_model_from(&Disk, folder)
}

/// [`read_model`], from any storage.
pub fn read_model_from(storage: &dyn Storage, folder: &Path) -> Result<ModelState> {
    model_in(&Folder::open(storage, folder)?)
}

/// Reads the folder's tokenizer.json; `None` if there is none.
pub fn read_tokenizer(folder: &Path) -> Result<Option<Tokenizer>> {
    read_tokenizer_from(&Disk, folder)
}

/// [`read_tokenizer`], from any storage.
pub fn read_tokenizer_from(storage: &dyn Storage, folder: &Path) -> Result<Option<Tokenizer>> {
    tokenizer_in(&Folder::open(storage, folder)?)
}

fn config_in(folder: &Folder<'_>) -> Result<ModelConfig> {
    let path = folder.path.join(CONFIG);
    let bytes = folder.read(CONFIG)?;
    let wrong = |reason: String| Error::Input(format!("{}: {}", path.display(), one_line(&reason)));
    let json: Value =
        serde_json::from_slice(&bytes).map_err(|error| wrong(format!("not valid JSON: {error}")))?;
    let config = parse_config(&json).map_err(wrong)?;
    let in_keys =
        |error: Error| KEYS.iter().fold(error.to_string(), |text, (flag, key)| text.replace(flag, key));
    config.validate().map_err(|error| wrong(format!("hlx cannot run this model: {}", in_keys(error))))?;
    Ok(config)
}

/// [`read_model`], of a folder that is open already.
pub fn model_in(folder: &Folder<'_>) -> Result<ModelState> {
    let config = config_in(folder)?;
    let path = folder.path.join(MODEL);
    let bytes = folder.read(MODEL)?;
    let file = TensorFile::parse(&path, &bytes)?;
    // Before a list is made of as many parameters as a few digits in config.json can ask for.
    if file.names().len() < config.n_layer {
        let count = file.names().len();
        return Err(file.error(format!("holds {count} tensors, too few for {} layers", config.n_layer)));
    }
    let specs = parameter_specs(&config);
    let mut tensors = Vec::with_capacity(specs.len());
    for spec in &specs {
        tensors.push(file.read(&[&spec.name, without_prefix(&spec.name)], &spec.shape)?);
    }
    for name in file.names() {
        let known = specs.iter().any(|spec| without_prefix(&spec.name) == without_prefix(name));
        if !known && name != "lm_head.weight" && !is_mask(name) {
            return Err(file.error(format!("holds {name}, which is no part of a GPT-2 language model")));
        }
    }
    if file.names().contains(&"lm_head.weight") {
        let head = file.read(&["lm_head.weight"], &specs[0].shape)?;
        if head != tensors[0] {
            return Err(file.error(
                "holds an lm_head.weight that differs from wte.weight: hlx runs models whose output is tied"
                    .into(),
            ));
        }
    }
    Ok(ModelState { config, tensors })
}

/// [`read_tokenizer`], of a folder that is open already.
pub fn tokenizer_in(folder: &Folder<'_>) -> Result<Option<Tokenizer>> {
    let Some(bytes) = folder.read_optional(TOKENIZER)? else { return Ok(None) };
    Tokenizer::from_file(&folder.path.join(TOKENIZER), bytes).map(Some)
}

fn without_prefix(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// Older folders keep the causal mask as a buffer beside the weights.
fn is_mask(name: &str) -> bool {
    name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
}

/// The configuration in GPT2Config's terms; keys that are left out have its defaults.
fn parse_config(json: &Value) -> std::result::Result<ModelConfig, String> {
    let expect = |key: &str, accepted: &[Value], default: Value| {
        let value = json.get(key).unwrap_or(&default);
        if accepted.contains(value) {
            return Ok(());
        }
        let accepted: Vec<_> = accepted.iter().map(Value::to_string).collect();
        Err(format!("{key} is {value}, and hlx runs models where it is {}", accepted.join(" or ")))
    };
    expect("model_type", &[json!("gpt2")], Value::Null)?;
    expect("architectures", &[json!(["GPT2LMHeadModel"]), json!(["GPT2Model"])], json!(["GPT2LMHeadModel"]))?;
    let tanh_gelu = [json!("gelu_new"), json!("gelu_pytorch_tanh")];
    expect("activation_function", &tanh_gelu, json!("gelu_new"))?;
    expect("scale_attn_weights", &[json!(true)], json!(true))?;
    expect("scale_attn_by_inverse_layer_idx", &[json!(false)], json!(false))?;
    expect("add_cross_attention", &[json!(false)], json!(false))?;

    let size = |key: &str, default: usize| match json.get(key) {
        None => Ok(default),
        Some(value) => match value.as_u64() {
            Some(size) => usize::try_from(size).map_err(|_| format!("{key} is {size}, which is too large")),
            None => Err(format!("{key} is {value}, not a size")),
        },
    };
    let number = |key: &str, default: f64| match json.get(key) {
        None => Ok(default),
        Some(value) => value.as_f64().ok_or_else(|| format!("{key} is {value}, not a number")),
    };
    let d_model = size("n_embd", 768)?;
    let d_ff = if json.get("n_inner").is_none_or(Value::is_null) {
        d_model.saturating_mul(4)
    } else {
        size("n_inner", 0)?
    };
    Ok(ModelConfig {
        vocab_size: size("vocab_size", 50257)?,
        context: size("n_positions", 1024)?,
        d_model,
        n_layer: size("n_layer", 12)?,
        n_head: size("n_head", 12)?,
        d_ff,
        dropout: number("resid_pdrop", 0.1)?,
        layer_norm_eps: number("layer_norm_epsilon", 1e-5)?,
    })
}

/// The text of config.json, as GPT2LMHeadModel reads it. `end_of_text` is the id of that token.
pub fn config_json(config: &ModelConfig, end_of_text: Option<u32>) -> String {
    let json = json!({
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": config.dropout,
        "bos_token_id": end_of_text,
        "dtype": "float32",
        "embd_pdrop": config.dropout,
        "eos_token_id": end_of_text,
        "initializer_range": 0.02,
        "layer_norm_epsilon": config.layer_norm_eps,
        "model_type": "gpt2",
        "n_embd": config.d_model,
        "n_head": config.n_head,
        "n_inner": config.d_ff,
        "n_layer": config.n_layer,
        "n_positions": config.context,
        "resid_pdrop": config.dropout,
        "tie_word_embeddings": true,
        "vocab_size": config.vocab_size,
    });
    to_text(&json)
}

/// The text of tokenizer_config.json.
pub fn tokenizer_config_json(has_end_of_text: bool) -> String {
    let mut json =
        json!({"clean_up_tokenization_spaces": false, "tokenizer_class": "PreTrainedTokenizerFast"});
    if has_end_of_text {
        json["bos_token"] = END_OF_TEXT.into();
        json["eos_token"] = END_OF_TEXT.into();
    }
    to_text(&json)
}

fn to_text(json: &Value) -> String {
    let mut text = serde_json::to_string_pretty(json).expect("numbers and names are JSON");
    text.push('\n');
    text
}

/// The bytes of a safetensors file with one tensor a parameter, each name behind `prefix`.
pub fn encode_parameters(config: &ModelConfig, sets: &[(&str, &[Vec<f32>])]) -> Vec<u8> {
    let specs = parameter_specs(config);
    let mut list = Vec::with_capacity(specs.len() * sets.len());
    for (prefix, tensors) in sets {
        assert_eq!(specs.len(), tensors.len(), "one tensor a parameter");
        for (spec, values) in specs.iter().zip(tensors.iter()) {
            list.push(Tensor { name: format!("{prefix}{}", spec.name), shape: &spec.shape, values });
        }
    }
    encode(&list)
}
