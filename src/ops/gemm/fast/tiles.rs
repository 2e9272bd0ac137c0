//! What a workgroup of a fast product computes, and how: the values that its kernel is specialized for.

use crate::recording::{Factor, MatrixUnits};

/// How a workgroup works on its tile of C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Rows of the tile.
    pub rows: usize,
    /// Columns of the tile.
    pub columns: usize,
    /// Terms that shared memory holds at a time.
    pub step: usize,
    /// Shares of so many terms in shared memory: 1 or 2.
    pub shares: usize,
    /// Rows of tiles that are worked on at a time.
    pub band: usize,
    /// Which kernel does it.
    pub kind: Kind,
}

/// The kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `gemm_fast`: f32 throughout.
    Plain {
        /// Fours of rows that an invocation sums.
        row_quads: usize,
        /// Fours of columns that an invocation sums.
        column_quads: usize,
        /// Invocations side by side in a patch of 32.
        near_across: usize,
        /// Terms whose sums the kernel writes out, a divisor of the step.
        unrolled: usize,
    },
    /// `gemm_bf16` or `gemm_f16`: 16-bit factors on matrix units.
    Matrix {
        /// Rows of a subgroup's part of the tile.
        part_rows: usize,
        /// Columns of a subgroup's part of the tile.
        part_columns: usize,
        /// The units.
        units: MatrixUnits,
    },
}

impl Tile {
    /// f32, 8 x 8 elements an invocation.
    pub const fn plain(rows: usize, columns: usize) -> Tile {
        let kind = Kind::Plain { row_quads: 2, column_quads: 2, near_across: 8, unrolled: 8 };
        Tile { rows, columns, step: 8, shares: 1, band: 8, kind }
    }

    /// f32, 4 x 4 elements an invocation.
    pub const fn plain_small(rows: usize, columns: usize) -> Tile {
        let kind = Kind::Plain { row_quads: 1, column_quads: 1, near_across: 8, unrolled: 16 };
        Tile { step: 16, shares: 2, kind, ..Tile::plain(rows, columns) }
    }

    /// 16-bit factors, `part_rows` x `part_columns` elements a subgroup.
    pub const fn matrix(
        units: MatrixUnits,
        [rows, columns]: [usize; 2],
        [part_rows, part_columns]: [usize; 2],
    ) -> Tile {
        let kind = Kind::Matrix { part_rows, part_columns, units };
        Tile { rows, columns, step: 32, shares: 2, band: 8, kind }
    }

    /// The tiles for f32 to choose from.
    pub const PLAIN: [Tile; 6] = [
        Tile::plain(128, 128),
        Tile::plain(64, 128),
        Tile::plain(128, 64),
        Tile::plain(64, 64),
        Tile::plain_small(32, 64),
        Tile::plain_small(32, 32),
    ];

    /// The tiles for matrix units to choose from.
    pub const fn for_units(units: MatrixUnits) -> [Tile; 4] {
        [
            Tile::matrix(units, [128, 128], [64, 64]),
            Tile::matrix(units, [64, 128], [32, 64]),
            Tile::matrix(units, [128, 64], [64, 32]),
            Tile::matrix(units, [64, 64], [32, 32]),
        ]
    }

    /// Invocations of a workgroup.
    pub fn invocations(&self) -> usize {
        match self.kind {
            Kind::Plain { row_quads, column_quads, .. } => {
                self.rows * self.columns / (16 * row_quads * column_quads)
            }
            Kind::Matrix { part_rows, part_columns, units } => {
                self.rows / part_rows * (self.columns / part_columns) * units.subgroup_size as usize
            }
        }
    }

    /// The type that the factors are rounded to, if they are.
    pub fn factor(&self) -> Option<Factor> {
        match self.kind {
            Kind::Plain { .. } => None,
            Kind::Matrix { units, .. } => Some(units.factor),
        }
    }
}
