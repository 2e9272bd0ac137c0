//! A verification kept in a file, to be compared with on another machine.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::checkpoint::replace_file;
use crate::config::{Precision, TrainOptions};
use crate::error::{Error, Result};
use crate::kernels::Kernel;
use crate::model::parameters::ParameterSpec;
use crate::train::digest::tensor_name;
use crate::train::verify::{Chain, Elements, Met, Op, StepRecord};

/// Raised when an older hlx could not read the file.
pub const FORMAT_VERSION: u32 = 1;

/// Where and with what a chain was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the program.
    pub hlx_version: String,
    /// The device's name.
    pub device: String,
    /// The driver's name and version.
    pub driver: String,
    /// What the arithmetic promised.
    pub precision: Precision,
    /// Hash of each kernel's SPIR-V.
    pub kernels: BTreeMap<String, String>,
    /// BLAKE3 of the training tokens.
    pub corpus_hash: String,
    /// Name of the text's file; `None` for the one built into hlx.
    #[serde(default)]
    pub corpus: Option<String>,
    /// Everything that decides the steps but the corpus.
    pub options: TrainOptions,
}

impl Header {
    /// The header of this binary.
    pub fn new(
        device: &str,
        driver: &str,
        precision: Precision,
        corpus_hash: &str,
        options: TrainOptions,
    ) -> Header {
        let kernels = Kernel::ALL.iter().map(|kernel| (kernel.name().to_owned(), kernel.hash().to_owned()));
        Header {
            hlx_version: env!("CARGO_PKG_VERSION").to_owned(),
            device: device.to_owned(),
            driver: driver.to_owned(),
            precision,
            kernels: kernels.collect(),
            corpus_hash: corpus_hash.to_owned(),
            corpus: None,
            options,
        }
    }

    /// What may explain another result, the likeliest first.
    fn causes(&self, here: &Header) -> Vec<String> {
        let differing: Vec<&str> = self
            .kernels
            .iter()
            .filter(|(name, hash)| here.kernels.get(*name) != Some(hash))
            .map(|(name, _)| name.as_str())
            .collect();
        let mut causes = Vec::new();
        if self.corpus_hash != here.corpus_hash {
            causes.push("corpus: the text is another".to_owned());
        }
        if self.options != here.options {
            causes.push("configuration: the options are others".to_owned());
        }
        if self.precision != here.precision {
            causes.push(format!("precision: {} there, {} here", self.precision, here.precision));
        }
        if !differing.is_empty() {
            causes.push(format!("binary: other kernels ({})", differing.join(", ")));
        } else if self.hlx_version != here.hlx_version {
            causes.push(format!("binary: hlx {} there, {} here", self.hlx_version, here.hlx_version));
        }
        let [same_precision, same_device] =
            [self.precision == here.precision, (&self.device, &self.driver) == (&here.device, &here.driver)];
        if same_precision && !same_device && self.precision != Precision::Exact {
            causes.push(format!("precision: {} promises the same bits on one device only", self.precision));
        }
        if self.device != here.device {
            causes.push(format!("device: {} there, {} here", self.device, here.device));
        }
        if self.driver != here.driver {
            causes.push(format!("driver: {} there, {} here", self.driver, here.driver));
        }
        causes
    }

    /// What may explain that one operation gives another result with the same inputs: not the text, and of
    /// the binary only that operation's kernel.
    fn causes_of_op(&self, here: &Header, kernel: &str) -> String {
        if self.kernels.get(kernel) != here.kernels.get(kernel) {
            return format!("binary: the kernel {kernel} is another there");
        }
        let of_place =
            |cause: &String| ["precision", "device", "driver"].iter().any(|p| cause.starts_with(p));
        let causes: Vec<String> = self.causes(here).into_iter().filter(of_place).collect();
        if causes.is_empty() {
            return format!("the hardware: {kernel} gave something else there or here, on the same device");
        }
        causes.join("; ")
    }
}

/// One step as the file keeps it: bits and hashes in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RecordedStep {
    step: u64,
    loss: String,
    grad_norm: String,
    /// One a tensor, in the order of `tensors`.
    hashes: Vec<String>,
    chain: String,
}

/// A verification's first run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// [`FORMAT_VERSION`] of the program that wrote it.
    pub format_version: u32,
    /// Where and with what it was made.
    pub header: Header,
    /// The tensors of a state: parameters, first moments, second moments.
    tensors: Vec<String>,
    steps: Vec<RecordedStep>,
}

/// Where a run here first differs from a recorded one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecordedDifference {
    /// From 1.
    pub step: u64,
    /// A tensor's name; or `loss` or `grad_norm`.
    pub tensor: String,
    /// The bits, or the hash of a tensor, there and here.
    pub reference: String,
    /// What came out here.
    pub value: String,
    /// The first input of the step that differs, where the step was kept and one does.
    pub input: Option<Elements>,
    /// The first operation of the step that gives another result, where the step was kept and one does.
    pub op: Option<Op>,
    /// What shows the operation and the elements: a command for the machine that the chain is from.
    pub next: Option<String>,
    /// One sentence for a person.
    pub likely_cause: String,
}

impl fmt::Display for RecordedDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "step {}: {} is {} here and {} there; likely cause: {}",
            self.step, self.tensor, self.value, self.reference, self.likely_cause
        )?;
        if let Some(next) = &self.next {
            write!(f, "; for the operation and the elements, run this there, and bring both files: {next}")?;
        }
        Ok(())
    }
}

