//! Fused attention in the trial: outputs and gradients beside those of the exact kernels.

use super::Recorder;
use super::attention::{AttentionByProducts, BackwardViews, ForwardViews, FusedAttention, ProductViews};
use super::dropout::Dropout;
use super::pack::{pack_on_host, unpack_on_host};
use super::softmax::AttentionShape;
use crate::exact::fill_normal;
use crate::recording::{Factor, Group, Program, Residence, Traits, View};

/// Attention to be tried: past the edges of blocks, without and with dropout.
pub(super) fn cases() -> Vec<AttentionCase> {
    let shape = |context, d_head| AttentionShape { batch: 2, context, n_head: 3, d_head };
    let dropout = Dropout { seed: 7, purpose: 1, probability: 0.2 };
    vec![
        AttentionCase { shape: shape(200, 64), dropout: None },
        AttentionCase { shape: shape(128, 32), dropout: Some(dropout) },
    ]
}

/// One case.
#[derive(Clone, Copy)]
pub(super) struct AttentionCase {
    shape: AttentionShape,
    dropout: Option<Dropout>,
}

/// A result, and whether it is a packed tensor, perhaps of gradients.
#[derive(Clone, Copy)]
pub(super) struct Outcome {
    pub view: View,
    packing: Option<(Factor, bool)>,
}

impl Outcome {
    /// 32-bit floats.
    pub fn plain(view: View) -> Outcome {
        Outcome { view, packing: None }
    }

    /// The numbers that its words mean.
    pub fn numbers(&self, words: &[u32]) -> Vec<f32> {
        match self.packing {
            Some((factor, gradient)) => unpack_on_host(words, factor, gradient),
            None => words.iter().map(|&word| f32::from_bits(word)).collect(),
        }
    }
}

/// What a case is given: each buffer with its content.
pub(super) type Inputs = Vec<(View, Vec<u32>)>;

impl AttentionCase {
    pub fn name(&self) -> String {
        let AttentionShape { batch, context, n_head, d_head } = self.shape;
        let dropout = if self.dropout.is_some() { ", dropout" } else { "" };
        format!("attention of {batch} x {context} positions, {n_head} heads of {d_head}{dropout}")
    }

    /// True if a program of these traits would take fused kernels for it.
    pub fn is_fused(&self, traits: &Traits) -> bool {
        self.fused(traits).is_some()
    }

    fn fused(&self, traits: &Traits) -> Option<FusedAttention> {
        FusedAttention::new(self.shape, self.dropout, traits).map(FusedAttention::packed)
    }

    /// Adds the case to a program: fused if the recorder's traits say so, else as exact kernels. Gives its
    /// inputs, and its results: outputs, and the gradient of queries, keys and values.
    pub fn record(&self, program: &mut Program, r: &mut Recorder, number: usize) -> (Inputs, [Outcome; 2]) {
        let AttentionShape { batch, context, n_head, d_head } = self.shape;
        let fused = self.fused(&r.traits);
        let packing = fused.and_then(|fused| fused.packing());
        let elements = batch * context * n_head * d_head;
        let words = fused.map_or(elements, |fused| fused.words(elements));
        let mut add = |name: &str, words| {
            let name = format!("attention.{number}.{name}");
            program.add_buffer(&name, words, Group::Scratch, Residence::Device)
        };
        let (qkv, d_heads) = (add("qkv", 3 * words), add("d_heads", words));
        let (heads, d_qkv) = (add("heads", words), add("d_qkv", 3 * words));
        let step_number = add("step_number", 2);
        let mut inputs = vec![(step_number, vec![0; 2])];
        // A mean over all positions makes gradients as small.
        for (view, size) in [(qkv, 1.0), (d_heads, 1.0 / (batch * context) as f64)] {
            let mut values = vec![0.0; view.words * elements / words];
            fill_normal(&mut values, size, 2, number as u32 * 2 + u32::from(view == qkv), 0);
            // Every factor's type holds these as they are: only the kernels' own rounding is tried.
            values.iter_mut().for_each(|x| *x = f32::from_bits(x.to_bits() & 0xffff_0000));
            let plain = || values.iter().map(|x| x.to_bits()).collect();
            let words = packing.map_or_else(plain, |factor| pack_on_host(&values, factor, view == d_heads));
            inputs.push((view, words));
        }
        // Not numbers: not as floats, and not as two of 16 bits.
        inputs.extend([heads, d_qkv].map(|view| (view, vec![u32::MAX; view.words])));
        match fused {
            Some(fused) => {
                let (lse, delta) = (add("lse", self.shape.rows()), add("delta", self.shape.rows()));
                let forward = ForwardViews { qkv, step_number, heads, lse };
                fused.forward(r, &forward);
                fused.backward(r, &BackwardViews { forward, d_heads, delta, d_qkv });
            }
            None => {
                let squares = ["probs", "scores", "dropped", "d_scores"];
                let [probs, scores, dropped, d_scores] =
                    squares.map(|name| add(name, self.shape.score_words()));
                let dropped = Some([dropped, d_scores]);
                let views = ProductViews { qkv, step_number, probs, heads, scores, dropped };
                let exact = AttentionByProducts { shape: self.shape, dropout: self.dropout };
                exact.forward(r, &views);
                exact.backward(r, &views, d_heads, d_qkv);
            }
        }
        let outcome = |view, gradient| Outcome { view, packing: packing.map(|factor| (factor, gradient)) };
        (inputs, [outcome(heads, false), outcome(d_qkv, true)])
    }
}
