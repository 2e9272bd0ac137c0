//! What retracing a checkpoint found, and how it is told.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::print_if_read;
use crate::error::{Error, Result};
use crate::train::verify::Difference;

/// What retracing found.
#[derive(Default)]
pub struct Findings {
    /// Where it began.
    pub since: u64,
    /// What that step is, behind a comma.
    pub why: &'static str,
    /// The step of the checkpoint.
    pub steps: u64,
    /// The digest of what came out.
    pub digest: String,
    pub device: String,
    /// The steps of the kept checkpoints that were compared on the way.
    pub met: Vec<u64>,
    /// The first of those that is another than what came out.
    pub on_the_way: Option<Flaw>,
    /// The first thing in which the checkpoint itself is another than what came out.
    pub own: Option<What>,
    /// The version of hlx that the checkpoint is from, if its kernels were others.
    pub other_kernels: Option<String>,
}

/// A kept checkpoint that is not what it should be.
pub struct Flaw {
    pub folder: PathBuf,
    pub what: What,
}

/// In what a checkpoint differs.
pub enum What {
    /// The link of the chain of this step.
    Link(u64),
    /// An element of a tensor.
    Tensor(Box<Difference>),
    /// Only the digest that it names as its own. The step it is of.
    Digest(u64),
    /// Trained again, it does not get there. What was met.
    NotFinite(String),
}

impl What {
    fn say(&self) -> String {
        match self {
            What::Link(step) => format!("the digest of step {step} is another than was kept then"),
            What::Digest(step) => {
                format!("every element of step {step} is right, and the digest in its state.json is not")
            }
            What::NotFinite(what) => format!("trained again, {what}"),
            What::Tensor(d) => format!(
                "{}[{}] is {} in it, and {} when trained again ({} ulp apart, {} elements differ)",
                d.tensor, d.element, d.reference, d.value, d.ulp, d.elements_different
            ),
        }
    }

    fn json(&self, folder: &Path) -> Value {
        let mut value = match self {
            What::Link(step) => json!({ "step": step, "tensor": "the chain of digests" }),
            What::Digest(step) => json!({ "step": step, "tensor": "the digest" }),
            What::NotFinite(what) => json!({ "tensor": what }),
            What::Tensor(difference) => json!(difference),
        };
        value["checkpoint"] = json!(folder);
        value
    }
}

impl Findings {
    /// Prints what was found.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the checkpoint, or one kept on the way, is not what came out.
    pub fn report(&self, as_json: bool, folder: &Path) -> Result<()> {
        let first = (self.on_the_way.as_ref().map(|flaw| flaw.what.json(&flaw.folder)))
            .or_else(|| self.own.as_ref().map(|what| what.json(folder)));
        if as_json {
            let json = json!({
                "identical": first.is_none(),
                "runs": 1,
                "from": self.since,
                "steps": self.steps,
                "compared": self.met,
                "digest": self.digest,
                "devices": [self.device],
                "first_difference": first,
            });
            print_if_read(&format!("{json}\n"))?;
        }
        match self.verdict(folder) {
            Some(text) => Err(Error::Mismatch(text)),
            None if as_json => Ok(()),
            None => print_if_read(&self.praise(folder)),
        }
    }

    fn verdict(&self, folder: &Path) -> Option<String> {
        let folder = folder.display();
        let why = self.other_kernels.as_ref().map_or(String::new(), |version| {
            format!("; it was trained by hlx {version} with other kernels, which may be why")
        });
        let own = self.own.as_ref().map(|what| {
            let from = if self.since > 0 { format!(" from step {} on", self.since) } else { String::new() };
            format!("{folder} is not what its configuration gives{from}: {}{why}", what.say())
        });
        let Some(flaw) = &self.on_the_way else {
            // Where the retracing began is taken as it is.
            let trusted = own.is_some() && self.why.contains("kept before");
            let hint = if trusted { "; which of the two is wrong, --from start tells" } else { "" };
            return own.map(|text| text + hint);
        };
        let met = format!(
            "{}, met on the way, is not what its configuration gives: {}",
            flaw.folder.display(),
            flaw.what.say()
        );
        Some(match own {
            Some(own) => format!("{own}; before that {met}"),
            None => format!("{met}; {folder} itself is what its configuration gives{why}"),
        })
    }

    fn praise(&self, folder: &Path) -> String {
        let from = if self.since > 0 { format!(" from step {} on", self.since) } else { String::new() };
        let met = match self.met.len() {
            0 => String::new(),
            1 => ", and so is the 1 checkpoint kept on the way".to_owned(),
            several => format!(", and so are the {several} checkpoints kept on the way"),
        };
        let (steps, device, digest) = (self.steps, &self.device, &self.digest);
        format!(
            "{} is what its configuration gives after {steps} steps on {device}{from}{}{met}: \
             digest {digest}\n",
            folder.display(),
            self.why
        )
    }
}
