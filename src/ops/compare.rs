//! Whether two ways to compute a product give the same bits, found on the device that computed them.

use super::gemm::{Causal, Gemm};
use super::grid::flat_groups;
use super::{Recorder, word};
use crate::kernels::compare;
use crate::recording::View;

/// Adds to `different` `[1]` how many words of `got` are not those of `wanted`, where the product is to write
/// them, and leaves NaN in all of `got`. A result with a triangle is not packed, and its matrices lie one
/// after the other.
pub fn results(r: &mut Recorder, gemm: &Gemm, wanted: View, got: View, different: View) {
    assert_eq!(wanted.words, got.words, "results of one product");
    r.add(compare::dispatch(
        compare::Push {
            words: word(got.words),
            rows: word(gemm.m),
            columns: word(gemm.n),
            lower: (gemm.causal == Causal::LowerOutput).into(),
        },
        Default::default(),
        compare::Bindings { wanted, got, different },
        flat_groups(got.words, 256),
    ));
}
