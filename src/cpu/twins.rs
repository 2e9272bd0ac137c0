//! From a dispatch to its kernel's CPU twin: borrows the slices that the views name, then calls the twin.

use crate::error::{Error, Result};
use crate::kernels::{self, Kernel};
use crate::ops::twin;
use crate::recording::{Access, Dispatch, View};
use std::ops::Range;

include!(concat!(env!("OUT_DIR"), "/twins.rs"));

/// The words of one bound view.
#[derive(Debug)]
pub enum Slice<'a> {
    Read(&'a [u32]),
    Write(&'a mut [u32]),
}

/// The slices of one dispatch, handed out in the order of the bindings.
pub struct Slices<'a>(std::vec::IntoIter<Slice<'a>>);

impl<'a> Slices<'a> {
    /// One slice a binding, ascending by binding number.
    pub fn new(slices: Vec<Slice<'a>>) -> Self {
        Slices(slices.into_iter())
    }

    fn read_u32(&mut self) -> &'a [u32] {
        match self.0.next().expect("one slice a binding") {
            Slice::Read(words) => words,
            Slice::Write(words) => words,
        }
    }

    fn write_u32(&mut self) -> &'a mut [u32] {
        match self.0.next().expect("one slice a binding") {
            Slice::Write(words) => words,
            Slice::Read(_) => unreachable!("the binding is written, so its slice is exclusive"),
        }
    }

    fn read_f32(&mut self) -> &'a [f32] {
        bytemuck::cast_slice(self.read_u32())
    }

    fn write_f32(&mut self) -> &'a mut [f32] {
        bytemuck::cast_slice_mut(self.write_u32())
    }
}

/// Borrows the slices that a dispatch's views name out of the program's buffers, one `Vec` per
/// [`BufferId`](crate::recording::BufferId).
///
/// Views that are only read may overlap each other. A view that is written must overlap no other
/// view of the dispatch: that would be a race, and is an error, as is a view past its buffer's end.
pub fn split<'a>(buffers: &'a mut [Vec<u32>], dispatch: &Dispatch) -> Result<Slices<'a>> {
    let name = dispatch.kernel.name();
    let bindings = dispatch.kernel.bindings();
    if bindings.len() != dispatch.views.len() {
        let (bound, wanted) = (dispatch.views.len(), bindings.len());
        return Err(Error::Device(format!(
            "{name}: {bound} views are bound, the kernel has {wanted} bindings"
        )));
    }
    let accesses: Vec<Access> = bindings.iter().map(|binding| binding.access).collect();
    let slices = split_views(buffers, &dispatch.views, &accesses).map_err(|fault| {
        let message = match fault {
            Fault::OutOfBounds(i) => format!("{} reaches past its buffer's end", bindings[i].name),
            Fault::Overlap(i, j) => format!(
                "{} and {} overlap, and at least one is written: {:?}, {:?}",
                bindings[i].name, bindings[j].name, dispatch.views[i], dispatch.views[j]
            ),
        };
        Error::Device(format!("{name}: {message}"))
    })?;
    Ok(Slices::new(slices))
}

/// Why views cannot be borrowed together; the numbers are indices of views.
#[derive(Debug, PartialEq)]
enum Fault {
    OutOfBounds(usize),
    Overlap(usize, usize),
}

/// The slices in the order of the views.
fn split_views<'a>(
    buffers: &'a mut [Vec<u32>],
    views: &[View],
    accesses: &[Access],
) -> std::result::Result<Vec<Slice<'a>>, Fault> {
    if let Some(i) = views.iter().position(|view| view.buffer.0 as usize >= buffers.len()) {
        return Err(Fault::OutOfBounds(i));
    }
    let mut slices: Vec<Option<Slice<'a>>> = views.iter().map(|_| None).collect();
    for (id, buffer) in buffers.iter_mut().enumerate() {
        let mut bound: Vec<usize> = (0..views.len()).filter(|&i| views[i].buffer.0 as usize == id).collect();
        if let Some(&i) = bound.iter().find(|&&i| views[i].offset + views[i].words > buffer.len()) {
            return Err(Fault::OutOfBounds(i));
        }
        bound.sort_by_key(|&i| views[i].offset);
        let pieces = pieces(&bound, views, accesses)?;
        borrow_pieces(buffer, &pieces, views, &mut slices);
    }
    Ok(slices.into_iter().map(|slice| slice.expect("every view's buffer was visited")).collect())
}

/// A stretch of a buffer that is borrowed as a whole.
struct Piece {
    words: Range<usize>,
    /// The views inside. More than one only if all are read.
    views: Vec<usize>,
    exclusive: bool,
}

/// Joins overlapping reads into pieces; `bound` is ascending by offset.
fn pieces(bound: &[usize], views: &[View], accesses: &[Access]) -> std::result::Result<Vec<Piece>, Fault> {
    let mut pieces: Vec<Piece> = Vec::new();
    for &i in bound {
        let words = views[i].offset..views[i].offset + views[i].words;
        let exclusive = accesses[i].writes();
        match pieces.last_mut() {
            Some(piece) if words.start < piece.words.end => {
                if exclusive || piece.exclusive {
                    let other = piece.views.iter().copied().find(|&j| views[i].overlaps(&views[j]));
                    let j = other.unwrap_or(piece.views[0]);
                    return Err(Fault::Overlap(j.min(i), j.max(i)));
                }
                piece.words.end = piece.words.end.max(words.end);
                piece.views.push(i);
            }
            _ => pieces.push(Piece { words, views: vec![i], exclusive }),
        }
    }
    Ok(pieces)
}

/// Cuts a buffer into its pieces from front to back, and each shared piece into its views.
fn borrow_pieces<'a>(
    buffer: &'a mut [u32],
    pieces: &[Piece],
    views: &[View],
    slices: &mut [Option<Slice<'a>>],
) {
    let (mut rest, mut start) = (buffer, 0);
    for piece in pieces {
        let (_, after_gap) = rest.split_at_mut(piece.words.start - start);
        let (words, after_piece) = after_gap.split_at_mut(piece.words.len());
        (rest, start) = (after_piece, piece.words.end);
        if piece.exclusive {
            slices[piece.views[0]] = Some(Slice::Write(words));
        } else {
            let words: &'a [u32] = words;
            for &i in &piece.views {
                let first = views[i].offset - piece.words.start;
                slices[i] = Some(Slice::Read(&words[first..first + views[i].words]));
            }
        }
    }
}
