//! Copies operands into the order in which a tile reads them, in memory that is used again.

use std::cell::Cell;
use std::ops::Range;
use std::thread::LocalKey;

/// A cache line of floats, so that no vector straddles two.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    static PACKED_A: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    static PACKED_B: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Scratch memory lent from one of the thread's two slots, given back when dropped.
///
/// The memory is out of its slot meanwhile: should the thread start another product while it waits
/// for this one's parts, that one gets memory of its own.
pub struct Scratch {
    slot: &'static LocalKey<Cell<Vec<Line>>>,
    lines: Vec<Line>,
}

impl Scratch {
    pub fn for_a(len: usize) -> Scratch {
        Scratch::take(&PACKED_A, len)
    }

    pub fn for_b(len: usize) -> Scratch {
        Scratch::take(&PACKED_B, len)
    }

    fn take(slot: &'static LocalKey<Cell<Vec<Line>>>, len: usize) -> Scratch {
        let mut lines = slot.take();
        let needed = len.div_ceil(16);
        if lines.len() < needed {
            lines.resize(needed, Line([0.0; 16]));
        }
        Scratch { slot, lines }
    }

    /// The first `len` floats, at most as many as were asked for; their content is unspecified.
    pub fn floats(&mut self, len: usize) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.slot.set(std::mem::take(&mut self.lines));
    }
}

/// Packs columns `columns` of the terms `terms` of B into `packed[term][width]`, zeros to the right.
///
/// `b` is stored `[k, n]`, or `[n, k]` if `trans`, with leading dimension `ld`.
#[inline(always)]
pub fn pack_columns(
    b: &[f32],
    ld: usize,
    trans: bool,
    terms: Range<usize>,
    columns: Range<usize>,
    width: usize,
    packed: &mut [f32],
) {
    debug_assert!(packed.len() == terms.len() * width && columns.len() <= width);
    if trans {
        transpose(b, ld, columns, terms, width, packed);
        return;
    }
    for (p, row) in terms.zip(packed.chunks_exact_mut(width)) {
        let stored = &b[p * ld..][columns.clone()];
        let (filled, padding) = row.split_at_mut(stored.len());
        filled.copy_from_slice(stored);
        padding.fill(0.0);
    }
}

/// Packs stored rows `rows` (terms in their columns) into `packed[term][width]`.
#[inline(always)]
fn transpose(
    stored: &[f32],
    ld: usize,
    rows: Range<usize>,
    terms: Range<usize>,
    width: usize,
    packed: &mut [f32],
) {
    match width {
        32 => transpose_to::<32>(stored, ld, rows, terms, packed),
        16 => transpose_to::<16>(stored, ld, rows, terms, packed),
        8 => transpose_to::<8>(stored, ld, rows, terms, packed),
        _ => transpose_to::<2>(stored, ld, rows, terms, packed),
    }
}

#[inline(always)]
fn transpose_to<const WIDTH: usize>(
    stored: &[f32],
    ld: usize,
    rows: Range<usize>,
    terms: Range<usize>,
    packed: &mut [f32],
) {
    // Terms that are packed together: what they fill stays in the first cache meanwhile.
    const STEP: usize = 64;
    if rows.len() < WIDTH {
        packed.fill(0.0);
    }
    let (packed, _) = packed.as_chunks_mut::<WIDTH>();
    for (first, packed) in terms.clone().step_by(STEP).zip(packed.chunks_mut(STEP)) {
        for (i, row) in rows.clone().enumerate() {
            let stored = &stored[row * ld + first..][..packed.len()];
            for (target, value) in packed.iter_mut().zip(stored) {
                target[i] = *value;
            }
        }
    }
}
