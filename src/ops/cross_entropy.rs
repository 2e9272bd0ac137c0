//! Cross-entropy of logits against target tokens, and its gradient.

use rayon::prelude::*;

use super::grid::{flat_groups, row_layout, rows_per_task, vectorized};
use super::rows::{row_max, row_sum};
use super::tensor::Tensor;
use super::{Recorder, narrow, word};
use crate::exact::{exp, log, recip, snap};
use crate::kernels::{cross_entropy, cross_entropy_backward, cross_entropy_fast, cross_entropy_short};
use crate::recording::{Traits, View};

/// A target that counts for nothing: its row has loss 0 and gradient 0.
pub const IGNORE: u32 = u32::MAX;

/// `losses[n]` and `softmax[n,:]` of logits `[N,V]` against targets `[N]`.
pub fn forward(r: &mut Recorder, logits: View, targets: View, losses: View, softmax: View) {
    let rows = targets.words;
    let vocab_size = logits.words / rows;
    assert_eq!(logits.words, rows * vocab_size, "logits are [N,V]");
    assert_eq!(losses.words, rows, "losses are [N]");
    assert_eq!(softmax.words, logits.words, "softmax is [N,V]");
    let layout = row_layout(rows, vocab_size, &r.traits);
    r.add(cross_entropy::dispatch(
        cross_entropy::Push { rows: word(rows), vocab_size: word(vocab_size) },
        cross_entropy::Specialization { local_size_x: layout.row_width, local_size_y: layout.rows_per_group },
        cross_entropy::Bindings { logits, targets, losses, softmax },
        layout.groups,
    ));
}

/// Vocabularies from here on are many enough for a workgroup a row.
const LARGE_VOCABULARY: usize = 1024;

/// Invocations that keep a row in registers, so that it is read once, and the most fours that one keeps.
const KEEPERS: usize = 512;
const MOST_KEPT: usize = 25;

/// True if [`fused`] serves a vocabulary in a recording of these traits.
pub fn is_fused(vocab_size: usize, traits: &Traits) -> bool {
    traits.wants_fast_kernels() && vocab_size >= LARGE_VOCABULARY && vocab_size.is_multiple_of(4)
}

/// What [`forward`] and [`backward`] give, in one go: `losses[n]` and `gradient[n,:]` of logits `[N,V]`
/// against targets `[N]`; `scale` is 1 / positions in the whole batch. Only where [`is_fused`] says so.
pub fn fused(r: &mut Recorder, logits: View, targets: View, losses: View, gradient: Tensor, scale: f32) {
    let rows = targets.words;
    let vocab_size = logits.words / rows;
    assert!(is_fused(vocab_size, &r.traits), "a vocabulary of {vocab_size} is not for the fused kernel");
    assert_eq!(losses.words, rows, "losses are [N]");
    assert_eq!(gradient.len, logits.words, "the gradient is [N,V]");
    let f16 = if gradient.narrow { narrow::f16(&r.traits) } else { 0 };
    let [local_size_x, kept] = match (vocab_size / 4).div_ceil(KEEPERS) {
        kept if kept <= MOST_KEPT => [KEEPERS, kept],
        _ => [256, 0],
    }
    .map(word);
    r.add(cross_entropy_fast::dispatch(
        cross_entropy_fast::Push { rows: word(rows), vocab_size: word(vocab_size), scale },
        cross_entropy_fast::Specialization { narrow: gradient.narrow.into(), local_size_x, kept, f16 },
        cross_entropy_fast::Bindings { logits, targets, losses, gradient: gradient.view },
        flat_groups(rows, 1),
    ));
}

