//! `hlx generate`: text from a model, shown as it comes.

use std::path::Path;

use super::backend::{Backend, check_addressable};
use super::print;
use crate::checkpoint::{find_model_folder, read_model, read_tokenizer};
use crate::cli::GenerateArgs;
use crate::config::{ModelConfig, Precision};
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::model::parameters::ModelState;
use crate::train::inference::{Inference, InferenceProgram};
use crate::train::sample::{self, Sampler};

pub fn run(args: &GenerateArgs) -> Result<()> {
    let (model, tokenizer) = open("--checkpoint", &args.checkpoint)?;
    let prompt = match &args.prompt {
        Some(text) => Prompt::from_text(text, &tokenizer)?,
        None => Prompt::start(&tokenizer),
    };
    let chosen = Backend::open(&args.device, Precision::Exact)?;
    tracing::info!("generating on {}", chosen.backend.name());
    let mut inference = load(&chosen.backend, &model.config, &model.tensors)?;
    let sampler = Sampler {
        temperature: args.temperature,
        top_k: args.top_k.map(|k| usize::try_from(k).unwrap_or(usize::MAX)),
        top_p: args.top_p,
        seed: args.seed,
    };
    print(args.prompt.as_deref().unwrap_or_default())?;
    stream(&mut inference, &sampler, &tokenizer, prompt, args.max_tokens, &Interrupt::default())?;
    print("\n")
}

/// The tokens that a text goes on from, at least one.
pub struct Prompt(Vec<u32>);

impl Prompt {
    /// Errors name the character that the model has never seen.
    fn from_text(text: &str, tokenizer: &Tokenizer) -> Result<Prompt> {
        let tokens = tokenizer.encode(text, "--prompt")?;
        if tokens.is_empty() {
            return Err(Error::Usage("--prompt is empty: give some text, or leave it out".into()));
        }
        Ok(Prompt(tokens))
    }

    /// Where a text begins: after the end of another, or on a new line.
    pub fn start(tokenizer: &Tokenizer) -> Prompt {
        let new_line = || tokenizer.encode("\n", "the start").ok().map(|tokens| tokens[0]);
        Prompt(vec![tokenizer.end_of_text().or_else(new_line).unwrap_or(0)])
    }
}

/// Reads the model and its tokenizer from a run's or a model's folder.
pub fn open(flag: &str, path: &Path) -> Result<(ModelState, Tokenizer)> {
    let folder = find_model_folder(flag, path)?;
    let model = read_model(&folder)?;
    let Some(tokenizer) = read_tokenizer(&folder)? else {
        return Err(Error::Input(format!(
            "{flag} {} has no tokenizer.json: put the one that the model was trained with beside it",
            folder.display()
        )));
    };
    if tokenizer.vocab_size() != model.config.vocab_size {
        return Err(Error::Input(format!(
            "{flag} {}: tokenizer.json has {} tokens and the model {}, so they do not belong together: put \
             the tokenizer.json there that the model was trained with",
            folder.display(),
            tokenizer.vocab_size(),
            model.config.vocab_size
        )));
    }
    Ok((model, tokenizer))
}

/// Loads a model to predict one token after another.
pub fn load(backend: &Backend, model: &ModelConfig, params: &[Vec<f32>]) -> Result<Inference> {
    check_addressable(model)?;
    let program = InferenceProgram::new(model, 1, backend.traits(Precision::Exact));
    if let Some(why) = backend.obstacle(&program.program) {
        let name = backend.name();
        return Err(Error::Usage(format!("the model does not fit {name} ({why}): give another --device")));
    }
    Inference::new(program, params, |program| backend.load(program))
}

/// Writes text to stdout, token by token, until the user asks to stop.
pub fn stream(
    inference: &mut Inference,
    sampler: &Sampler,
    tokenizer: &Tokenizer,
    prompt: Prompt,
    max_tokens: u64,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut tokens = prompt.0;
    let end = tokenizer.end_of_text();
    sample::write(inference, sampler, &mut tokens, max_tokens, end, |token| {
        print(&tokenizer.decode(&[token]))?;
        Ok(!interrupt.requested())
    })
}
