//! The numbers that say what one batched matrix product is: sizes, layouts, strides, triangles.

use std::ops::Range;

use crate::ops::grid::MAX_GROUPS;

/// Which triangle of a square product is not needed, or is known to be zero (causal attention).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Causal {
    /// Everything counts.
    #[default]
    None,
    /// Only elements with column <= row are wanted. An implementation writes at least those;
    /// what stands above the diagonal afterwards is unspecified, and nobody may read it.
    LowerOutput,
    /// op(A)[i, p] is zero for p > i, and those zeros are written: a sum may end early.
    LowerA,
    /// op(A)[i, p] is zero for p < i, and those zeros are written: a sum may start late.
    UpperA,
    /// Not a triangle: batch z sums block z of the terms alone, and its sum is stored as it is, neither
    /// snapped nor with a bias. See [`Split`](super::Split).
    Blocks,
}

impl Causal {
    /// The value that stands in the kernels' push constants.
    pub fn code(self) -> u32 {
        match self {
            Causal::None => 0,
            Causal::LowerOutput => 1,
            Causal::LowerA => 2,
            Causal::UpperA => 3,
            Causal::Blocks => 4,
        }
    }

    /// The inverse of [`Causal::code`]. Panics if the code is none.
    pub fn from_code(code: u32) -> Causal {
        match code {
            0 => Causal::None,
            1 => Causal::LowerOutput,
            2 => Causal::LowerA,
            3 => Causal::UpperA,
            4 => Causal::Blocks,
            _ => panic!("causal mode {code} does not exist"),
        }
    }
}

/// Where one operand's matrices lie in memory, counted in elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// From the start of the operand's words to its first element.
    pub first: usize,
    /// From one stored row to the next.
    pub ld: usize,
    /// From one outer batch to the next.
    pub outer: usize,
    /// From one inner batch to the next.
    pub inner: usize,
    /// The stored matrix is the transpose of the operand. Never set for the result.
    pub trans: bool,
}

impl Layout {
    /// True if every stored row starts at a multiple of four elements, so that kernels may move four at once.
    pub fn rows_start_at_quads(&self) -> bool {
        self.rows_start_at(4)
    }

    /// The same for other multiples.
    pub fn rows_start_at(&self, elements: usize) -> bool {
        [self.first, self.ld, self.outer, self.inner].iter().all(|step| step.is_multiple_of(elements))
    }
}

/// `C[m,n] = snap(op(A)[m,k] * op(B)[k,n] + bias[n])`, `batches` times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Rows of op(A) and C.
    pub m: usize,
    /// Terms of each sum.
    pub k: usize,
    /// Columns of op(B) and C.
    pub n: usize,
    /// A bias is added.
    pub use_bias: bool,
    /// Where A lies.
    pub a: Layout,
    /// Where B lies.
    pub b: Layout,
    /// Where C lies.
    pub c: Layout,
    /// Batch z is inner batch z % batch_inner of outer batch z / batch_inner.
    pub batch_inner: usize,
    /// Products in all, a multiple of `batch_inner`.
    pub batches: usize,
    /// The triangle that is not needed or is zero.
    pub causal: Causal,
}

impl Problem {
    /// The same product of operands whose words begin with their first elements.
    pub fn from_first_elements(&self) -> Problem {
        let cut = |layout: Layout| Layout { first: 0, ..layout };
        Problem { a: cut(self.a), b: cut(self.b), c: cut(self.c), ..*self }
    }

    /// The first element of batch `z` of an operand.
    pub fn start(&self, layout: Layout, z: usize) -> usize {
        layout.first + z / self.batch_inner * layout.outer + z % self.batch_inner * layout.inner
    }

    /// Stored rows and columns of A.
    pub fn stored_a(&self) -> (usize, usize) {
        if self.a.trans { (self.k, self.m) } else { (self.m, self.k) }
    }

    /// Stored rows and columns of B.
    pub fn stored_b(&self) -> (usize, usize) {
        if self.b.trans { (self.n, self.k) } else { (self.k, self.n) }
    }

