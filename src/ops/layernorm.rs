//! LayerNorm over the last dimension: forward, and the gradients of its input and parameters.

use rayon::prelude::*;

use super::column_sum::{self, COLUMN_LANES};
use super::grid::{flat_groups, row_layout, rows_per_task, vectorized};
use super::rows::row_sum;
use super::{Recorder, word};
use crate::exact::{rsqrt, snap};
use crate::kernels::{layernorm_backward, layernorm_backward_params, layernorm_forward};
use crate::recording::View;

/// The parameters and saved statistics of one LayerNorm. gamma, beta `[C]`; stats `[N,2]`.
#[derive(Clone, Copy)]
pub struct LayerNorm {
    /// C.
    pub d_model: usize,
    /// Added to the variance.
    pub eps: f32,
    /// The gain.
    pub gamma: View,
    /// The bias.
    pub beta: View,
    /// Mean and reciprocal standard deviation of each row.
    pub stats: View,
}

impl LayerNorm {
    /// 1/C.
    pub(super) fn inv_d_model(&self) -> f32 {
        (1.0 / self.d_model as f64) as f32
    }

    /// Words of scratch that the backward pass takes.
    pub const fn scratch_words(d_model: usize) -> usize {
        2 * COLUMN_LANES * d_model
    }

    /// output = (input - mean) * rstd * gamma + beta; writes `stats`. input, output: `[N,C]`.
    pub fn forward(&self, r: &mut Recorder, input: View, output: View) {
        let rows = input.words / self.d_model;
        assert_eq!(input.words, rows * self.d_model, "LayerNorm input is [N,C]");
        assert_eq!(output.words, input.words, "LayerNorm output is [N,C]");
        assert_eq!(self.stats.words, 2 * rows, "LayerNorm stats are [N,2]");
        let layout = row_layout(rows, self.d_model, &r.traits);
        r.add(layernorm_forward::dispatch(
            layernorm_forward::Push {
                num_positions: word(rows),
                d_model: word(self.d_model),
                eps: self.eps,
                inv_d_model: self.inv_d_model(),
            },
            layernorm_forward::Specialization {
                local_size_x: layout.row_width,
                local_size_y: layout.rows_per_group,
            },
            layernorm_forward::Bindings {
                input,
                output,
                gamma: self.gamma,
                beta: self.beta,
                stats: self.stats,
            },
            layout.groups,
        ));
    }

    /// Gradients from d_output `[N,C]`: of the input, stored in d_input `[N,C]` or added to what it
    /// holds, and of the parameters, stored in d_gamma and d_beta `[C]`. `partials` is scratch of
    /// `[2,64,C]`, [`LayerNorm::scratch_words`].
    pub fn backward(
        &self,
        r: &mut Recorder,
        input: View,
        d_output: View,
        d_input: View,
        add_residual: bool,
        d_gamma: View,
        d_beta: View,
        partials: View,
    ) {
        let rows = input.words / self.d_model;
        assert_eq!(d_output.words, input.words, "LayerNorm gradient is [N,C]");
        assert_eq!(d_input.words, input.words, "LayerNorm input gradient is [N,C]");
        let size = COLUMN_LANES * self.d_model;
        let partials = partials.part(0, 2 * size);
        r.add(layernorm_backward_params::dispatch(
            layernorm_backward_params::Push { num_positions: word(rows), d_model: word(self.d_model) },
            Default::default(),
            layernorm_backward_params::Bindings { d_output, input, stats: self.stats, partials },
            flat_groups(size, 64),
        ));
        let layout = row_layout(rows, self.d_model, &r.traits);
        r.add(layernorm_backward::dispatch(
            layernorm_backward::Push {
                num_positions: word(rows),
                d_model: word(self.d_model),
                inv_d_model: self.inv_d_model(),
                add_residual: add_residual.into(),
            },
            layernorm_backward::Specialization {
                local_size_x: layout.row_width,
                local_size_y: layout.rows_per_group,
            },
            layernorm_backward::Bindings { d_output, input, gamma: self.gamma, stats: self.stats, d_input },
            layout.groups,
        ));
        column_sum::finish(r, partials.part(0, size), d_gamma);
        column_sum::finish(r, partials.part(size, size), d_beta);
    }
}

