//! A chain of digests: each covers the one before, so that equal ends mean equal ways.

use crate::checkpoint::Link;
use crate::model::parameters::ParameterSpec;
use crate::train::verify::StepRecord;

/// The links so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// In the order of the steps.
    pub links: Vec<Link>,
}

impl Chain {
    /// Adds a step: BLAKE3 over the last link's digest (nothing for the first), the step, the bits of the
    /// loss and of the gradient norm, and the digest of the whole state.
    pub fn add(&mut self, record: &StepRecord, specs: &[ParameterSpec]) -> &Link {
        let mut hasher = blake3::Hasher::new();
        if let Some(last) = self.links.last() {
            hasher.update(last.digest.as_bytes());
        }
        let step = record.state.step;
        hasher.update(&step.to_le_bytes());
        hasher.update(&record.loss.to_bits().to_le_bytes());
        hasher.update(&record.grad_norm.to_bits().to_le_bytes());
        hasher.update(record.state.whole(specs).as_bytes());
        self.links.push(Link { step, digest: hasher.finalize().to_hex().to_string() });
        self.links.last().expect("just added")
    }
}