    /// Elements of the operand's words up to one past the last that `rows` x `columns` touch.
    pub fn extent(&self, layout: Layout, (rows, columns): (usize, usize)) -> usize {
        let last_outer = (self.batches - 1) / self.batch_inner * layout.outer;
        let last_inner = (self.batch_inner.min(self.batches) - 1) * layout.inner;
        layout.first + last_outer + last_inner + (rows - 1) * layout.ld + columns
    }

    /// The terms that matter to the sums of the rows `rows`.
    ///
    /// Leaving out the zero terms of a triangle keeps every bit: a sum starts at +0 and x + y is
    /// -0 only if both are -0, so no partial sum is ever -0; and x + (+0) = x + (-0) = x for every
    /// x that is not -0.
    pub fn terms(&self, rows: Range<usize>) -> Range<usize> {
        match self.causal {
            Causal::None | Causal::LowerOutput | Causal::Blocks => 0..self.k,
            Causal::LowerA => 0..rows.end.min(self.k),
            Causal::UpperA => rows.start.min(self.k - 1)..self.k,
        }
    }

    /// True if no element of these rows from `first_column` on is wanted.
    pub fn unwanted(&self, rows: Range<usize>, first_column: usize) -> bool {
        self.causal == Causal::LowerOutput && first_column >= rows.end
    }

    /// Tiles of so many rows and columns in x (columns), y (rows) and z (batches).
    pub fn tiles(&self, [rows, columns]: [usize; 2]) -> [usize; 3] {
        [self.n.div_ceil(columns), self.m.div_ceil(rows), self.batches]
    }

    /// The same as workgroups of a dispatch. Panics if there are more than every device takes: a program's
    /// fault, never a user's.
    pub fn workgroups(&self, tile: [usize; 2]) -> [u32; 3] {
        self.tiles(tile).map(|count| {
            assert!(count <= MAX_GROUPS, "a product of {count} workgroups in a row: {self:?}");
            count as u32
        })
    }

    /// Multiplications and additions of the whole product, triangles not taken off.
    pub fn flops(&self) -> u64 {
        2 * (self.m * self.n * self.k * self.batches) as u64
    }

    /// Panics if the numbers contradict each other or reach past the operands: a program's fault,
    /// never a user's.
    pub fn check(&self, a_len: usize, b_len: usize, c_len: usize, bias_len: usize) {
        assert!(self.m > 0 && self.k > 0 && self.n > 0, "a product needs sizes of at least 1: {self:?}");
        assert!(self.batches > 0 && self.batches.is_multiple_of(self.batch_inner), "batches: {self:?}");
        assert!(!self.c.trans, "the result is never stored transposed");
        assert!(self.a.ld >= self.stored_a().1, "A's rows overlap: {self:?}");
        assert!(self.b.ld >= self.stored_b().1, "B's rows overlap: {self:?}");
        assert!(self.c.ld >= self.n, "C's rows overlap: {self:?}");
        assert!(
            self.extent(self.a, self.stored_a()) <= a_len,
            "A of {a_len} elements is too short: {self:?}"
        );
        assert!(
            self.extent(self.b, self.stored_b()) <= b_len,
            "B of {b_len} elements is too short: {self:?}"
        );
        assert!(
            self.extent(self.c, (self.m, self.n)) <= c_len,
            "C of {c_len} elements is too short: {self:?}"
        );
        assert!(!self.use_bias || self.n <= bias_len, "bias of {bias_len} elements is too short: {self:?}");
        match self.causal {
            Causal::None => {}
            Causal::Blocks => {
                assert!(!self.use_bias, "the bias comes when the blocks are added: {self:?}");
            }
            Causal::LowerOutput => assert_eq!(self.m, self.n, "a causal result is square"),
            Causal::LowerA | Causal::UpperA => assert_eq!(self.m, self.k, "a causal factor is square"),
        }
    }
}
