//! Fused causal attention, outside the exact contract: no tensor of size T x T exists.
//!
//! The forward pass keeps each row's log-sum-exp, and the backward pass calculates probabilities from it
//! again. Three kernels: forward and the queries' gradient by block of queries, the gradients of keys and
//! values by block of keys; every element is written by one workgroup, so no atomics, and the same bits on
//! every run.

use super::plans::{Blocks, Kernels, PARTS, Part, Plan};
use crate::exact::{dropout_scale, dropout_threshold};
use crate::kernels::attention_forward;
use crate::ops::Recorder;
use crate::ops::dropout::Dropout;
use crate::ops::gemm::units::GRADIENT_SCALE;
use crate::ops::grid::MAX_GROUPS;
use crate::ops::pack::packed_words;
use crate::ops::softmax::AttentionShape;
use crate::ops::word;
use crate::recording::{Dispatch, Factor, MatrixUnits, Traits, View};

/// Attention of one layer, in kernels that this device can run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FusedAttention {
    shape: AttentionShape,
    dropout: Option<Dropout>,
    kernels: Kernels,
    /// Whether qkv, heads and their gradients hold two 16-bit floats a word.
    packed: bool,
    /// How each part's kernel goes about it, in the order of [`PARTS`].
    plans: [Plan; 3],
}

/// What the forward pass reads and writes. If [`FusedAttention::packs`], qkv and heads hold two factors of
/// the device's matrix units a word.
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

/// What the backward pass reads and writes. If [`FusedAttention::packs`], d_heads and d_qkv hold two factors
/// a word, in f16 multiplied by [`GRADIENT_SCALE`].
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

impl FusedAttention {
    /// `None` if the traits ask for the exact kernels, or if products of whole matrices are faster, as they
    /// are without matrix units. `dropout` acts on the probabilities.
    pub fn new(shape: AttentionShape, dropout: Option<Dropout>, traits: &Traits) -> Option<FusedAttention> {
        FusedAttention::any(shape, dropout, traits).filter(|fused| !fused.keeps_f32())
    }

    /// The same whatever is faster; `None` also if a head is too wide for the device's shared memory.
    pub fn any(shape: AttentionShape, dropout: Option<Dropout>, traits: &Traits) -> Option<FusedAttention> {
        let fits_grid = shape.batch * shape.n_head <= MAX_GROUPS && shape.context <= MAX_GROUPS;
        if !traits.wants_fast_kernels() || !fits_grid {
            return None;
        }
        let kernels = Kernels::of(traits, shape.d_head);
        let best = |part: Part| {
            let fits =
                |plan: &Plan| kernels.shared_bytes(part, *plan, shape.d_head) <= traits.shared_memory_bytes;
            kernels.plans(part, shape.context).into_iter().find(fits)
        };
        let [Some(forward), Some(queries), Some(keys)] = PARTS.map(best) else { return None };
        let plans = [forward, queries, keys];
        Some(FusedAttention { shape, dropout, kernels, packed: false, plans })
    }

    /// The same with packed tensors, on matrix units.
    pub fn packed(self) -> FusedAttention {
        FusedAttention { packed: !self.keeps_f32(), ..self }
    }

    /// True if qkv, heads, d_heads and d_qkv are packed.
    pub fn packs(&self) -> bool {
        self.packed
    }

    /// How elements of packed tensors are rounded.
    pub fn packing(&self) -> Option<Factor> {
        match self.kernels {
            Kernels::Matrix(units) if self.packed => Some(units.factor),
            _ => None,
        }
    }

    /// Words of a tensor of so many elements.
    pub fn words(&self, elements: usize) -> usize {
        if self.packed { packed_words(elements) } else { elements }
    }

    /// The same with each choice of blocks and of how they are worked on for a part that fits the device,
    /// itself among them: to be timed.
    pub fn variants(&self, part: Part, traits: &Traits) -> Vec<FusedAttention> {
        let with = |plan: Plan| {
            let mut variant = *self;
            variant.plans[part as usize] = plan;
            variant
        };
        let fits = |plan: &Plan| {
            self.kernels.shared_bytes(part, *plan, self.shape.d_head) <= traits.shared_memory_bytes
        };
        self.kernels.variants(part, self.shape.context).into_iter().filter(fits).map(with).collect()
    }

    /// How a part's kernel goes about its work, in words.
    pub fn describe(&self, part: Part) -> String {
        let plan = self.plans[part as usize];
        let Plan { blocks: Blocks { queries, keys }, prefetch, own, at_once, heads } = plan;
        let invocations = self.kernels.invocations(part, plan);
        let ahead = if prefetch { ", ahead" } else { "" };
        format!("{queries} x {keys}, {invocations} threads of {own} x {at_once} tiles, {heads} heads{ahead}")
    }

    /// True if no factor is rounded to 16 bits.
    pub fn keeps_f32(&self) -> bool {
        self.kernels == Kernels::F32
    }

