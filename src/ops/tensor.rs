//! A tensor of floats in a program's memory: where it lies, and whether in 32 bits or in 16.

use super::gemm::Matrix;
use super::pack::packed_words;
use crate::recording::View;

/// Floats that a product reads or writes, and what else does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tensor {
    /// Its words.
    pub view: View,
    /// Its elements.
    pub len: usize,
    /// The elements are rounded to 16 bits, two a word, the first one low, in the format of the factors of
    /// the device's matrix units. Only in a recording for such units.
    pub narrow: bool,
}

impl Tensor {
    /// In 16 bits, in a view of [`packed_words`] words.
    pub fn narrow(view: View, len: usize) -> Tensor {
        assert_eq!(view.words, packed_words(len), "two elements a word");
        Tensor { view, len, narrow: true }
    }

    /// Words that so many elements take.
    pub const fn words(len: usize, narrow: bool) -> usize {
        if narrow { packed_words(len) } else { len }
    }

    /// A factor or a result of a product: one matrix, stored row by row, `ld` elements each.
    pub fn matrix(&self, ld: usize) -> Matrix {
        let matrix = Matrix::new(self.view, ld);
        if self.narrow { matrix.packed() } else { matrix }
    }

    /// The words of a tensor in 32 bits. Panics if it is kept in 16.
    pub fn full(&self) -> View {
        assert!(!self.narrow, "a tensor in 32 bits");
        self.view
    }
}

impl From<View> for Tensor {
    fn from(view: View) -> Tensor {
        Tensor { view, len: view.words, narrow: false }
    }
}