/// As [`fused`], for vocabularies that it does not serve, with the gradient `[N,row]` in 16 bits.
pub fn short(r: &mut Recorder, logits: View, targets: View, losses: View, gradient: Tensor, scale: f32) {
    let rows = targets.words;
    let vocab_size = logits.words / rows;
    assert!(gradient.narrow && gradient.len == rows * short_row(vocab_size), "the gradient is [N,row]");
    assert_eq!(losses.words, rows, "losses are [N]");
    let pairs = short_row(vocab_size) / 2;
    let push = cross_entropy_short::Push {
        rows: word(rows),
        vocab_size: word(vocab_size),
        pairs: word(pairs),
        scale,
    };
    r.add(cross_entropy_short::dispatch(
        push,
        cross_entropy_short::Specialization { f16: narrow::f16(&r.traits), ..Default::default() },
        cross_entropy_short::Bindings { logits, targets, losses, gradient: gradient.view },
        narrow::row_groups(rows),
    ));
}

/// Elements of a row of the gradient that [`short`] gives: those of the vocabulary, and zeros.
pub const fn short_row(vocab_size: usize) -> usize {
    vocab_size.next_multiple_of(8)
}

/// Turns softmax `[N,V]` into the gradient of the loss, in place; `scale` is 1 / positions in the whole
/// batch.
pub fn backward(r: &mut Recorder, targets: View, softmax_to_gradient: View, scale: f32) {
    let rows = targets.words;
    let vocab_size = softmax_to_gradient.words / rows;
    r.add(cross_entropy_backward::dispatch(
        cross_entropy_backward::Push { rows: word(rows), vocab_size: word(vocab_size), scale },
        Default::default(),
        cross_entropy_backward::Bindings { targets, gradient: softmax_to_gradient },
        flat_groups(softmax_to_gradient.words, 256),
    ));
}

/// Twin of shaders/cross_entropy.comp.
pub fn cross_entropy(a: cross_entropy::Args) {
    let width = a.push.vocab_size as usize;
    let rows = rows_per_task(width);
    let outputs = a.softmax.par_chunks_mut(rows * width).zip(a.losses.par_chunks_mut(rows));
    let inputs = a.logits.par_chunks(rows * width).zip(a.targets.par_chunks(rows));
    outputs.zip(inputs).for_each(|((softmax, losses), (logits, targets))| {
        vectorized!(|softmax: &mut [f32],
                     losses: &mut [f32],
                     logits: &[f32],
                     targets: &[u32],
                     width: usize| {
            let outputs = softmax.chunks_exact_mut(width).zip(losses);
            let inputs = logits.chunks_exact(width).zip(targets);
            for ((softmax, loss), (logits, &target)) in outputs.zip(inputs) {
                let largest = row_max(logits, |x| x);
                for (e, x) in softmax.iter_mut().zip(logits) {
                    *e = snap(exp(x - largest));
                }
                let sum = row_sum([softmax], |[e]| e);
                let inv_sum = recip(sum);
                for p in softmax.iter_mut() {
                    *p = snap(*p * inv_sum);
                }
                *loss =
                    if target == IGNORE { 0.0 } else { snap(log(sum) + (largest - logits[target as usize])) };
            }
        })
    });
}

/// Twin of shaders/cross_entropy_backward.comp.
pub fn cross_entropy_backward(a: cross_entropy_backward::Args) {
    let width = a.push.vocab_size as usize;
    let rows = rows_per_task(width);
    let scale = a.push.scale;
    a.gradient.par_chunks_mut(rows * width).zip(a.targets.par_chunks(rows)).for_each(
        |(gradients, targets)| {
            vectorized!(|gradients: &mut [f32], targets: &[u32], width: usize, scale: f32| {
                for (gradient, &target) in gradients.chunks_exact_mut(width).zip(targets) {
                    if target == IGNORE {
                        gradient.fill(0.0);
                        continue;
                    }
                    for (v, g) in gradient.iter_mut().enumerate() {
                        let hit = if v == target as usize { 1.0 } else { 0.0 };
                        *g = snap(snap(*g - hit) * scale);
                    }
                }
            })
        },
    );
}
