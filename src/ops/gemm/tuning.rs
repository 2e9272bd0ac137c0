//! Which ways a program takes for its products where the estimates' are not the fastest: a plain value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Gemm;
use super::way::{Way, key};
use crate::recording::Traits;

/// The name of the way to take, by a product's [`key`].
///
/// Only ways that give the same bits are ever taken: a name that is none of theirs counts as not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tuning {
    /// [`Way::name`] by [`key`].
    pub names: BTreeMap<String, String>,
}

impl Tuning {
    /// True if every product is computed as the estimates say.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// How a product is computed on a device of these traits; `room` as for [`Way::best`].
    pub fn way(&self, gemm: &Gemm, traits: &Traits, room: bool) -> Way {
        let best = Way::best(gemm, traits, room);
        self.chosen(gemm, &best, traits, room).unwrap_or(best)
    }

    /// The way that is named for a product whose best way by the estimates is `best`, if it gives its bits.
    pub fn chosen(&self, gemm: &Gemm, best: &Way, traits: &Traits, room: bool) -> Option<Way> {
        if self.is_empty() {
            return None;
        }
        let name = self.names.get(&key(gemm, best))?;
        best.alternatives(gemm, traits, room).into_iter().find(|way| way.name() == *name)
    }
}