impl RecordedDifference {
    /// What the kept step has shown, lines for a person; nothing if there was none.
    pub fn details(&self) -> String {
        let elements = |d: &Elements| {
            format!(
                "{}[{}] is {} here and {} there ({} ulp apart, {} elements differ)\n",
                d.tensor, d.element, d.value, d.reference, d.ulp, d.elements_different
            )
        };
        let input = self.input.as_ref().map(|d| format!("  first input that differs: {}", elements(d)));
        let op = self.op.as_ref().map(|op| {
            let name = format!("{}, dispatch {} of {}", op.kernel, op.dispatch, op.recording);
            format!("  first operation that differs: {name}: {}", elements(&op.elements()))
        });
        input.into_iter().chain(op).collect()
    }

    /// Takes in what the step shows that was kept there.
    pub fn explain(&mut self, met: Met, there: &Header, here: &Header) {
        let causes = there.causes(here);
        let known = |causes: Vec<String>| match causes.is_empty() {
            true => "something that neither file tells".to_owned(),
            false => causes.join("; "),
        };
        self.likely_cause = match met {
            Met::Input(found) => {
                self.input = Some(found);
                known(causes)
            }
            Met::Op(op) => {
                let cause = there.causes_of_op(here, &op.kernel);
                self.op = Some(op);
                cause
            }
            Met::OtherOps(what) => {
                format!("{} ({what}, so that operations cannot be compared)", known(causes))
            }
            Met::Passing => format!(
                "a passing fault of the hardware here, {}: replayed, the step comes out as it did there",
                here.device
            ),
            Met::Same => "the file: the step that was kept there comes out here too, and the chain's file \
                          names another result"
                .to_owned(),
        };
    }
}

impl Recorded {
    /// A verification's first run as a file holds it.
    pub fn new(header: Header, records: &[StepRecord], specs: &[ParameterSpec]) -> Recorded {
        let mut chain = Chain::default();
        let hex = |x: f32| format!("{:08x}", x.to_bits());
        let step = |record: &StepRecord| RecordedStep {
            step: record.state.step,
            loss: hex(record.loss),
            grad_norm: hex(record.grad_norm),
            hashes: record.state.tensors.iter().map(|hash| hash.to_hex().to_string()).collect(),
            chain: chain.add(record, specs).digest.clone(),
        };
        Recorded {
            format_version: FORMAT_VERSION,
            header,
            tensors: (0..3 * specs.len()).map(|index| tensor_name(specs, index)).collect(),
            steps: records.iter().map(step).collect(),
        }
    }

    /// The digest of the chain after a step.
    pub fn chain_after(&self, step: u64) -> Option<&str> {
        self.steps.iter().find(|recorded| recorded.step == step).map(|recorded| recorded.chain.as_str())
    }

    /// Steps in the file.
    pub fn steps(&self) -> u64 {
        self.steps.len() as u64
    }

    /// Writes the file whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).expect("names and numbers are JSON");
        text.push('\n');
        replace_file(path, text.as_bytes())
    }

    /// Reads a file that [`Recorded::save`] wrote. `flag` names it in errors.
    pub fn load(flag: &str, path: &Path) -> Result<Recorded> {
        let wrong = |reason: String| {
            Error::Input(format!(
                "{flag} {}: {reason}: give a file that `hlx verify --save` wrote",
                path.display()
            ))
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let recorded: Recorded = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if recorded.format_version != FORMAT_VERSION {
            return Err(wrong(format!(
                "it has format version {}, not {FORMAT_VERSION}",
                recorded.format_version
            )));
        }
        if recorded.steps.is_empty()
            || recorded.steps.iter().any(|s| s.hashes.len() != recorded.tensors.len())
        {
            return Err(wrong("its steps are incomplete".to_owned()));
        }
        Ok(recorded)
    }

    /// The first step and tensor in which a run here differs from this one.
    pub fn first_difference(&self, here: &Recorded) -> Option<RecordedDifference> {
        let different = self.steps.iter().zip(&here.steps).find(|(there, here)| there != here);
        let (step, tensor, reference, value) = match different {
            Some((there, here)) => {
                let (tensor, reference, value) = self.within_step(there, here);
                (there.step, tensor, reference, value)
            }
            None if self.tensors != here.tensors || self.steps.len() > here.steps.len() => {
                let what = |r: &Recorded| format!("{} steps of {} tensors", r.steps.len(), r.tensors.len());
                (1, "the shape".to_owned(), what(self), what(here))
            }
            None => return None,
        };
        let causes = self.header.causes(&here.header);
        let likely_cause = match causes.is_empty() {
            true => "a passing fault of the hardware, there or here: everything else is the same".to_owned(),
            false => causes.join("; "),
        };
        let (input, op, next) = (None, None, None);
        Some(RecordedDifference { step, tensor, reference, value, input, op, next, likely_cause })
    }

    fn within_step(&self, there: &RecordedStep, here: &RecordedStep) -> (String, String, String) {
        let mut hashes = there.hashes.iter().zip(&here.hashes).zip(&self.tensors);
        if let Some(((there, here), name)) = hashes.find(|((there, here), _)| there != here) {
            (name.clone(), there.clone(), here.clone())
        } else if there.loss != here.loss {
            ("loss".to_owned(), there.loss.clone(), here.loss.clone())
        } else if there.grad_norm != here.grad_norm {
            ("grad_norm".to_owned(), there.grad_norm.clone(), here.grad_norm.clone())
        } else {
            ("the chain".to_owned(), there.chain.clone(), here.chain.clone())
        }
    }
}
