//! Token and position embedding: lookup, and the gradients of both tables.

use rayon::prelude::*;

use super::grid::{flat_groups, rows_per_task, vectorized};
use super::{Recorder, word};
use crate::exact::snap;
use crate::kernels::{embedding_backward, embedding_forward, position_backward};
use crate::recording::View;

/// `output[b,t,:] = wte[tokens[b,t],:] + wpe[t,:]`.
///
/// Shapes: tokens `[B,T]`, wte `[V,C]`, wpe `[T,C]`, output `[B,T,C]`.
pub fn forward(
    r: &mut Recorder,
    context: usize,
    d_model: usize,
    tokens: View,
    wte: View,
    wpe: View,
    output: View,
) {
    let num_positions = tokens.words;
    assert_eq!(output.words, num_positions * d_model, "embedding output is [B,T,C]");
    r.add(embedding_forward::dispatch(
        embedding_forward::Push {
            num_positions: word(num_positions),
            context: word(context),
            d_model: word(d_model),
        },
        Default::default(),
        embedding_forward::Bindings { tokens, wte, wpe, output },
        flat_groups(output.words, 256),
    ));
}

/// Gradients of both tables from d_output `[B,T,C]`. d_wpe `[T,C]` is overwritten; to d_wte `[V,C]`, which
/// holds the tied output projection's gradient, the tokens' sums are added. `order` `[B*T]` lists the
/// positions sorted by token and `starts` `[V+1]` says where each token's run begins.
pub fn backward(
    r: &mut Recorder,
    context: usize,
    d_model: usize,
    d_output: View,
    order: View,
    starts: View,
    d_wte: View,
    d_wpe: View,
) {
    let vocab_size = starts.words - 1;
    let batch = order.words / context;
    assert_eq!(d_output.words, order.words * d_model, "embedding gradient is [B,T,C]");
    r.add(embedding_backward::dispatch(
        embedding_backward::Push { vocab_size: word(vocab_size), d_model: word(d_model) },
        Default::default(),
        embedding_backward::Bindings { d_output, order, starts, d_wte },
        flat_groups(vocab_size * d_model, 64),
    ));
    r.add(position_backward::dispatch(
        position_backward::Push { batch: word(batch), context: word(context), d_model: word(d_model) },
        Default::default(),
        position_backward::Bindings { d_output, d_wpe },
        flat_groups(context * d_model, 64),
    ));
}

/// Twin of shaders/embedding_forward.comp.
pub fn embedding_forward(a: embedding_forward::Args) {
    let (context, d_model) = (a.push.context as usize, a.push.d_model as usize);
    let rows = rows_per_task(d_model);
    a.output.par_chunks_mut(rows * d_model).enumerate().for_each(|(task, chunk)| {
        for (k, out) in chunk.chunks_exact_mut(d_model).enumerate() {
            let position = task * rows + k;
            let token = &a.wte[a.tokens[position] as usize * d_model..][..d_model];
            let place = &a.wpe[position % context * d_model..][..d_model];
            for ((o, x), y) in out.iter_mut().zip(token).zip(place) {
                *o = snap(x + y);
            }
        }
    });
}

/// Twin of shaders/embedding_backward.comp.
pub fn embedding_backward(a: embedding_backward::Args) {
    let d_model = a.push.d_model as usize;
    let (order, starts, d_output) = (a.order, a.starts, a.d_output);
    a.d_wte.par_chunks_mut(d_model).enumerate().for_each_init(
        || vec![0.0f32; d_model],
        |sum, (token, d_row)| {
            let positions = &order[starts[token] as usize..starts[token + 1] as usize];
            let sum = &mut sum[..];
            vectorized!(|sum: &mut [f32],
                         d_row: &mut [f32],
                         positions: &[u32],
                         d_output: &[f32],
                         d_model: usize| {
                sum.fill(0.0);
                for &position in positions {
                    let d = &d_output[position as usize * d_model..][..d_model];
                    for (s, x) in sum.iter_mut().zip(d) {
                        *s += x;
                    }
                }
                for (d, s) in d_row.iter_mut().zip(sum.iter()) {
                    *d = snap(*d + s);
                }
            })
        },
    );
}

/// Twin of shaders/position_backward.comp.
pub fn position_backward(a: position_backward::Args) {
    let size = (a.push.context * a.push.d_model) as usize;
    let batch = a.push.batch as usize;
    let (columns, d_output) = (a.push.d_model as usize, a.d_output);
    a.d_wpe.par_chunks_mut(columns).enumerate().for_each(|(t, out)| {
        vectorized!(|out: &mut [f32],
                     t: usize,
                     batch: usize,
                     size: usize,
                     columns: usize,
                     d_output: &[f32]| {
            out.fill(0.0);
            for b in 0..batch {
                let d = &d_output[b * size + t * columns..][..columns];
                for (s, x) in out.iter_mut().zip(d) {
                    *s += x;
                }
            }
            for x in out.iter_mut() {
                *x = snap(*x);
            }
        })
    });
}
