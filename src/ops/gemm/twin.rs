//! The matrix product on the CPU: packed, blocked, vectorized across columns, on all cores.
//!
//! Every element is summed in the contract's order whatever the vector width, the tile or the
//! number of threads, because those only decide who computes an element and beside which others.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::band::Band;
use super::blocks;
use super::pack::{Scratch, pack_columns};
use super::problem::{Causal, Problem};
use super::tile::{tile_columns, tile_rows};
use crate::exact::K_BLOCK;

/// Packed B is at most about this many floats (4 MiB): it stays in cache while rows pass by.
const PACKED_B_FLOATS: usize = 1 << 20;

/// At most this many blocks of terms are packed at once.
const PACKED_BLOCKS: usize = 8;

/// Products of less work than this are not worth waking another thread.
const SERIAL_FLOPS: u64 = 200_000;

/// Products of at least this much work are shared between threads by themselves.
const SHARED_FLOPS: u64 = 4_000_000;

/// The operands' elements. C's elements that the product does not cover keep their values.
pub struct Operands<'a> {
    /// The left operand's words.
    pub a: &'a [f32],
    /// The right operand's words.
    pub b: &'a [f32],
    /// The result's words.
    pub c: &'a mut [f32],
    /// Read only if the problem uses a bias.
    pub bias: &'a [f32],
}

/// Computes the product with the widest vectors the machine has.
pub fn multiply(problem: &Problem, operands: Operands<'_>) {
    struct Multiply<'a>(&'a Problem, Operands<'a>);
    impl WithSimd for Multiply<'_> {
        type Output = ();
        fn with_simd<S: Simd>(self, simd: S) {
            multiply_with(simd, self.0, self.1);
        }
    }
    match pulp::Arch::new() {
        // Arrays of four floats, which every compiler target turns into its own vectors.
        pulp::Arch::Scalar => multiply_with(pulp::Scalar128b, problem, operands),
        arch => arch.dispatch(Multiply(problem, operands)),
    }
}

/// Computes the product with the given vectors.
pub fn multiply_with<S: Simd>(simd: S, problem: &Problem, operands: Operands<'_>) {
    let Operands { a, b, c, bias } = operands;
    problem.check(a.len(), b.len(), c.len(), bias.len());
    if problem.causal == Causal::Blocks {
        return blocks::multiply(problem, a, b, c);
    }
    let (a, b, c) = (&a[problem.a.first..], &b[problem.b.first..], &mut c[problem.c.first..]);
    let problem = &problem.from_first_elements();
    let product = Product { simd, problem, a, b, bias };
    let one_flops = problem.flops() / problem.batches as u64;
    let pieces = split_batches(problem, c);
    if problem.flops() < SERIAL_FLOPS {
        pieces.into_iter().for_each(|piece| product.serial(piece));
    } else if pieces.len() >= rayon::current_num_threads() || one_flops < SHARED_FLOPS && pieces.len() > 1 {
        pieces.into_par_iter().for_each(|piece| product.serial(piece));
    } else {
        pieces.into_iter().for_each(|piece| product.shared(piece));
    }
}

/// Some batches and the part of C that holds them and no others.
struct Piece<'a> {
    batches: Range<usize>,
    /// Where `c` starts in C.
    start: usize,
    c: &'a mut [f32],
}

/// Cuts C between batches, as far as they lie one after the other.
fn split_batches<'a>(problem: &Problem, c: &'a mut [f32]) -> Vec<Piece<'a>> {
    let one = (problem.m - 1) * problem.c.ld + problem.n;
    let inner = problem.batch_inner;
    let outer = problem.batches / inner;
    let outer_len = (inner - 1) * problem.c.inner + one;
    let apart = |step: usize, len: usize, count: usize| count > 1 && step >= len;

    let mut pieces = vec![Piece { batches: 0..problem.batches, start: 0, c }];
    if apart(problem.c.outer, outer_len, outer) {
        pieces = pieces.into_iter().flat_map(|p| split_piece(p, inner, problem.c.outer)).collect();
    }
    if apart(problem.c.inner, one, inner) && (outer == 1 || pieces.len() > 1) {
        pieces = pieces.into_iter().flat_map(|p| split_piece(p, 1, problem.c.inner)).collect();
    }
    pieces
}

