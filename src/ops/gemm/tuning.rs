//! Which ways a program takes for its products where the estimates' are not the fastest: a plain value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::way::{Way, key};
use super::{After, Gemm};
use crate::recording::Traits;

/// A product whose way may be chosen by timing: what its ways and their key follow from, for who records it
/// and for who times it alike.
#[derive(Clone, Copy, Debug)]
pub struct Tunable {
    gemm: Gemm,
    room: bool,
    best: Way,
}

impl Tunable {
    /// A product as a recorder computes it, `room` as for [`Way::best`]; `None` if the order in which its
    /// columns are summed follows from the tile.
    pub fn of(gemm: &Gemm, traits: &Traits, room: bool) -> Option<Tunable> {
        if matches!(gemm.after, After::GeluGradient { .. }) {
            return None;
        }
        let room = room && gemm.is_plain();
        let gemm = Gemm { after: After::Nothing, ..*gemm };
        Some(Tunable { best: Way::best(&gemm, traits, room), gemm, room })
    }

    /// The product, without what is done to its elements before they are written.
    pub fn gemm(&self) -> &Gemm {
        &self.gemm
    }

    /// [`Way::alternatives`] of the way that the estimates take.
    pub fn ways(&self, traits: &Traits) -> Vec<Way> {
        self.best.alternatives(&self.gemm, traits, self.room)
    }

    /// What decides how fast the product is and which ways give its bits, in words that tell any two apart:
    /// `768x128x384 nn, rows of 128 384 384, bias, exact`.
    pub fn key(&self) -> String {
        key(&self.gemm, &self.best)
    }
}

/// The name of the way to take, by a product's key.
///
/// Only ways that give the same bits are ever taken: a name that is none of theirs counts as not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tuning {
    /// [`Way::name`] by [`Tunable::key`].
    pub names: BTreeMap<String, String>,
}

impl Tuning {
    /// True if every product is computed as the estimates say.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// How a product is computed on a device of these traits.
    pub fn way(&self, product: &Tunable, traits: &Traits) -> Way {
        // Most programs are not tuned, and keys are long.
        if self.is_empty() {
            return product.best;
        }
        let name = self.names.get(&product.key());
        let named = name.and_then(|name| product.ways(traits).into_iter().find(|way| way.name() == *name));
        named.unwrap_or(product.best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Recorder;
    use crate::ops::gemm::{Matrix, Pass};
    use crate::precision::Precision;
    use crate::recording::{BufferId, Factor, MatrixUnits, View};

    /// A product whose sums would be cut into blocks, but for GELU, which takes whole ones.
    fn long(after: impl Fn(View) -> After) -> Gemm {
        let [m, k, n] = [64, 8192, 64];
        let view = |buffer, words| View { buffer: BufferId(buffer), offset: 0, words };
        let (a, b) =
            (Matrix::new(view(0, m * k / 2), k).packed(), Matrix::new(view(1, k * n / 2), n).packed());
        let result = view(2, m * n / 2);
        Gemm {
            after: after(view(3, m * n / 2)),
            ..Gemm::new(Pass::Forward, [m, k, n], a, b, Matrix::new(result, n).packed())
        }
    }

    fn kernels(gemm: &Gemm, traits: Traits, tuning: Tuning) -> (Vec<Tunable>, Vec<Vec<u32>>) {
        let mut r = Recorder::new(traits, Some(BufferId(9))).tuned(tuning);
        r.multiply(gemm);
        (r.products, r.dispatches.into_iter().map(|dispatch| dispatch.specialization).collect())
    }

    #[test]
    fn what_is_timed_of_a_product_is_what_a_recorder_takes() {
        let units = MatrixUnits {
            factor: Factor::F16,
            side: 16,
            subgroup_size: 32,
            in_registers: false,
            workgroup_scope: false,
        };
        let traits = Traits {
            precision: Precision::Mixed,
            fast_shared_memory: true,
            matrix_units: Some(units),
            shared_memory_bytes: 48 << 10,
            ..Traits::PLAIN
        };
        let gelu = |act| After::Gelu { act, again: false };
        for (gemm, dispatches) in [(long(|_| After::Nothing), 2), (long(gelu), 1)] {
            let (products, untuned) = kernels(&gemm, traits, Tuning::default());
            assert_eq!((products.len(), untuned.len()), (1, dispatches), "{:?}", gemm.after);
            let ways = products[0].ways(&traits);
            assert!(ways.len() > 1, "{ways:?}");
            for way in &ways[1..] {
                let names = BTreeMap::from([(products[0].key(), way.name())]);
                let (_, tuned) = kernels(&gemm, traits, Tuning { names });
                assert_ne!(tuned, untuned, "{} is not taken with {:?}", way.name(), gemm.after);
            }
        }
    }
}