/// Twin of shaders/layernorm_forward.comp.
pub fn layernorm_forward(a: layernorm_forward::Args) {
    let p = a.push;
    let width = p.d_model as usize;
    let rows = rows_per_task(width);
    let outputs = a.output.par_chunks_mut(rows * width);
    let stats = a.stats.par_chunks_mut(rows * 2);
    let inputs = a.input.par_chunks(rows * width);
    let (gamma, beta) = (&a.gamma[..width], &a.beta[..width]);
    outputs.zip(stats).zip(inputs).for_each(|((outputs, stats), inputs)| {
        vectorized!(|outputs: &mut [f32],
                     stats: &mut [f32],
                     inputs: &[f32],
                     gamma: &[f32],
                     beta: &[f32],
                     width: usize,
                     p: layernorm_forward::Push| {
            let rows = outputs.chunks_exact_mut(width).zip(stats.chunks_exact_mut(2));
            for ((output, stats), input) in rows.zip(inputs.chunks_exact(width)) {
                let mean = snap(row_sum([input], |[x]| x) * p.inv_d_model);
                let variance = row_sum([input], |[x]| {
                    let x = snap(x - mean);
                    x * x
                }) * p.inv_d_model;
                let rstd = rsqrt(variance + p.eps);
                for (((o, x), g), b) in output.iter_mut().zip(input).zip(gamma).zip(beta) {
                    let normalized = snap(snap(x - mean) * rstd);
                    *o = snap(normalized * g + b);
                }
                stats[0] = mean;
                stats[1] = snap(rstd);
            }
        })
    });
}

/// Twin of shaders/layernorm_backward.comp.
pub fn layernorm_backward(a: layernorm_backward::Args) {
    let p = a.push;
    let width = p.d_model as usize;
    let rows = rows_per_task(width);
    let gamma = &a.gamma[..width];
    let d_inputs = a.d_input.par_chunks_mut(rows * width);
    let d_outputs = a.d_output.par_chunks(rows * width);
    let inputs = a.input.par_chunks(rows * width);
    let stats = a.stats.par_chunks(rows * 2);
    d_inputs.zip(d_outputs).zip(inputs).zip(stats).for_each(|(((d_inputs, d_outputs), inputs), stats)| {
        vectorized!(|d_inputs: &mut [f32],
                     d_outputs: &[f32],
                     inputs: &[f32],
                     stats: &[f32],
                     gamma: &[f32],
                     width: usize,
                     p: layernorm_backward::Push| {
            let rows = d_inputs.chunks_exact_mut(width).zip(d_outputs.chunks_exact(width));
            let saved = inputs.chunks_exact(width).zip(stats.chunks_exact(2));
            for ((d_input, d_output), (input, stats)) in rows.zip(saved) {
                let (mean, rstd) = (stats[0], stats[1]);
                let mean_g = snap(row_sum([d_output, gamma], |[d, g]| snap(d * g)) * p.inv_d_model);
                let mean_gn = snap(
                    row_sum([d_output, gamma, input], |[d, g, x]| snap(d * g) * snap(snap(x - mean) * rstd))
                        * p.inv_d_model,
                );
                let elements = d_input.iter_mut().zip(d_output).zip(input).zip(gamma);
                for (((d_input, d_output), x), gamma) in elements {
                    let n = snap(snap(x - mean) * rstd);
                    let g = snap(d_output * gamma);
                    let d = snap(snap(g - mean_g) - n * mean_gn) * rstd;
                    *d_input = snap(if p.add_residual != 0 { *d_input + d } else { d });
                }
            }
        })
    });
}

/// Twin of shaders/layernorm_backward_params.comp.
pub fn layernorm_backward_params(a: layernorm_backward_params::Args) {
    let width = a.push.d_model as usize;
    let rows = a.push.num_positions as usize;
    let (stats, d_output, input) = (a.stats, a.d_output, a.input);
    let (gamma_sums, beta_sums) = a.partials.split_at_mut(COLUMN_LANES * width);
    let lanes = gamma_sums.par_chunks_mut(width).zip(beta_sums.par_chunks_mut(width));
    lanes.enumerate().for_each(|(lane, (gamma_sum, beta_sum))| {
        vectorized!(|gamma_sum: &mut [f32],
                     beta_sum: &mut [f32],
                     lane: usize,
                     rows: usize,
                     width: usize,
                     stats: &[f32],
                     d_output: &[f32],
                     input: &[f32]| {
            gamma_sum.fill(0.0);
            beta_sum.fill(0.0);
            for row in (lane..rows).step_by(COLUMN_LANES) {
                let (mean, rstd) = (stats[2 * row], stats[2 * row + 1]);
                let d_output = &d_output[row * width..][..width];
                let input = &input[row * width..][..width];
                let sums = gamma_sum.iter_mut().zip(beta_sum.iter_mut());
                for (((gamma_sum, beta_sum), d), x) in sums.zip(d_output).zip(input) {
                    *gamma_sum += d * snap(snap(x - mean) * rstd);
                    *beta_sum += d;
                }
            }
        })
    });
}
