//! `hlx eval`: how well a model predicts a text.

use std::path::Path;

use serde_json::json;

use super::backend::{self, Backend, COPIES_TO_EVALUATE};
use super::{check_output, generate, print, print_json};
use crate::checkpoint::replace_file;
use crate::cli::EvalArgs;
use crate::config::Precision;
use crate::data::{Corpus, EvaluationWindows};
use crate::error::{Error, Result};
use crate::model::parameters::ModelState;
use crate::report::format;
use crate::train::evaluate::{Evaluation, evaluate};
use crate::train::inference::{Inference, InferenceProgram};
use crate::train::session::MicroBatch;

pub fn run(args: &EvalArgs) -> Result<()> {
    args.dump_logits.as_deref().map_or(Ok(()), |path| check_output("--dump-logits", path))?;
    let (model, tokenizer) = generate::open("--checkpoint", &args.checkpoint)?;
    let corpus = Corpus::read(&args.corpus)?;
    let tokens = tokenizer.encode_corpus(&corpus)?;
    let windows = EvaluationWindows::new(tokens.len(), model.config.context, &corpus.name)?;
    let backend = Backend::open(&args.device, Precision::Exact)?.backend;
    let batch_size = args.batch_size as usize;
    let mut inference = load(&backend, &model, batch_size)?;
    let words = batch_size * model.config.context;
    if let Some(path) = &args.dump_logits {
        dump_logits(&mut inference, &tokens, &windows, words, path)?;
    }
    let losses = |batch: &_| inference.losses(batch);
    let evaluation = evaluate(&tokens, &windows, words, model.config.context, losses)?;
    if !evaluation.loss.is_finite() {
        return Err(Error::Input(format!(
            "the loss of --checkpoint {} is not a finite number, so its weights are not those of a \
             trained model: give another checkpoint",
            args.checkpoint.display()
        )));
    }
    // The end of an example is predicted too, but it is no character.
    let characters = tokens[1..].iter().filter(|&&token| Some(token) != tokenizer.end_of_text()).count();
    let Evaluation { loss, tokens: predicted } = evaluation;
    let perplexity = libm::exp(loss);
    let bits = loss * predicted as f64 / libm::log(2.0) / characters.max(1) as f64;
    if args.json {
        let json = json!({
            "loss": loss,
            "perplexity": perplexity,
            "bits_per_character": bits,
            "tokens": predicted,
        });
        return print_json(&json);
    }
    let (count, name, device) = (format::count(predicted as f64), &corpus.name, backend.name());
    print(&format!(
        "loss {loss:.4}, perplexity {perplexity:.3}, {bits:.4} bits a character, over {count} tokens of \
         {name} on {device}\n"
    ))
}

/// Loads a model to predict so many windows at once.
fn load(backend: &Backend, model: &ModelState, batch_size: usize) -> Result<Inference> {
    let traits = backend.traits(Precision::Exact);
    let program = |batch_size| InferenceProgram::new(&model.config, batch_size, traits);
    let plan = backend::plan(backend, &model.config, batch_size, "", COPIES_TO_EVALUATE, |batch_size| {
        program(batch_size).program
    })?;
    tracing::info!("{plan}");
    Inference::new(program(batch_size), &model.tensors, |program| backend.load(program))
}

/// Writes the tokens and logits of the first window that count.
fn dump_logits(
    inference: &mut Inference,
    tokens: &[u32],
    windows: &EvaluationWindows,
    words: usize,
    path: &Path,
) -> Result<()> {
    let mut batch = MicroBatch { tokens: vec![0; words], targets: vec![0; words] };
    let counted = windows.fill(tokens, 0, &mut batch.tokens, &mut batch.targets).min(inference.context());
    inference.losses(&batch)?;
    let logits = inference.first_logits()?;
    let rows: Vec<_> = logits.chunks(logits.len() / inference.context()).take(counted).collect();
    let json = json!({ "tokens": batch.tokens[..counted], "logits": rows });
    replace_file(path, json.to_string().as_bytes())
}
