//! Gradient accumulation: the ordered sum over micro-batches.

use crate::exact::snap;
use crate::kernels::accumulate::Args;
use rayon::prelude::*;

/// Elements a thread takes at a time.
const CHUNK: usize = 16 * 1024;

/// Twin of `shaders/accumulate.comp`: `sum = addend` for the first micro-batch, else `sum += addend`, snapped.
pub fn accumulate(args: Args) {
    let count = args.push.count as usize;
    let (sum, addend) = (&mut args.sum[..count], &args.addend[..count]);
    let first = args.push.first != 0;
    sum.par_chunks_mut(CHUNK).zip(addend.par_chunks(CHUNK)).for_each(|(sum, addend)| {
        for (sum, &addend) in sum.iter_mut().zip(addend) {
            *sum = snap(if first { addend } else { *sum + addend });
        }
    });
}
