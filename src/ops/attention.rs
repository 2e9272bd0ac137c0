//! Fused causal attention, outside the exact contract: no tensor of size T x T exists.
//!
//! The forward pass keeps each row's log-sum-exp, and the backward pass calculates probabilities from it
//! again. Three kernels: forward and the queries' gradient by block of queries, the gradients of keys and
//! values by block of keys; every element is written by one workgroup, so no atomics, and the same bits on
//! every run.

use super::Recorder;
use super::dropout::Dropout;
use super::softmax::AttentionShape;
use crate::exact::{dropout_scale, dropout_threshold};
use crate::kernels::{attention_backward_keys, attention_backward_queries, attention_forward};
use crate::recording::{Traits, View};

/// Rows of blocks of queries and of keys, the best first. Invocations compute 4 x 4 scores each.
const BLOCKS: [(usize, usize); 4] = [(64, 32), (32, 32), (32, 16), (16, 16)];

/// Workgroups that Vulkan lets every device have in a direction.
const MAX_GROUPS: usize = 65_535;

/// Attention of one layer, in kernels that this device can run.
#[derive(Clone, Copy, Debug)]
pub struct FusedAttention {
    shape: AttentionShape,
    dropout: Option<Dropout>,
    forward: Blocks,
    backward_queries: Blocks,
    backward_keys: Blocks,
}

/// What the forward pass reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct ForwardViews {
    /// `[B,T,3C]`
    pub qkv: View,
    /// `[2]`: the micro-batch's number, low word first.
    pub step_number: View,
    /// `[B,T,C]`, written.
    pub heads: View,
    /// `[B,H,T]`, written.
    pub lse: View,
}

/// What the backward pass reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct BackwardViews {
    /// As the forward pass left it.
    pub forward: ForwardViews,
    /// `[B,T,C]`
    pub d_heads: View,
    /// `[B,H,T]`, scratch.
    pub delta: View,
    /// `[B,T,3C]`, written.
    pub d_qkv: View,
}

/// How a kernel cuts a head's scores.
#[derive(Clone, Copy, Debug)]
struct Blocks {
    queries: usize,
    keys: usize,
    /// D, rounded up to what the invocations share among them.
    channels: usize,
}

impl Blocks {
    /// The best blocks that fit. `bytes` gives the shared memory that they take; invocations side by side in
    /// a row share D by the columns of a block, which are `columns(queries, keys)`.
    fn best(
        shape: AttentionShape,
        traits: &Traits,
        columns: fn(&(usize, usize)) -> usize,
        bytes: fn(&Blocks) -> usize,
    ) -> Option<Blocks> {
        let fits = |blocks: &Blocks| bytes(blocks) <= traits.shared_memory_bytes;
        let made = |size: &(usize, usize)| Blocks {
            queries: size.0,
            keys: size.1,
            channels: shape.d_head.next_multiple_of(columns(size)),
        };
        BLOCKS.iter().map(made).find(fits)
    }

    fn invocations(&self) -> u32 {
        (self.queries / 4 * self.keys / 4) as u32
    }

    /// Bytes of so many rows of channels, and of so many rows of scores with so many columns.
    fn bytes(&self, rows: usize, score_rows: usize, score_columns: usize) -> usize {
        16 * (rows * (self.channels / 4 + 1) + score_rows * (score_columns / 4 + 1))
    }

    fn forward_bytes(&self) -> usize {
        self.bytes(self.queries + 2 * self.keys, self.queries, self.keys) + self.queries * self.keys
    }

    fn backward_queries_bytes(&self) -> usize {
        self.bytes(2 * (self.queries + self.keys), self.queries, self.keys) + 4 * self.queries
    }

    fn backward_keys_bytes(&self) -> usize {
        self.bytes(2 * (self.queries + self.keys), 2 * self.keys, self.queries)
    }
}

impl FusedAttention {
    /// `None` if the traits ask for the exact kernels, or if a head is too wide for the device's shared
    /// memory. `dropout` acts on the probabilities.
    pub fn new(shape: AttentionShape, dropout: Option<Dropout>, traits: &Traits) -> Option<FusedAttention> {
        let fits_grid = shape.batch * shape.n_head <= MAX_GROUPS && shape.context <= MAX_GROUPS;
        if !traits.wants_fast_kernels() || !fits_grid {
            return None;
        }
        let by_keys = |size: &(usize, usize)| size.1;
        let by_queries = |size: &(usize, usize)| size.0;
        Some(FusedAttention {
            shape,
            dropout,
            forward: Blocks::best(shape, traits, by_keys, Blocks::forward_bytes)?,
            backward_queries: Blocks::best(shape, traits, by_keys, Blocks::backward_queries_bytes)?,
            backward_keys: Blocks::best(shape, traits, by_queries, Blocks::backward_keys_bytes)?,
        })
    }

