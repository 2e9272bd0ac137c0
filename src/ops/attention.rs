//! Fused causal attention, outside the exact contract: no tensor of size T x T exists.
//!
//! The forward pass keeps each row's log-sum-exp, and the backward pass calculates probabilities from it
//! again. Three kernels: forward and the queries' gradient by block of queries, the gradients of keys and
//! values by block of keys; every element is written by one workgroup, so no atomics, and the same bits on
//! every run.

use super::Recorder;
use super::dropout::Dropout;
use super::gemm::units::GRADIENT_SCALE;
use super::pack::packed_words;
use super::softmax::AttentionShape;
use crate::exact::{dropout_scale, dropout_threshold};
use crate::kernels::{Kernel, attention_forward};
use crate::precision::Precision;
use crate::recording::{Dispatch, Factor, MatrixUnits, Traits, View};

/// Workgroups that Vulkan lets every device have in a direction.
const MAX_GROUPS: usize = 65_535;

/// Channels of the widest head that the kernels on matrix units keep in matrices.
const MAX_MATRIX_CHANNELS: usize = 128;

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

/// How a kernel goes about its work. Not all kernels have all choices.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Plan {
    /// How it cuts a head's scores.
    blocks: Blocks,
    /// Whether it fetches a block while it works on the one before.
    prefetch: bool,
    /// Tiles of rows that a subgroup owns, and tiles of a block's columns that it works on at once.
    own: usize,
    at_once: usize,
    /// Heads that are worked on at a time; 0: all.
    heads: usize,
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

/// A part of the work, each a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The heads' outputs.
    Forward,
    /// The gradient of queries.
    BackwardQueries,
    /// The gradients of keys and values.
    BackwardKeys,
}

/// In the order of their dispatches.
pub const PARTS: [Part; 3] = [Part::Forward, Part::BackwardQueries, Part::BackwardKeys];

/// Positions in a block of scores: queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Rows of scores.
    pub queries: usize,
    /// Columns of scores.
    pub keys: usize,
}

/// Which kernels do the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernels {
    /// In f32, with plain multiply-adds.
    F32,
    /// On matrix units, with factors rounded to 16 bits.
    Matrix(MatrixUnits),
}

impl Kernels {
    /// What the precision asks for and the device offers.
    fn of(traits: &Traits, d_head: usize) -> Kernels {
        let units = traits.matrix_units.filter(|_| traits.precision == Precision::Mixed);
        match units {
            Some(units) if d_head.is_multiple_of(units.side as usize) && d_head <= MAX_MATRIX_CHANNELS => {
                Kernels::Matrix(units)
            }
            _ => Kernels::F32,
        }
    }

    fn kernel(self, part: Part) -> Kernel {
        let of_each_part = match self {
            Kernels::F32 => {
                [Kernel::AttentionForward, Kernel::AttentionBackwardQueries, Kernel::AttentionBackwardKeys]
            }
            Kernels::Matrix(units) => match (units.factor, units.in_registers) {
                (Factor::Bf16, false) => [
                    Kernel::AttentionForwardBf16,
                    Kernel::AttentionBackwardQueriesBf16,
                    Kernel::AttentionBackwardKeysBf16,
                ],
                (Factor::Bf16, true) => [
                    Kernel::AttentionForwardBf16Registers,
                    Kernel::AttentionBackwardQueriesBf16Registers,
                    Kernel::AttentionBackwardKeysBf16Registers,
                ],
                (Factor::F16, false) => [
                    Kernel::AttentionForwardF16,
                    Kernel::AttentionBackwardQueriesF16,
                    Kernel::AttentionBackwardKeysF16,
                ],
                (Factor::F16, true) => [
                    Kernel::AttentionForwardF16Registers,
                    Kernel::AttentionBackwardQueriesF16Registers,
                    Kernel::AttentionBackwardKeysF16Registers,
                ],
            },
        };
        of_each_part[part as usize]
    }

