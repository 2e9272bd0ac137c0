//! The parameter update: clipping by global norm, then AdamW over the flat arena.

use std::sync::atomic::{AtomicU32, Ordering};

use rayon::prelude::*;

use super::grid::{elements_per_task, flat_groups, vectorized};
use super::{Recorder, word};
use crate::exact::{recip, snap, snap_moment, sqrt};
use crate::kernels::{adam_update, clip};
use crate::recording::{VIEW_ALIGNMENT_WORDS, View};

/// What does not change from step to step.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// The first so many parameters of the arena decay (the matrices), the rest do not.
    pub decay_params: usize,
}

/// Words of the schedule buffer: step_size, inv_sqrt_correction2, decay.
pub const SCHEDULE_WORDS: usize = 3;

/// The largest sum of a gradient's squares that can be worked with: the square of a norm of 2^50, where the
/// functions' domains end.
pub const LARGEST_SUM_OF_SQUARES: f32 = f32::from_bits(0x7180_0000);

/// What `spoiled` holds after an update that went well.
pub const NONE_SPOILED: u32 = u32::MAX;

/// What changes from step to step, calculated in f64 and rounded once.
///
/// `step` counts from 1. step_size = lr/(1-beta1^step), inv_sqrt_correction2 = 1/sqrt(1-beta2^step),
/// decay = 1 - lr*weight_decay, as in torch.optim.AdamW (Loshchilov & Hutter 2019).
pub fn schedule_words(
    step: u64,
    lr: f64,
    beta1: f64,
    beta2: f64,
    weight_decay: f64,
) -> [u32; SCHEDULE_WORDS] {
    let correction1 = 1.0 - libm::pow(beta1, step as f64);
    let correction2 = 1.0 - libm::pow(beta2, step as f64);
    [lr / correction1, 1.0 / libm::sqrt(correction2), 1.0 - lr * weight_decay]
        .map(|x| snap(x as f32).to_bits())
}

/// The step's mean loss, gradient norm and sum of squares into results `[3]`, the clip factor into factor
/// `[1]`. max_norm 0 turns clipping off; inv_count is 1 / positions in the whole batch. If the loss is not
/// finite or the sum of squares above [`LARGEST_SUM_OF_SQUARES`], the factor stops the update. `spoiled`
/// `[1]` is made ready for it.
pub fn clip_factor(
    r: &mut Recorder,
    max_norm: f32,
    inv_count: f32,
    sum_of_squares: View,
    loss_sum: View,
    factor: View,
    results: View,
    spoiled: View,
) {
    r.add(clip::dispatch(
        clip::Push { max_norm, inv_count },
        Default::default(),
        clip::Bindings { sum_of_squares, loss_sum, factor, results, spoiled },
        [1, 1, 1],
    ));
}

impl AdamW {
    /// One update in place. params, grads, m, v: the whole arenas; schedule `[3]`; factor `[1]`. `spoiled`
    /// `[1]` gets the first element that stays as it is because it would not be finite, if there is one.
    pub fn update(
        &self,
        r: &mut Recorder,
        params: View,
        grads: View,
        m: View,
        v: View,
        schedule: View,
        factor: View,
        spoiled: View,
    ) {
        assert!(params.words == grads.words && m.words == v.words && params.words == m.words);
        for (at, params) in params.pieces(r.traits.max_view_words, VIEW_ALIGNMENT_WORDS) {
            let [grads, m, v] = [grads, m, v].map(|arena| arena.part(at, params.words));
            r.add(adam_update::dispatch(
                adam_update::Push {
                    num_params: word(params.words),
                    decay_params: word(self.decay_params),
                    beta1: self.beta1 as f32,
                    beta2: self.beta2 as f32,
                    one_minus_beta1: (1.0 - self.beta1) as f32,
                    one_minus_beta2: (1.0 - self.beta2) as f32,
                    eps: self.eps as f32,
                    first_param: word(at),
                },
                Default::default(),
                adam_update::Bindings { params, grads, m, v, schedule, factor, spoiled },
                flat_groups(params.words, 256),
            ));
        }
    }
}

/// Twin of shaders/clip.comp.
pub fn clip(a: clip::Args) {
    // Past their domain the functions' results are nobody's promise, not even which NaN.
    let within = a.sum_of_squares[0] <= LARGEST_SUM_OF_SQUARES;
    let norm = if within { sqrt(a.sum_of_squares[0]) } else { a.sum_of_squares[0] };
    let clip = snap(a.push.max_norm * recip(norm + 1e-6));
    let clips = a.push.max_norm > 0.0 && clip < 1.0;
    let sound = within && a.loss_sum[0].is_finite();
    a.factor[0] = if !sound {
        -1.0
    } else if clips {
        clip
    } else {
        1.0
    };
    a.results[0] = a.loss_sum[0] * a.push.inv_count;
    a.results[1] = norm;
    a.results[2] = a.sum_of_squares[0];
    a.spoiled[0] = NONE_SPOILED;
}

/// Twin of shaders/adam_update.comp.
pub fn adam_update(a: adam_update::Args) {
    let p = a.push;
    let task = elements_per_task();
    let clip = a.factor[0];
    if clip < 0.0 {
        return;
    }
    let schedule = a.schedule;
    let first_spoiled = AtomicU32::new(a.spoiled[0]);
    let moments = a.m.par_chunks_mut(task).zip(a.v.par_chunks_mut(task));
    let tensors = a.params.par_chunks_mut(task).zip(a.grads.par_chunks(task));
    tensors.zip(moments).enumerate().for_each(|(k, ((params, grads), (m, v)))| {
        let first = p.first_param + (k * task) as u32;
        let mut spoiled = NONE_SPOILED;
        let first_here = &mut spoiled;
        vectorized!(|params: &mut [f32],
                     grads: &[f32],
                     m: &mut [f32],
                     v: &mut [f32],
                     first: u32,
                     p: adam_update::Push,
                     clip: f32,
                     schedule: &[f32],
                     first_here: &mut u32| {
            let (step_size, inv_sqrt_correction2, decay) = (schedule[0], schedule[1], schedule[2]);
            // Local, and counted by an integer of its own: what the loop needs to be compiled for vectors.
            let (mut least, mut in_arena) = (NONE_SPOILED, first);
            let elements = params.iter_mut().zip(grads).zip(m.iter_mut()).zip(v.iter_mut());
            for (((param, grad), m), v) in elements {
                let g = snap(grad * clip);
                let m_new = snap_moment(p.beta1 * *m + p.one_minus_beta1 * g);
                let v_new = snap_moment(p.beta2 * *v + p.one_minus_beta2 * (g * g));
                let denominator = sqrt(v_new) * inv_sqrt_correction2 + p.eps;
                let step = snap(snap(m_new) * recip(denominator)) * step_size;
                let kept = if in_arena < p.decay_params { *param * decay } else { *param };
                let updated = snap(kept - step);
                // Selected, not branched on, so that the loop is compiled for vectors.
                let finite = m_new.is_finite() & v_new.is_finite() & updated.is_finite();
                *m = if finite { m_new } else { *m };
                *v = if finite { v_new } else { *v };
                *param = if finite { updated } else { *param };
                least = least.min(if finite { NONE_SPOILED } else { in_arena });
                in_arena = in_arena.wrapping_add(1);
            }
            *first_here = least;
        });
        first_spoiled.fetch_min(spoiled, Ordering::Relaxed);
    });
    a.spoiled[0] = first_spoiled.into_inner();
}