    /// heads and lse from qkv.
    pub fn forward(&self, r: &mut Recorder, views: &ForwardViews) {
        self.check(views);
        let ForwardViews { qkv, step_number, heads, lse } = *views;
        let Blocks { queries, keys, channels } = self.forward;
        r.add(attention_forward::dispatch(
            self.push(),
            attention_forward::Specialization {
                local_size_x: self.forward.invocations(),
                queries: queries as u32,
                keys: keys as u32,
                channels: channels as u32,
                wide: self.wide(),
                dropout: self.dropout.is_some().into(),
            },
            attention_forward::Bindings { qkv, step_number, heads, lse },
            self.groups(queries),
        ));
    }

    /// d_qkv from d_heads.
    pub fn backward(&self, r: &mut Recorder, views: &BackwardViews) {
        let BackwardViews { forward, d_heads, delta, d_qkv } = *views;
        self.check(&forward);
        assert_eq!(d_heads.words, forward.heads.words, "the heads' gradient is [B,T,C]");
        assert_eq!(delta.words, forward.lse.words, "delta is [B,H,T]");
        assert_eq!(d_qkv.words, forward.qkv.words, "the gradient of queries, keys and values is [B,T,3C]");
        let ForwardViews { qkv, step_number, heads, lse } = forward;
        let Blocks { queries, keys, channels } = self.backward_queries;
        let push = attention_backward_queries::Push::from_bytes(&self.push().to_bytes());
        r.add(attention_backward_queries::dispatch(
            push,
            attention_backward_queries::Specialization {
                local_size_x: self.backward_queries.invocations(),
                queries: queries as u32,
                keys: keys as u32,
                channels: channels as u32,
                wide: self.wide(),
                dropout: self.dropout.is_some().into(),
            },
            attention_backward_queries::Bindings { qkv, heads, d_heads, lse, step_number, delta, d_qkv },
            self.groups(queries),
        ));
        let Blocks { queries, keys, channels } = self.backward_keys;
        let push = attention_backward_keys::Push::from_bytes(&self.push().to_bytes());
        r.add(attention_backward_keys::dispatch(
            push,
            attention_backward_keys::Specialization {
                local_size_x: self.backward_keys.invocations(),
                queries: queries as u32,
                keys: keys as u32,
                channels: channels as u32,
                wide: self.wide(),
                dropout: self.dropout.is_some().into(),
            },
            attention_backward_keys::Bindings { qkv, d_heads, lse, delta, step_number, d_qkv },
            self.groups(keys),
        ));
    }

    fn check(&self, views: &ForwardViews) {
        let AttentionShape { d_head, .. } = self.shape;
        let rows = self.shape.rows();
        assert_eq!(views.qkv.words, 3 * rows * d_head, "queries, keys and values are [B,T,3C]");
        assert_eq!(views.heads.words, rows * d_head, "the heads' outputs are [B,T,C]");
        assert_eq!(views.lse.words, rows, "log-sum-exps are [B,H,T]");
    }

    /// The push constants, the same for all three kernels.
    fn push(&self) -> attention_forward::Push {
        let AttentionShape { context, n_head, d_head, .. } = self.shape;
        let none = Dropout { seed: 0, purpose: 0, probability: 0.0 };
        let Dropout { seed, purpose, probability } = self.dropout.unwrap_or(none);
        attention_forward::Push {
            context: context as u32,
            n_head: n_head as u32,
            d_head: d_head as u32,
            scale: self.shape.scale(),
            seed_low: seed as u32,
            seed_high: (seed >> 32) as u32,
            purpose,
            threshold: dropout_threshold(probability),
            keep_scale: dropout_scale(probability),
        }
    }

    /// 1 if heads can be read by fours.
    fn wide(&self) -> u32 {
        self.shape.d_head.is_multiple_of(4).into()
    }

    /// Heads in x, blocks of so many positions in y.
    fn groups(&self, block: usize) -> [u32; 3] {
        let AttentionShape { batch, context, n_head, .. } = self.shape;
        [(batch * n_head) as u32, context.div_ceil(block) as u32, 1]
    }
}
