//! The buffers of a model's activations and of their gradients.

use crate::config::ModelConfig;
use crate::model::block::{self, BackwardScratch};
use crate::model::gpt::Purpose;
use crate::model::norm::{Norm, StreamGradient};
use crate::model::{attention, head, mlp};
use crate::ops::attention::FusedAttention;
use crate::ops::column_sum;
use crate::ops::gemm::units;
use crate::ops::narrow;
use crate::ops::softmax::AttentionShape;
use crate::ops::tensor::Tensor;
use crate::recording::{Group, Program, Residence, Traits, View};

/// What the passes read and write beside inputs and parameters. Shapes are those of
/// [`Gpt`](crate::model::gpt::Gpt).
pub struct Activations {
    /// `[N,C]`: the embedding before dropout, only with dropout.
    pub embedded: Option<View>,
    /// The residual stream before each block and after the last, `[N,C]` each.
    pub streams: Vec<View>,
    /// What each block keeps; one for all where nothing is kept.
    pub blocks: Vec<block::Saved>,
    /// The blocks' room.
    pub scratch: block::Scratch,
    /// `[N,C]`: the last LayerNorm's output.
    pub normed: Tensor,
    /// `[N,2]`: its statistics.
    pub stats: View,
    /// `[rows,V]` of as many positions as are worked on at a time.
    pub logits: View,
    /// `[N,V]`: softmax, which becomes the logits' gradient; in 16 bits rows may be longer.
    pub d_logits: Tensor,
    /// Training only.
    pub d_stream: Option<StreamGradient>,
}

/// Adds buffers of tensors to a program.
struct Builder<'a> {
    program: &'a mut Program,
    group: Group,
    /// What only products and attention read is kept in 16 bits.
    narrow: bool,
}

impl Builder<'_> {
    /// Floats in 32 bits, or other words.
    fn add(&mut self, name: &str, words: usize) -> View {
        self.program.add_buffer(name, words, self.group, Residence::Device)
    }

    /// Floats that are kept in 16 bits where the device allows.
    fn factor(&mut self, name: &str, len: usize) -> Tensor {
        self.tensor(name, len, self.narrow)
    }

    fn tensor(&mut self, name: &str, len: usize, narrow: bool) -> Tensor {
        let view = self.add(name, Tensor::words(len, narrow));
        if narrow { Tensor::narrow(view, len) } else { view.into() }
    }
}

impl Activations {
    /// Adds the buffers to a program.
    pub fn allocate(
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
        let narrow = keeps_narrow(config, fused, traits);
        let mut kept = Builder { program, group: Group::Activations, narrow };
        let streams = (0..if training { copies + 1 } else { 1 })
            .map(|l| kept.add(&format!("stream.{l}"), n * c))
            .collect();
        let lent = (training && narrow).then(|| Lent::new(&mut kept, config, n)).flatten();
        let blocks = (0..copies).map(|l| saved(&mut kept, config, shape, l, fused, lent)).collect();
        let embedded = dropout.then(|| kept.add("embedded", n * c));
        let normed = kept.factor("normed", n * c);
        let stats = kept.add("stats", 2 * n);
        let rows = if training { head::rows_at_a_time(n, config.vocab_size) } else { n };
        let logits = kept.add("logits", rows * config.vocab_size);
        let narrow_row = head::narrow_row(config.vocab_size, traits).filter(|_| narrow);
        let d_logits =
            kept.tensor("d_logits", n * narrow_row.unwrap_or(config.vocab_size), narrow_row.is_some());
        let d_stream = training.then(|| StreamGradient {
            full: kept.add("d_stream", n * c),
            narrow: narrow.then(|| kept.factor("d_stream.narrow", n * c)),
        });
        let mut room = Builder { program, group: Group::Scratch, narrow };
        let scratch = scratch(&mut room, config, shape, training, dropout, fused);
        Activations { embedded, streams, blocks, scratch, normed, stats, logits, d_logits, d_stream }
    }

    /// The residual stream before block `l`; one buffer for all where nothing is kept.
    pub fn stream(&self, l: usize) -> View {
        self.streams[l % self.streams.len()]
    }
}