    /// Plans of a part, the best first as measured on an H200 for heads of 64 channels, of short contexts
    /// also of 32.
    fn plans(self, part: Part, context: usize) -> Vec<Plan> {
        let in_registers = matches!(self, Kernels::Matrix(units) if units.in_registers);
        let plan = |&(owned, other, own, at_once): &(usize, usize, usize, usize)| {
            let blocks = part.blocks(owned, other);
            // Sums that pass through memory leave room to fetch ahead; else more workgroups are worth more.
            let prefetch = self != Kernels::F32 && !in_registers;
            Plan { blocks, prefetch, own, at_once, heads: if in_registers { 64 } else { 32 } }
        };
        let sizes: &[_] = match (self, part) {
            (Kernels::F32, _) => &[(64, 32, 1, 1), (32, 32, 1, 1), (32, 16, 1, 1), (16, 16, 1, 1)],
            (Kernels::Matrix(units), _) if !in_registers || units.side != 16 => {
                &[(64, 32, 1, 1), (32, 32, 1, 1), (32, 32, 2, 2), (16, 16, 1, 1)]
            }
            (Kernels::Matrix(_), Part::Forward) if context <= 256 => {
                &[(64, 32, 1, 2), (32, 32, 1, 2), (16, 16, 1, 1)]
            }
            (Kernels::Matrix(_), Part::BackwardQueries) if context <= 256 => {
                &[(64, 32, 1, 1), (32, 32, 1, 2), (16, 16, 1, 1)]
            }
            (Kernels::Matrix(_), Part::BackwardKeys) if context <= 128 => {
                &[(64, 64, 1, 1), (64, 32, 1, 1), (32, 32, 1, 1), (16, 16, 1, 1)]
            }
            (Kernels::Matrix(_), Part::Forward) => {
                &[(128, 64, 1, 2), (64, 32, 1, 2), (128, 64, 2, 2), (32, 32, 1, 2), (16, 16, 1, 1)]
            }
            (Kernels::Matrix(_), Part::BackwardQueries) => {
                &[(128, 64, 1, 2), (64, 32, 1, 2), (128, 64, 2, 1), (32, 32, 1, 2), (16, 16, 1, 1)]
            }
            (Kernels::Matrix(_), Part::BackwardKeys) => {
                &[(64, 32, 1, 1), (64, 32, 1, 2), (64, 64, 1, 1), (32, 32, 1, 1), (16, 16, 1, 1)]
            }
        };
        sizes.iter().map(plan).collect()
    }

    /// The plans of a part, and the same gone about otherwise: to be timed.
    fn variants(self, part: Part, context: usize) -> Vec<Plan> {
        let plans = self.plans(part, context);
        let otherwise = |plan: &Plan| match self {
            Kernels::F32 => Plan { heads: 0, ..*plan },
            Kernels::Matrix(_) => Plan { prefetch: !plan.prefetch, ..*plan },
        };
        let others: Vec<Plan> = plans.iter().map(otherwise).collect();
        [plans, others].concat()
    }

    /// D, rounded up to what a kernel's invocations share among them; the channels past D are zeros.
    fn channels(self, part: Part, blocks: Blocks, d_head: usize) -> usize {
        match self {
            Kernels::F32 => d_head.next_multiple_of(part.owned_and_other(blocks).1),
            Kernels::Matrix(_) => d_head,
        }
    }

    fn invocations(self, part: Part, plan: Plan) -> usize {
        let blocks = plan.blocks;
        /// With fewer subgroups than there are units, subgroups work on several.
        const MOST: usize = 512;
        match self {
            Kernels::F32 => blocks.queries / 4 * (blocks.keys / 4),
            Kernels::Matrix(units) => {
                let parts = part.owned_and_other(blocks).0 / (plan.own * units.side as usize);
                let subgroup = units.subgroup_size as usize;
                parts.min((MOST / subgroup).max(1)) * subgroup
            }
        }
    }

    /// Shared memory of a workgroup, as the shaders declare it.
    fn shared_bytes(self, part: Part, plan: Plan, d_head: usize) -> usize {
        let blocks = plan.blocks;
        let (owned, other) = part.owned_and_other(blocks);
        let channels = self.channels(part, blocks, d_head);
        match self {
            Kernels::F32 => {
                let rows = 16 * (channels / 4 + 1);
                let scores = 16 * owned * (other / 4 + 1);
                match part {
                    Part::Forward => rows * (owned + 2 * other) + scores + owned * other,
                    Part::BackwardQueries => 2 * rows * (owned + other) + scores + 4 * owned,
                    Part::BackwardKeys => 2 * rows * (owned + other) + 2 * scores,
                }
            }
            Kernels::Matrix(units) => {
                let side = units.side as usize;
                let (side_rows, units_of_rows) = (side * plan.own, owned / (side * plan.own));
                let staged = (units_of_rows * side).max(2 * other) * 16 * (channels / 8 + 1);
                let packed = if units.in_registers { 0 } else { 16 * (side / 8 + 1) };
                let scratch = side * (16 * (side / 4 + 1) + packed) + 4 * side_rows;
                staged + (units_of_rows + 1) * scratch + 4 * side + 8 * other
            }
        }
    }
}

