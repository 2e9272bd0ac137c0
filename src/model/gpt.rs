//! The whole model: buffers for a batch shape, and the recordings of its forward and backward pass.

use crate::config::ModelConfig;
use crate::model::activations::Activations;
use crate::model::arena::Arena;
use crate::model::block::{Block, masked};
use crate::model::head::Head;
use crate::model::norm::{Norm, OntoStream, Stream};
use crate::ops::dropout::Dropout;
use crate::ops::gemm::{Tuning, units};
use crate::ops::pack::packed_words;
use crate::ops::softmax::AttentionShape;
use crate::ops::{Recorder, embedding};
use crate::recording::{BufferId, Group, MatrixUnits, Program, Residence, Traits, View};

/// What a model is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Forward only: the blocks share one set of activations.
    Inference,
    /// Forward and backward: every block keeps its own.
    Training,
}

/// A model of one batch shape, its buffers allocated in a [`Program`].
///
/// Shapes: B sequences, T = context, N = B*T, C = d_model, V = vocab_size.
pub struct Gpt {
    /// The model's shape.
    pub config: ModelConfig,
    /// B.
    pub batch: usize,
    /// Where each parameter lies in `params`.
    pub arena: Arena,
    /// `[arena.words]`
    pub params: View,
    /// Its matrices in 16 bits, where products take such factors.
    packed: Option<(View, MatrixUnits)>,
    /// Partial sums of products that are cut into blocks; as long as the recordings need.
    products: BufferId,
    /// How products are computed where not by the estimates.
    pub tuning: Tuning,
    ln_f: Norm,
    training: Layers,
    inference: Layers,
    activations: Activations,
}

/// The parts that dropout changes, with or without it.
struct Layers {
    embedding_dropout: Option<Dropout>,
    blocks: Vec<Block>,
}

/// The token inputs of one recording, written by the host at each submit.
#[derive(Clone, Copy)]
pub struct Inputs {
    /// `[N]`
    pub tokens: View,
    /// `[N]`
    pub targets: View,
    /// `[2]`: number of the micro-batch since the start of training, low word first.
    pub step_number: View,
}

impl Inputs {
    /// Adds the buffers `<prefix>.tokens`, ... for N = `positions`.
    pub fn allocate(program: &mut Program, prefix: &str, positions: usize) -> Inputs {
        let mut add = |name: &str, words| {
            program.add_buffer(&format!("{prefix}.{name}"), words, Group::Inputs, Residence::Upload)
        };
        Inputs {
            tokens: add("tokens", positions),
            targets: add("targets", positions),
            step_number: add("step_number", 2),
        }
    }
}

/// What the embedding's gradient needs beside [`Inputs`]: see [`embedding::backward`].
#[derive(Clone, Copy)]
pub struct SortedPositions {
    /// `[N]`
    pub order: View,
    /// `[V+1]`
    pub starts: View,
}

impl SortedPositions {
    /// Adds the buffers `<prefix>.order` and `<prefix>.starts`.
    pub fn allocate(
        program: &mut Program,
        prefix: &str,
        positions: usize,
        vocab_size: usize,
    ) -> SortedPositions {
        let mut add = |name: &str, words| {
            program.add_buffer(&format!("{prefix}.{name}"), words, Group::Inputs, Residence::Upload)
        };
        SortedPositions { order: add("order", positions), starts: add("starts", vocab_size + 1) }
    }
}

impl Gpt {
    /// Adds the model's buffers to `program`. `batch` is B; dropout acts only in training. The passes must
    /// be recorded for the same `traits`.
    pub fn allocate(
        program: &mut Program,
        config: &ModelConfig,
        batch: usize,
        purpose: Purpose,
        seed: u64,
        traits: Traits,
    ) -> Gpt {
        let arena = Arena::new(config);
        let shape =
            AttentionShape { batch, context: config.context, n_head: config.n_head, d_head: config.d_head() };
        let probability = if purpose == Purpose::Training { config.dropout } else { 0.0 };
        let layers = |probability: f64| {
            let dropout = |purpose| (probability > 0.0).then_some(Dropout { seed, purpose, probability });
            let eps = config.layer_norm_eps;
            let block = |l| Block::new(&arena, l, shape, config.d_ff, eps, dropout, &traits);
            Layers { embedding_dropout: dropout(0), blocks: (0..config.n_layer).map(block).collect() }
        };
        let params = program.add_buffer("parameters", arena.words, Group::Parameters, Residence::Device);
        let packed = units::wanted(&traits).map(|units| {
            let words = packed_words(arena.decay_words);
            (program.add_buffer("parameters.packed", words, Group::Parameters, Residence::Device), units)
        });
        let activations = Activations::allocate(program, config, shape, purpose, probability > 0.0, &traits);
        let products = program.add_buffer("products", 1, Group::Scratch, Residence::Device).buffer;
        Gpt {
            config: config.clone(),
            batch,
            ln_f: Norm::new(&arena, "transformer.ln_f", config.d_model, config.layer_norm_eps),
            training: layers(probability),
            inference: layers(0.0),
            arena,
            params,
            packed,
            products,
            tuning: Tuning::default(),
            activations,
        }
    }