/// True if what only products and attention read is kept in 16 bits, as they take it.
fn keeps_narrow(config: &ModelConfig, fused_attention: bool, traits: &Traits) -> bool {
    units::wanted(traits).is_some()
        && fused_attention
        && [config.d_model, config.d_ff, config.d_head()].into_iter().all(narrow::fits)
}

/// Elements of all blocks' LayerNorm and GELU outputs from which on they are not kept, but calculated again
/// in the backward pass: 1 GiB of them in 16 bits. Less is not worth the time.
const TOO_MANY_TO_KEEP: usize = 1 << 29;

/// Outputs that are quickly calculated again, in buffers that all blocks use one after the other.
#[derive(Clone, Copy)]
struct Lent {
    /// `[N,C]`
    normed: Tensor,
    /// `[N,F]`
    act: Tensor,
}

impl Lent {
    /// `None` where all are kept.
    fn new(kept: &mut Builder, config: &ModelConfig, n: usize) -> Option<Lent> {
        let ModelConfig { n_layer, d_model, d_ff, .. } = *config;
        let many = n_layer * n * (2 * d_model + d_ff) >= TOO_MANY_TO_KEEP;
        many.then(|| Lent {
            normed: kept.factor("h.normed", n * d_model),
            act: kept.factor("h.act", n * d_ff),
        })
    }
}

fn saved(
    kept: &mut Builder,
    config: &ModelConfig,
    shape: AttentionShape,
    layer: usize,
    fused: bool,
    lent: Option<Lent>,
) -> block::Saved {
    let n = shape.batch * shape.context;
    let c = config.d_model;
    let name = |name: &str| format!("h.{layer}.{name}");
    let normed = |kept: &mut Builder, which: &str| match lent {
        Some(lent) => lent.normed,
        None => kept.factor(&name(which), n * c),
    };
    block::Saved {
        normed_1: normed(kept, "normed_1"),
        stats_1: kept.add(&name("stats_1"), 2 * n),
        attention: attention::Saved {
            qkv: kept.factor(&name("qkv"), 3 * n * c),
            probs: match fused {
                true => kept.add(&name("lse"), shape.rows()),
                false => kept.add(&name("probs"), shape.score_words()),
            },
            heads: kept.factor(&name("heads"), n * c),
        },
        middle: kept.add(&name("middle"), n * c),
        normed_2: normed(kept, "normed_2"),
        stats_2: kept.add(&name("stats_2"), 2 * n),
        mlp: mlp::Saved {
            pre: kept.factor(&name("pre"), n * config.d_ff),
            act: match lent {
                Some(lent) => lent.act,
                None => kept.factor(&name("act"), n * config.d_ff),
            },
            again: lent.is_some(),
        },
        again: lent.is_some(),
    }
}

fn scratch(
    room: &mut Builder,
    config: &ModelConfig,
    shape: AttentionShape,
    training: bool,
    dropout: bool,
    fused: bool,
) -> block::Scratch {
    let n = shape.batch * shape.context;
    let c = config.d_model;
    let attention = attention::Scratch {
        scores: match fused {
            true => training.then(|| room.add("delta", shape.rows())),
            false => Some(room.add("scores", shape.score_words())),
        },
        dropped: (dropout && !fused)
            .then(|| ["probs.dropped", "d_probs"].map(|name| room.add(name, shape.score_words()))),
        d_heads: training.then(|| room.factor("d_heads", n * c)),
        d_qkv: training.then(|| room.factor("d_qkv", 3 * n * c)),
        partials: training
            .then(|| room.add("attention.partials", column_sum::scratch_words(3 * c, room.narrow))),
    };
    let backward = training.then(|| BackwardScratch {
        d_normed: room.factor("d_normed", n * c),
        norm_partials: room.add("norm.partials", Norm::scratch_words(c, room.narrow)),
        mlp: mlp::Scratch {
            d_wide: room.factor("d_wide", n * config.d_ff),
            partials: {
                let sums = if room.narrow { units::column_sum_words(n, config.d_ff) } else { 0 };
                room.add("mlp.partials", sums.max(column_sum::scratch_words(config.d_ff.max(c), false)))
            },
        },
    });
    block::Scratch {
        branch: if dropout { room.add("branch", n * c).into() } else { room.factor("branch", n * c) },
        dropped: dropout.then(|| room.add("dropped", n * c)),
        attention,
        backward,
    }
}