impl Part {
    /// Positions that a workgroup owns, and positions that it goes over.
    fn owned_and_other(self, blocks: Blocks) -> (usize, usize) {
        match self {
            Part::Forward | Part::BackwardQueries => (blocks.queries, blocks.keys),
            Part::BackwardKeys => (blocks.keys, blocks.queries),
        }
    }

    /// The inverse of `Part::owned_and_other`.
    pub fn blocks(self, owned: usize, other: usize) -> Blocks {
        match self {
            Part::Forward | Part::BackwardQueries => Blocks { queries: owned, keys: other },
            Part::BackwardKeys => Blocks { queries: other, keys: owned },
        }
    }
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
        let invocations = self.kernels.invocations(part, plan) as u32;
        let specialization = attention_forward::Specialization {
            local_size_x: invocations,
            queries: blocks.queries as u32,
            keys: blocks.keys as u32,
            channels: self.kernels.channels(part, blocks, d_head) as u32,
            wide: d_head.is_multiple_of(4).into(),
            dropout: self.dropout.is_some().into(),
            side: match self.kernels {
                Kernels::F32 => 16,
                Kernels::Matrix(units) => units.side,
            },
            invocations,
            prefetch: plan.prefetch.into(),
            at_once: plan.at_once as u32,
            heads: plan.heads as u32,
            packed: self.packed.into(),
            own: plan.own as u32,
        };
        let owned = part.owned_and_other(blocks).0;
        Dispatch {
            kernel: self.kernels.kernel(part),
            specialization: specialization.to_words(),
            push: self.push().to_bytes(),
            views,
            groups: [(batch * n_head) as u32, context.div_ceil(owned) as u32, 1],
        }
    }

    fn push(&self) -> attention_forward::Push {
        let AttentionShape { batch, context, n_head, d_head } = self.shape;
        let none = Dropout { seed: 0, purpose: 0, probability: 0.0 };
        let Dropout { seed, purpose, probability } = self.dropout.unwrap_or(none);
        let f16 = matches!(self.kernels, Kernels::Matrix(MatrixUnits { factor: Factor::F16, .. }));
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

    #[test]
    fn all_kernels_take_the_same_constants_and_those_of_a_part_the_same_views() {
        let forward = Kernel::AttentionForward;
        let units = |factor, in_registers| {
            let workgroup_scope = false;
            Kernels::Matrix(MatrixUnits {
                factor,
                side: 16,
                subgroup_size: 32,
                in_registers,
                workgroup_scope,
            })
        };
        let matrix = [Factor::Bf16, Factor::F16].map(|factor| [false, true].map(|r| units(factor, r)));
        for part in PARTS {
            let plain = Kernels::F32.kernel(part);
            for kernels in matrix.into_iter().flatten() {
                let kernel = kernels.kernel(part);
                assert_eq!(kernel.push_members(), forward.push_members(), "{}", kernel.name());
                let names = |k: Kernel| k.specialization().iter().map(|c| c.name).collect::<Vec<_>>();
                assert_eq!(names(kernel), names(forward), "{}", kernel.name());
                assert_eq!(kernel.bindings(), plain.bindings(), "{}", kernel.name());
            }
        }
    }

    #[test]
    fn a_head_of_any_width_has_kernels_or_none() {
        for shared_memory_bytes in [16, 32, 48].map(|kib| kib << 10) {
            for d_head in 1..=256 {
                let shape = AttentionShape { batch: 2, context: 100, n_head: 3, d_head };
                let units = MatrixUnits {
                    factor: Factor::F16,
                    side: 16,
                    subgroup_size: 32,
                    in_registers: false,
                    workgroup_scope: false,
                };
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
