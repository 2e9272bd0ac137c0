//! The whole model: buffers for a batch shape, and the recordings of its forward and backward pass.

use crate::config::ModelConfig;
use crate::model::arena::Arena;
use crate::model::attention;
use crate::model::block::{self, BackwardScratch, Block, masked};
use crate::model::mlp;
use crate::model::norm::Norm;
use crate::ops::attention::FusedAttention;
use crate::ops::column_sum::COLUMN_LANES;
use crate::ops::dropout::Dropout;
use crate::ops::gemm::{Gemm, Matrix, Pass};
use crate::ops::softmax::AttentionShape;
use crate::ops::{Recorder, cross_entropy, embedding};
use crate::recording::{BufferId, Group, Program, Residence, Traits, View};

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
    /// `[N,V]`
    pub logits: View,
    /// Partial sums of products that are cut into blocks; as long as the recordings need.
    products: BufferId,
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

struct Activations {
    /// `[N,C]`: the embedding before dropout, only with dropout.
    embedded: Option<View>,
    /// The residual stream before each block and after the last, `[N,C]` each.
    streams: Vec<View>,
    blocks: Vec<block::Saved>,
    scratch: block::Scratch,
    /// `[N,C]` and `[N,2]`
    normed: View,
    stats: View,
    /// `[N,V]`: softmax, which becomes the logits' gradient.
    d_logits: View,
    /// `[N,C]`, training only: the residual stream's gradient.
    d_stream: Option<View>,
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
        let activations = Activations::allocate(program, config, shape, purpose, probability > 0.0, &traits);
        let logits = device(program, "logits", batch * config.context * config.vocab_size);
        let products = program.add_buffer("products", 1, Group::Scratch, Residence::Device).buffer;
        Gpt {
            config: config.clone(),
            batch,
            ln_f: Norm::new(&arena, "transformer.ln_f", config.d_model, config.layer_norm_eps),
            training: layers(probability),
            inference: layers(0.0),
            arena,
            params,
            logits,
            products,
            activations,
        }
    }

    /// A recorder for passes of this model.
    pub fn recorder(&self, traits: Traits) -> Recorder {
        Recorder::new(traits, Some(self.products))
    }

    /// Positions of a batch, N.
    pub fn positions(&self) -> usize {
        self.batch * self.config.context
    }

    /// Logits of every position. Dropout acts only for `Purpose::Training`.
    pub fn record_forward(&self, r: &mut Recorder, inputs: &Inputs, purpose: Purpose) {
        let a = &self.activations;
        let layers = if purpose == Purpose::Training { &self.training } else { &self.inference };
        let wte = self.arena.view(self.params, "transformer.wte.weight");
        let wpe = self.arena.view(self.params, "transformer.wpe.weight");
        let (context, c) = (self.config.context, self.config.d_model);
        let embedded = match layers.embedding_dropout {
            Some(_) => a.embedded.expect("a model with dropout keeps the embedding apart"),
            None => a.streams[0],
        };
        embedding::forward(r, context, c, inputs.tokens, wte, wpe, embedded);
        masked(r, &layers.embedding_dropout, inputs.step_number, embedded, Some(a.streams[0]));
        for (l, block) in layers.blocks.iter().enumerate() {
            let saved = &a.blocks[l % a.blocks.len()];
            let (input, output) = (a.stream(l), a.stream(l + 1));
            block.forward(r, self.params, inputs.step_number, input, saved, &a.scratch, output);
        }
        self.ln_f.op(self.params, a.stats).forward(r, a.stream(layers.blocks.len()), a.normed);
        let output = Gemm::new(
            Pass::Forward,
            [self.positions(), c, self.config.vocab_size],
            Matrix::new(a.normed, c),
            Matrix::new(wte, c).transposed(),
            Matrix::new(self.logits, self.config.vocab_size),
        );
        r.multiply(&output);
    }

    /// Losses `[N]` of every position, after [`Gpt::record_forward`].
    pub fn record_loss(&self, r: &mut Recorder, inputs: &Inputs, losses: View) {
        cross_entropy::forward(r, self.logits, inputs.targets, losses, self.activations.d_logits);
    }

    /// Losses `[N]`, and the logits' gradient. `scale` is 1 / positions in the whole batch, micro-batches
    /// together.
    pub fn record_loss_and_gradient(&self, r: &mut Recorder, inputs: &Inputs, losses: View, scale: f32) {
        let d_logits = self.activations.d_logits;
        if cross_entropy::is_fused(self.config.vocab_size, &r.traits) {
            cross_entropy::fused(r, self.logits, inputs.targets, losses, d_logits, scale);
        } else {
            self.record_loss(r, inputs, losses);
            cross_entropy::backward(r, inputs.targets, d_logits, scale);
        }
    }

    /// Every parameter's gradient into the arena `grads`, after [`Gpt::record_loss_and_gradient`].
    pub fn record_backward(&self, r: &mut Recorder, inputs: &Inputs, sorted: &SortedPositions, grads: View) {
        let a = &self.activations;
        let training = "a training model has the backward pass's buffers";
        let d_stream = a.d_stream.expect(training);
        let back = a.scratch.backward.as_ref().expect(training);
        self.record_output_backward(r, grads, back.d_normed);
        self.ln_f.op(self.params, a.stats).backward(
            r,
            a.stream(self.training.blocks.len()),
            back.d_normed,
            d_stream,
            false,
            self.ln_f.gamma(grads),
            self.ln_f.beta(grads),
            back.norm_partials,
        );
        for (l, block) in self.training.blocks.iter().enumerate().rev() {
            let (input, saved) = (a.stream(l), &a.blocks[l]);
            block.backward(r, self.params, grads, inputs.step_number, input, saved, &a.scratch, d_stream);
        }
        let d_embedded =
            masked(r, &self.training.embedding_dropout, inputs.step_number, d_stream, a.scratch.dropped);
        embedding::backward(
            r,
            self.config.context,
            self.config.d_model,
            d_embedded,
            sorted.order,
            sorted.starts,
            self.arena.view(grads, "transformer.wte.weight"),
            self.arena.view(grads, "transformer.wpe.weight"),
        );
    }

    /// The tied output projection: d_normed `[N,C]`, and its part of the token embedding's gradient.
    fn record_output_backward(&self, r: &mut Recorder, grads: View, d_normed: View) {
        let a = &self.activations;
        let (c, v) = (self.config.d_model, self.config.vocab_size);
        let wte = self.arena.view(self.params, "transformer.wte.weight");
        let d_wte = self.arena.view(grads, "transformer.wte.weight");
        let d_logits = Matrix::new(a.d_logits, v).gradient();
        let normed = Matrix::new(a.normed, c);
        let of_input = Gemm::new(
            Pass::Backward,
            [self.positions(), v, c],
            d_logits,
            Matrix::new(wte, c),
            Matrix::new(d_normed, c),
        );
        let of_weight = Gemm::new(
            Pass::Backward,
            [v, self.positions(), c],
            d_logits.transposed(),
            normed,
            Matrix::new(d_wte, c),
        );
        r.multiply(&of_input);
        r.multiply(&of_weight);
    }
}