    /// Logits `[rows,V]`: of all positions, but where training works on fewer at a time.
    pub fn logits(&self) -> View {
        self.activations.logits
    }

    /// A recorder for passes of this model.
    pub fn recorder(&self, traits: Traits) -> Recorder {
        Recorder::new(traits, Some(self.products)).tuned(self.tuning.clone())
    }

    /// Positions of a batch, N.
    pub fn positions(&self) -> usize {
        self.batch * self.config.context
    }

    /// The output projection.
    fn head(&self) -> Head<'_> {
        let wte = self.arena.view(self.params, "transformer.wte.weight");
        let ModelConfig { d_model, vocab_size, .. } = self.config;
        Head { d_model, vocab_size, wte, activations: &self.activations }
    }

    /// Everything before the output projection. Dropout acts only for `Purpose::Training`.
    pub fn record_hidden(&self, r: &mut Recorder, inputs: &Inputs, purpose: Purpose) {
        let a = &self.activations;
        let layers = if purpose == Purpose::Training { &self.training } else { &self.inference };
        let wte = self.arena.view(self.params, "transformer.wte.weight");
        let wpe = self.arena.view(self.params, "transformer.wpe.weight");
        let (context, c) = (self.config.context, self.config.d_model);
        if let Some((packed, units)) = self.packed {
            r.pack_arena(self.params.part(0, self.arena.decay_words), packed, units);
        }
        let embedded = match layers.embedding_dropout {
            Some(_) => a.embedded.expect("a model with dropout keeps the embedding apart"),
            None => a.streams[0],
        };
        embedding::forward(r, context, c, inputs.tokens, wte, wpe, embedded);
        masked(r, &layers.embedding_dropout, inputs.step_number, embedded, Some(a.streams[0]));
        let mut stream = Stream::of(a.streams[0]);
        for (l, block) in layers.blocks.iter().enumerate() {
            let saved = &a.blocks[l % a.blocks.len()];
            let branch = block.forward(r, self.params, inputs.step_number, &stream, saved, &a.scratch);
            stream = Stream { before: saved.middle, branch: Some(branch), sum: a.stream(l + 1) };
        }
        self.ln_f.forward(r, self.params, a.stats, &stream, a.normed);
    }

    /// Logits `[N,V]` of every position, after [`Gpt::record_hidden`]. Only where they are kept whole.
    pub fn record_logits(&self, r: &mut Recorder) {
        self.head().record_logits(r);
    }

    /// Losses `[N]` of every position, after [`Gpt::record_hidden`]; with `scale`, which is 1 / positions in
    /// the whole batch, micro-batches together, what [`Gpt::record_backward`] begins with too.
    pub fn record_losses(&self, r: &mut Recorder, inputs: &Inputs, losses: View, scale: Option<f32>) {
        self.head().record_losses(r, inputs, losses, scale);
    }

    /// Every parameter's gradient into the arena `grads`, after [`Gpt::record_losses`].
    pub fn record_backward(&self, r: &mut Recorder, inputs: &Inputs, sorted: &SortedPositions, grads: View) {
        let a = &self.activations;
        let training = "a training model has the backward pass's buffers";
        let d_stream = a.d_stream.as_ref().expect(training);
        let back = a.scratch.backward.as_ref().expect(training);
        let d_wte = self.arena.view(grads, "transformer.wte.weight");
        self.head().record_backward(r, d_wte, back.d_normed);
        // The block before, whose last bias has its gradient calculated beside the stream's.
        let bias_before =
            |l: usize| l.checked_sub(1).and_then(|l| self.training.blocks[l].output_bias(grads, d_stream));
        let n_layer = self.training.blocks.len();
        self.ln_f.backward(
            r,
            self.params,
            grads,
            a.stats,
            a.stream(n_layer),
            back.d_normed,
            OntoStream { d_stream, add: false, bias: bias_before(n_layer) },
            back.norm_partials,
        );
        for (l, block) in self.training.blocks.iter().enumerate().rev() {
            let (input, saved, bias) = (a.stream(l), &a.blocks[l], bias_before(l));
            let step_number = inputs.step_number;
            block.backward(r, self.params, grads, step_number, input, saved, &a.scratch, d_stream, bias);
        }
        let d_embedded =
            masked(r, &self.training.embedding_dropout, inputs.step_number, d_stream.full, a.scratch.dropped);
        embedding::backward(
            r,
            self.config.context,
            self.config.d_model,
            d_embedded,
            sorted.order,
            sorted.starts,
            d_wte,
            self.arena.view(grads, "transformer.wpe.weight"),
        );
    }
}
