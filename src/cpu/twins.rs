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
    /// The kernel only reads it.
    Read(&'a [u32]),
    /// The kernel writes it, and may read it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::accumulate;
    use crate::recording::BufferId;
    use Access::{Read, ReadWrite, Write};

    fn view(buffer: u32, offset: usize, words: usize) -> View {
        View { buffer: BufferId(buffer), offset, words }
    }

    /// Buffer 0 holds 0, 1, 2, ...; buffer 1 holds 1000, 1001, ...
    fn buffers() -> Vec<Vec<u32>> {
        vec![(0..1024).collect(), (1000..1512).collect()]
    }

    /// Each slice's first word, length and whether it may be written.
    fn shapes(views: &[View], accesses: &[Access]) -> std::result::Result<Vec<(u32, usize, bool)>, Fault> {
        let mut buffers = buffers();
        let slices = split_views(&mut buffers, views, accesses)?;
        let shape = |slice: &Slice| match slice {
            Slice::Read(words) => (words[0], words.len(), false),
            Slice::Write(words) => (words[0], words.len(), true),
        };
        Ok(slices.iter().map(shape).collect())
    }

    #[test]
    fn disjoint_pieces_of_one_buffer_are_borrowed_together_in_binding_order() {
        let views = [view(0, 512, 64), view(1, 64, 448), view(0, 0, 64), view(0, 64, 128), view(0, 576, 448)];
        let expected =
            [(512, 64, true), (1064, 448, false), (0, 64, true), (64, 128, false), (576, 448, true)];
        assert_eq!(shapes(&views, &[Write, Read, ReadWrite, Read, Write]).unwrap(), expected);
    }

    #[test]
    fn shared_views_may_overlap_beside_an_exclusive_one() {
        let views = [view(0, 128, 200), view(0, 64, 128), view(0, 328, 8), view(0, 64, 128), view(0, 0, 64)];
        let expected = [(128, 200, false), (64, 128, false), (328, 8, true), (64, 128, false), (0, 64, true)];
        assert_eq!(shapes(&views, &[Read, Read, Write, Read, ReadWrite]).unwrap(), expected);
    }

    #[test]
    fn what_is_written_through_a_slice_arrives_in_the_buffer() {
        let mut buffers = buffers();
        for slice in split_views(&mut buffers, &[view(0, 64, 2), view(1, 0, 1)], &[Write, Write]).unwrap() {
            if let Slice::Write(words) = slice {
                words.fill(7);
            }
        }
        assert_eq!(buffers[0][63..67], [63, 7, 7, 66]);
        assert_eq!(buffers[1][..2], [7, 1001]);
    }

    #[test]
    fn overlap_with_a_written_view_is_a_fault() {
        // Found in whichever order the views come, by one word or whole, nested or chained.
        let overlaps = |views: &[View], accesses: &[Access]| shapes(views, accesses).unwrap_err();
        assert_eq!(overlaps(&[view(0, 0, 65), view(0, 64, 64)], &[Write, Read]), Fault::Overlap(0, 1));
        assert_eq!(overlaps(&[view(0, 64, 64), view(0, 0, 65)], &[Write, Read]), Fault::Overlap(0, 1));
        assert_eq!(overlaps(&[view(1, 0, 64), view(1, 0, 64)], &[ReadWrite, Write]), Fault::Overlap(0, 1));
        let nested = [view(0, 0, 512), view(0, 64, 64), view(0, 256, 64)];
        assert_eq!(overlaps(&nested, &[Read, Read, Write]), Fault::Overlap(0, 2));
        assert!(shapes(&nested, &[Read, Read, Read]).is_ok());
    }

    #[test]
    fn views_outside_their_buffer_are_a_fault() {
        assert_eq!(shapes(&[view(0, 0, 1), view(1, 512, 1)], &[Read, Read]), Err(Fault::OutOfBounds(1)));
        assert_eq!(shapes(&[view(0, 1000, 25)], &[Write]), Err(Fault::OutOfBounds(0)));
        assert_eq!(shapes(&[view(2, 0, 1)], &[Read]), Err(Fault::OutOfBounds(0)));
    }

    #[test]
    fn a_dispatch_reaches_its_twin() {
        let bits = |values: [f32; 3]| values.map(f32::to_bits).to_vec();
        let mut buffers = vec![bits([1.0, 2.0, 1e-20]), bits([0.5, -2.0, -1e-20])];
        let push = accumulate::Push { count: 3, first: 0 };
        let bindings = accumulate::Bindings { addend: view(0, 0, 3), sum: view(1, 0, 3) };
        let mut dispatch = accumulate::dispatch(push, Default::default(), bindings, [1, 1, 1]);
        run(&dispatch, split(&mut buffers, &dispatch).unwrap());
        assert_eq!(buffers[1], bits([1.5, 0.0, 0.0]));

        dispatch.views[1] = view(0, 0, 3);
        let message = split(&mut buffers, &dispatch).err().unwrap().to_string();
        assert!(message.starts_with("accumulate: addend and sum overlap"), "{message}");
        dispatch.views.pop();
        let message = split(&mut buffers, &dispatch).err().unwrap().to_string();
        assert_eq!(message, "accumulate: 1 views are bound, the kernel has 2 bindings");
    }
}