impl Activations {
    fn allocate(
        program: &mut Program,
        config: &ModelConfig,
        shape: AttentionShape,
        purpose: Purpose,
        dropout: bool,
        traits: &Traits,
    ) -> Activations {
        let training = purpose == Purpose::Training;
        let fused = FusedAttention::new(shape, None, traits).is_some();
        let n = shape.batch * shape.context;
        let (c, copies) = (config.d_model, if training { config.n_layer } else { 1 });
        let streams = (0..if training { copies + 1 } else { 1 })
            .map(|l| device(program, &format!("stream.{l}"), n * c))
            .collect();
        let blocks = (0..copies).map(|l| saved(program, config, shape, l, fused)).collect();
        Activations {
            embedded: dropout.then(|| device(program, "embedded", n * c)),
            streams,
            blocks,
            scratch: scratch(program, config, shape, training, dropout, fused),
            normed: device(program, "normed", n * c),
            stats: device(program, "stats", 2 * n),
            d_logits: device(program, "d_logits", n * config.vocab_size),
            d_stream: training.then(|| device(program, "d_stream", n * c)),
        }
    }

    /// The residual stream before block `l`; one buffer for all where nothing is kept.
    fn stream(&self, l: usize) -> View {
        self.streams[l % self.streams.len()]
    }
}

/// A buffer for values that a pass produces and, in training, keeps.
fn device(program: &mut Program, name: &str, words: usize) -> View {
    program.add_buffer(name, words, Group::Activations, Residence::Device)
}

fn saved(
    program: &mut Program,
    config: &ModelConfig,
    shape: AttentionShape,
    layer: usize,
    fused: bool,
) -> block::Saved {
    let n = shape.batch * shape.context;
    let c = config.d_model;
    let mut add = |name: &str, words| device(program, &format!("h.{layer}.{name}"), words);
    block::Saved {
        normed_1: add("normed_1", n * c),
        stats_1: add("stats_1", 2 * n),
        attention: attention::Saved {
            qkv: add("qkv", 3 * n * c),
            probs: match fused {
                true => add("lse", shape.rows()),
                false => add("probs", shape.score_words()),
            },
            heads: add("heads", n * c),
        },
        middle: add("middle", n * c),
        normed_2: add("normed_2", n * c),
        stats_2: add("stats_2", 2 * n),
        mlp: mlp::Saved { pre: add("pre", n * config.d_ff), act: add("act", n * config.d_ff) },
    }
}

fn scratch(
    program: &mut Program,
    config: &ModelConfig,
    shape: AttentionShape,
    training: bool,
    dropout: bool,
    fused: bool,
) -> block::Scratch {
    let n = shape.batch * shape.context;
    let c = config.d_model;
    let mut add = |name: &str, words| program.add_buffer(name, words, Group::Scratch, Residence::Device);
    let attention = attention::Scratch {
        scores: match fused {
            true => training.then(|| add("delta", shape.rows())),
            false => Some(add("scores", shape.score_words())),
        },
        dropped: (dropout && !fused)
            .then(|| ["probs.dropped", "d_probs"].map(|name| add(name, shape.score_words()))),
        d_heads: training.then(|| add("d_heads", n * c)),
        d_qkv: training.then(|| add("d_qkv", 3 * n * c)),
        partials: training.then(|| add("attention.partials", COLUMN_LANES * 3 * c)),
    };
    let backward = training.then(|| BackwardScratch {
        d_normed: add("d_normed", n * c),
        norm_partials: add("norm.partials", 2 * COLUMN_LANES * c),
        mlp: mlp::Scratch {
            d_wide: add("d_wide", n * config.d_ff),
            partials: add("mlp.partials", COLUMN_LANES * config.d_ff.max(c)),
        },
    });
    block::Scratch {
        branch: add("branch", n * c),
        dropped: dropout.then(|| add("dropped", n * c)),
        attention,
        backward,
    }
}