/// Cuts a piece into pieces of `batches` batches that start `step` elements apart.
fn split_piece(piece: Piece<'_>, batches: usize, step: usize) -> impl Iterator<Item = Piece<'_>> {
    let Piece { batches: all, start, c } = piece;
    let count = all.len() / batches;
    c.chunks_mut(step).take(count).enumerate().map(move |(i, c)| {
        let first = all.start + i * batches;
        Piece { batches: first..first + batches, start: start + i * step, c }
    })
}

/// A product's operands without the result.
pub struct Product<'a, S> {
    pub simd: S,
    pub problem: &'a Problem,
    pub a: &'a [f32],
    pub b: &'a [f32],
    pub bias: &'a [f32],
}

/// A part of B that is packed at once, and so multiplied at once.
pub struct Chunk {
    pub terms: Range<usize>,
    pub columns: Range<usize>,
}

/// The parts of B in the order in which they are multiplied: terms ascending for every column.
fn chunks<S: Simd>(problem: &Problem) -> impl Iterator<Item = Chunk> {
    let width = tile_columns::<S>();
    let terms_step = K_BLOCK * PACKED_BLOCKS;
    let columns_step = (PACKED_B_FLOATS / terms_step.min(problem.k)).max(width) / width * width;
    let (k, n) = (problem.k, problem.n);
    (0..n).step_by(columns_step).flat_map(move |j| {
        let columns = j..(j + columns_step).min(n);
        (0..k)
            .step_by(terms_step)
            .map(move |p| Chunk { terms: p..(p + terms_step).min(k), columns: columns.clone() })
    })
}

impl<S: Simd> Product<'_, S> {
    /// Computes a piece's batches one after the other on this thread.
    fn serial(&self, piece: Piece<'_>) {
        for z in piece.batches.clone() {
            let c = &mut piece.c[self.problem.start(self.problem.c, z) - piece.start..];
            for chunk in chunks::<S>(self.problem) {
                let len = packed_len::<S>(&chunk);
                let mut scratch = Scratch::for_b(len);
                let packed = scratch.floats(len);
                for (i, panel) in packed.chunks_exact_mut(panel_len::<S>(&chunk)).enumerate() {
                    self.pack(z, &chunk, i, panel);
                }
                let rows = 0..self.problem.m;
                self.simd.vectorize(Band { product: self, z, chunk: &chunk, packed, rows, c });
            }
        }
    }

    /// Computes a piece's batches one after the other, each on all threads.
    fn shared(&self, piece: Piece<'_>) {
        let (m, ld) = (self.problem.m, self.problem.c.ld);
        let tile_rows = tile_rows::<S>();
        let band_rows =
            m.div_ceil(4 * rayon::current_num_threads()).clamp(1, 128).next_multiple_of(tile_rows);
        for z in piece.batches.clone() {
            let c = &mut piece.c[self.problem.start(self.problem.c, z) - piece.start..];
            for chunk in chunks::<S>(self.problem) {
                let len = packed_len::<S>(&chunk);
                let mut scratch = Scratch::for_b(len);
                let packed = scratch.floats(len);
                let panels = packed.par_chunks_exact_mut(panel_len::<S>(&chunk));
                panels.enumerate().for_each(|(i, panel)| self.pack(z, &chunk, i, panel));
                let packed = &*packed;
                let bands = c.par_chunks_mut(band_rows * ld).take(m.div_ceil(band_rows));
                bands.enumerate().for_each(|(i, c)| {
                    let rows = i * band_rows..((i + 1) * band_rows).min(m);
                    self.simd.vectorize(Band { product: self, z, chunk: &chunk, packed, rows, c });
                });
            }
        }
    }

    /// Packs panel `i` of a chunk: one tile's width of columns.
    fn pack(&self, z: usize, chunk: &Chunk, i: usize, panel: &mut [f32]) {
        let layout = self.problem.b;
        let b = &self.b[self.problem.start(layout, z)..];
        let width = tile_columns::<S>();
        let first = chunk.columns.start + i * width;
        let columns = first..(first + width).min(chunk.columns.end);
        pack_columns(b, layout.ld, layout.trans, chunk.terms.clone(), columns, width, panel);
    }
}

/// Floats of one packed panel of a chunk.
pub fn panel_len<S: Simd>(chunk: &Chunk) -> usize {
    chunk.terms.len() * tile_columns::<S>()
}

/// Floats of a packed chunk.
fn packed_len<S: Simd>(chunk: &Chunk) -> usize {
    panel_len::<S>(chunk) * chunk.columns.len().div_ceil(tile_columns::<S>())
}