    /// heads and lse from qkv.
    pub fn forward(&self, r: &mut Recorder, views: &ForwardViews) {
        self.check(views);
        let ForwardViews { qkv, step_number, heads, lse } = *views;
        r.add(self.dispatch(Part::Forward, vec![qkv, step_number, heads, lse]));
    }

    /// d_qkv from d_heads.
    pub fn backward(&self, r: &mut Recorder, views: &BackwardViews) {
        let BackwardViews { forward, d_heads, delta, d_qkv } = *views;
        self.check(&forward);
        assert_eq!(d_heads.words, forward.heads.words, "the heads' gradient is [B,T,C]");
        assert_eq!(delta.words, forward.lse.words, "delta is [B,H,T]");
        assert_eq!(d_qkv.words, forward.qkv.words, "the gradient of queries, keys and values is [B,T,3C]");
        let ForwardViews { qkv, step_number, heads, lse } = forward;
        let views = vec![qkv, heads, d_heads, lse, step_number, delta, d_qkv];
        r.add(self.dispatch(Part::BackwardQueries, views));
        let views = vec![qkv, d_heads, lse, delta, step_number, d_qkv];
        r.add(self.dispatch(Part::BackwardKeys, views));
    }

    fn check(&self, views: &ForwardViews) {
        let AttentionShape { d_head, .. } = self.shape;
        let rows = self.shape.rows();
        let [qkv, heads] = [3 * rows * d_head, rows * d_head].map(|elements| self.words(elements));
        assert_eq!(views.qkv.words, qkv, "queries, keys and values are [B,T,3C]");
        assert_eq!(views.heads.words, heads, "the heads' outputs are [B,T,C]");
        assert_eq!(views.lse.words, rows, "log-sum-exps are [B,H,T]");
    }

    /// All kernels of a part take the same views, and all kernels the same constants.
    fn dispatch(&self, part: Part, views: Vec<View>) -> Dispatch {
        let AttentionShape { batch, context, n_head, d_head } = self.shape;
        let plan = self.plans[part as usize];
        let blocks = plan.blocks;
        let invocations = word(self.kernels.invocations(part, plan));
        let specialization = attention_forward::Specialization {
            local_size_x: invocations,
            queries: word(blocks.queries),
            keys: word(blocks.keys),
            channels: word(self.kernels.channels(part, blocks, d_head)),
            wide: d_head.is_multiple_of(4).into(),
            dropout: self.dropout.is_some().into(),
            side: match self.kernels {
                Kernels::F32 => 16,
                Kernels::Matrix(units) => units.side,
            },
            invocations,
            prefetch: plan.prefetch.into(),
            at_once: word(plan.at_once),
            heads: word(plan.heads),
            packed: self.packed.into(),
            own: word(plan.own),
        };
        let owned = part.owned_and_other(blocks).0;
        Dispatch {
            kernel: self.kernels.kernel(part),
            specialization: specialization.to_words(),
            push: self.push().to_bytes(),
            views,
            groups: [word(batch * n_head), word(context.div_ceil(owned)), 1],
        }
    }

    fn push(&self) -> attention_forward::Push {
        let AttentionShape { batch, context, n_head, d_head } = self.shape;
        let none = Dropout { seed: 0, purpose: 0, probability: 0.0 };
        let Dropout { seed, purpose, probability } = self.dropout.unwrap_or(none);
        let f16 = matches!(self.kernels, Kernels::Matrix(MatrixUnits { factor: Factor::F16, .. }));
        attention_forward::Push {
            context: word(context),
            n_head: word(n_head),
            d_head: word(d_head),
            scale: self.shape.scale(),
            seed_low: seed as u32,
            seed_high: (seed >> 32) as u32,
            purpose,
            threshold: dropout_threshold(probability),
            keep_scale: dropout_scale(probability),
            gradient_scale: if f16 { GRADIENT_SCALE } else { 1.0 },
            // A loss is the mean over all positions, so its gradients are about 1/(B*T), where f16 has few
            // digits left, and those of scores smaller by as much as probabilities are.
            score_scale: match f16 {
                true => 256.0 * (batch * context).next_power_of_two() as f32 / GRADIENT_SCALE,
                false => 1.0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precision::Precision;

    #[test]
    fn a_head_of_any_width_has_kernels_or_none() {
        for shared_memory_bytes in [16, 32, 48].map(|kib| kib << 10) {
            for d_head in 1..=256 {
                let shape = AttentionShape { batch: 2, context: 100, n_head: 3, d_head };
                let units = MatrixUnits::usual(Factor::F16);
                let traits = Traits {
                    precision: Precision::Mixed,
                    fast_shared_memory: true,
                    shared_memory_bytes,
                    matrix_units: Some(units),
                    ..Traits::PLAIN
                };
                let fused = FusedAttention::any(shape, None, &traits);
                assert!(fused.is_some() || d_head > 64 || shared_memory_bytes < 32 << 10, "{d_head}");
                assert!(FusedAttention::new(shape, None, &Traits::PLAIN).is_none());
            }
        }
    }
}
