//! A model that only predicts: losses of given windows, logits of given tokens.

use crate::config::ModelConfig;
use crate::error::Result;
use crate::exact::snap;
use crate::model::gpt::{Gpt, Inputs, Purpose};
use crate::recording::{
    Executor, Group, Program, RecordingId, Residence, Ticket, Traits, VIEW_ALIGNMENT_WORDS, View,
};
use crate::train::session::MicroBatch;

/// The forward pass of one batch shape as a program.
pub struct InferenceProgram {
    /// Buffers and recordings.
    pub program: Program,
    /// The model in it.
    pub model: Gpt,
    inputs: Inputs,
    /// `[N]`
    losses: View,
    forward: RecordingId,
    evaluation: RecordingId,
}

impl InferenceProgram {
    /// `batch_size` windows at once.
    pub fn new(config: &ModelConfig, batch_size: usize, traits: Traits) -> InferenceProgram {
        let mut program = Program::default();
        let p = &mut program;
        let model = Gpt::allocate(p, config, batch_size, Purpose::Inference, 0, traits);
        let inputs = Inputs::allocate(p, "inference", model.positions());
        let losses = p.add_buffer("losses", model.positions(), Group::Results, Residence::Readback);
        let mut r = model.recorder(traits);
        model.record_hidden(&mut r, &inputs, Purpose::Inference);
        model.record_logits(&mut r);
        let forward = r.finish(&mut program, "forward");
        let mut r = model.recorder(traits);
        model.record_hidden(&mut r, &inputs, Purpose::Inference);
        model.record_losses(&mut r, &inputs, losses, None);
        let evaluation = r.finish(&mut program, "evaluation");
        InferenceProgram { program, model, inputs, losses, forward, evaluation }
    }
}

/// A loaded model that predicts.
pub struct Inference {
    program: InferenceProgram,
    executor: Box<dyn Executor>,
}

impl Inference {
    /// `load` makes the executor; `params` are in canonical order, and snapped as training does: another
    /// program's may be too small for the exact contract.
    pub fn new(
        program: InferenceProgram,
        params: &[Vec<f32>],
        load: impl FnOnce(Program) -> Result<Box<dyn Executor>>,
    ) -> Result<Inference> {
        let mut executor = load(program.program.clone())?;
        let params: Vec<Vec<f32>> = params.iter().map(|t| t.iter().map(|&x| snap(x)).collect()).collect();
        executor.write(program.model.params, &program.model.arena.pack(&params))?;
        Ok(Inference { program, executor })
    }

    /// Tokens that the model sees at most.
    pub fn context(&self) -> usize {
        self.program.model.config.context
    }

    /// Losses `[B*T]`; targets equal to [`IGNORE`](crate::data::IGNORE) give 0.
    pub fn losses(&mut self, batch: &MicroBatch) -> Result<Vec<f32>> {
        let ticket = self.submit(self.program.evaluation, batch)?;
        let words = self.executor.fetch(ticket, self.program.losses.buffer)?;
        Ok(bytemuck::cast_slice(&words).to_vec())
    }

    /// Logits `[T,V]` of the first window of the batch last given to [`Inference::losses`].
    pub fn first_logits(&mut self) -> Result<Vec<f32>> {
        let config = &self.program.model.config;
        let words =
            self.executor.read(self.program.model.logits().part(0, config.context * config.vocab_size))?;
        Ok(bytemuck::cast_slice(&words).to_vec())
    }

    /// Logits `[V]` of the token that follows `tokens`, of which the last T count.
    pub fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let seen = &tokens[tokens.len().saturating_sub(self.context())..];
        assert!(!seen.is_empty(), "a prediction follows at least one token");
        let positions = self.program.model.positions();
        // What stands behind the last token is never looked at: attention is causal.
        let mut batch = MicroBatch { tokens: vec![0; positions], targets: vec![0; positions] };
        batch.tokens[..seen.len()].copy_from_slice(seen);
        self.submit(self.program.forward, &batch)?;
        let vocab_size = self.program.model.config.vocab_size;
        let start = (seen.len() - 1) * vocab_size;
        let before = start % VIEW_ALIGNMENT_WORDS;
        let row = self.program.model.logits().part(start - before, before + vocab_size);
        let words = self.executor.read(row)?;
        Ok(bytemuck::cast_slice(&words[before..]).to_vec())
    }

    fn submit(&mut self, recording: RecordingId, batch: &MicroBatch) -> Result<Ticket> {
        let inputs = &self.program.inputs;
        let uploads = [
            (inputs.tokens.buffer, &batch.tokens[..]),
            (inputs.targets.buffer, &batch.targets[..]),
            (inputs.step_number.buffer, &[0, 0][..]),
        ];
        self.executor.submit(recording, &uploads)
    }
}
