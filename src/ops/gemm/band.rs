//! One thread's share of a matrix product: some rows of C times a packed part of B.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::pack::{Scratch, pack_columns};
use super::tile::{Columns, Step, VECTORS, add_to_totals, block_sums, tile_columns, tile_rows};
use super::twin::{Chunk, Product, panel_len};
use crate::exact::K_BLOCK;

/// Some rows of one batch, to be multiplied with one packed chunk of B.
pub struct Band<'a, S> {
    pub product: &'a Product<'a, S>,
    /// The batch.
    pub z: usize,
    pub chunk: &'a Chunk,
    /// The chunk's panels, one after the other.
    pub packed: &'a [f32],
    pub rows: Range<usize>,
    /// C from the band's first row on.
    pub c: &'a mut [f32],
}

/// How the band's rows of A are read.
#[derive(Clone, Copy)]
enum Rows<'a> {
    /// From the batch's stored A, row-major: a row's terms lie side by side.
    Stored(&'a [f32]),
    /// From panels `[term][tile_rows]` of the current block, one after the other.
    Packed(&'a [f32]),
}

/// One block of terms of one panel of B.
struct Block<'a, S: Simd> {
    /// The terms of the packed `b`: at most [`K_BLOCK`], from a multiple of it on.
    terms: Range<usize>,
    b: &'a [Columns<S>],
    /// The panel's first column of C.
    column: usize,
    bias: Option<Columns<S>>,
}

impl<S: Simd> WithSimd for Band<'_, S> {
    type Output = ();

    #[inline(always)]
    fn with_simd<T: Simd>(mut self, _: T) {
        let problem = self.product.problem;
        let a = &self.product.a[problem.start(problem.a, self.z)..];
        let all = self.chunk.terms.clone();
        for first in all.clone().step_by(K_BLOCK) {
            let terms = first..(first + K_BLOCK).min(all.end);
            if !problem.a.trans {
                self.multiply_block(terms, Rows::Stored(a));
                continue;
            }
            let len = terms.len() * self.rows.len().next_multiple_of(tile_rows::<S>());
            let mut scratch = Scratch::for_a(len);
            let packed = scratch.floats(len);
            self.pack_rows(a, terms.clone(), packed);
            self.multiply_block(terms, Rows::Packed(packed));
        }
    }
}

impl<S: Simd> Band<'_, S> {
    /// Packs the band's rows of A, which is stored transposed.
    #[inline(always)]
    fn pack_rows(&self, a: &[f32], terms: Range<usize>, packed: &mut [f32]) {
        let height = tile_rows::<S>();
        let ld = self.product.problem.a.ld;
        for (i, panel) in packed.chunks_exact_mut(terms.len() * height).enumerate() {
            let first = self.rows.start + i * height;
            let rows = first..(first + height).min(self.rows.end);
            pack_columns(a, ld, false, terms.clone(), rows, height, panel);
        }
    }

    /// Adds one block of terms to all of the band's elements.
    #[inline(always)]
    fn multiply_block(&mut self, terms: Range<usize>, a: Rows<'_>) {
        let width = tile_columns::<S>();
        let skipped = (terms.start - self.chunk.terms.start) * width;
        for (i, panel) in self.packed.chunks_exact(panel_len::<S>(self.chunk)).enumerate() {
            let column = self.chunk.columns.start + i * width;
            let (vectors, _) = S::as_simd_f32s(&panel[skipped..][..terms.len() * width]);
            let (b, _) = vectors.as_chunks::<VECTORS>();
            let bias = self.bias(column);
            self.multiply_panel(&Block { terms: terms.clone(), b, column, bias }, a);
        }
    }

    /// The bias of the columns from `first` on, zeros to the right; nothing if there is none.
    #[inline(always)]
    fn bias(&self, first: usize) -> Option<Columns<S>> {
        let Product { simd, problem, bias, .. } = self.product;
        problem.use_bias.then(|| {
            let bias = &bias[first..problem.n.min(first + tile_columns::<S>())];
            let (left, right) = bias.split_at(bias.len().min(S::F32_LANES));
            [simd.partial_load_f32s(left), simd.partial_load_f32s(right)]
        })
    }

    /// Walks down the band in tiles of the full height, then of what is left.
    #[inline(always)]
    fn multiply_panel(&mut self, block: &Block<'_, S>, a: Rows<'_>) {
        let mut row = self.rows.start;
        while row < self.rows.end {
            row += match self.rows.end - row {
                8.. if tile_rows::<S>() == 8 => self.multiply_tile::<8>(block, a, row),
                4.. => self.multiply_tile::<4>(block, a, row),
                2.. => self.multiply_tile::<2>(block, a, row),
                _ => self.multiply_tile::<1>(block, a, row),
            };
        }
    }

    /// Adds one block of terms to `R` rows of one panel's columns; returns `R`.
    #[inline(always)]
    fn multiply_tile<const R: usize>(&mut self, block: &Block<'_, S>, a: Rows<'_>, row: usize) -> usize {
        let Product { simd, problem, .. } = *self.product;
        let needed = problem.terms(row..row + R);
        let terms = needed.start.max(block.terms.start)..needed.end.min(block.terms.end);
        if terms.is_empty() || problem.unwanted(row..row + R, block.column) {
            return R;
        }
        let b = &block.b[terms.start - block.terms.start..terms.end - block.terms.start];
        let sums = match a {
            Rows::Stored(a) => {
                let rows: [&[f32]; R] =
                    std::array::from_fn(|i| &a[(row + i) * problem.a.ld + terms.start..][..b.len()]);
                block_sums(simd, b, |p| std::array::from_fn(|i| rows[i][p]))
            }
            Rows::Packed(panels) => {
                let height = tile_rows::<S>();
                let place = row - self.rows.start;
                let panel = &panels[place / height * height * block.terms.len()..];
                let panel = &panel[(terms.start - block.terms.start) * height..][..b.len() * height];
                if R == height {
                    let panel = &panel.as_chunks::<R>().0[..b.len()];
                    block_sums(simd, b, |p| panel[p])
                } else {
                    block_sums(simd, b, |p| std::array::from_fn(|i| panel[p * height + place % height + i]))
                }
            }
        };
        let step = Step {
            first: terms.start == needed.start,
            last: (terms.end == needed.end).then_some(block.bias),
        };
        let width = tile_columns::<S>().min(problem.n - block.column);
        let c = &mut self.c[(row - self.rows.start) * problem.c.ld + block.column..];
        add_to_totals(simd, step, sums, c, problem.c.ld, width);
        R
    }
}
