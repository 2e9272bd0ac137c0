//! The small closed choices of the command line: device, where to resume or retrace from.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What `--device` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The best device there is: a Vulkan GPU, else the CPU executor.
    #[default]
    Auto,
    /// The built-in CPU executor.
    Cpu,
    /// The Vulkan device of this number in `hlx devices`.
    Index(usize),
    /// The Vulkan device whose name contains this text, case ignored.
    Name(String),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            // Every name contains nothing.
            _ if text.trim().is_empty() => Err("give auto, cpu, or a device's number or name".into()),
            _ => Ok(text.parse().map(DeviceChoice::Index).unwrap_or(DeviceChoice::Name(text.to_owned()))),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Index(index) => write!(f, "{index}"),
            DeviceChoice::Name(name) => f.write_str(name),
        }
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> String {
        choice.to_string()
    }
}

/// Which operands of a product are stored transposed: a model's layers have all three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProductLayout {
    /// A B, as a layer goes forward.
    #[default]
    Nn,
    /// A B^T, as gradients go back through a layer.
    Nt,
    /// A^T B, as the gradient of a layer's weights.
    Tn,
}

impl ProductLayout {
    /// Every layout there is.
    pub const ALL: &'static [ProductLayout] = &[ProductLayout::Nn, ProductLayout::Nt, ProductLayout::Tn];

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            ProductLayout::Nn => "nn",
            ProductLayout::Nt => "nt",
            ProductLayout::Tn => "tn",
        }
    }

    /// A is stored `[k,m]`.
    pub fn transposes_a(self) -> bool {
        self == ProductLayout::Tn
    }

    /// B is stored `[n,k]`.
    pub fn transposes_b(self) -> bool {
        self == ProductLayout::Nt
    }
}

impl FromStr for ProductLayout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ProductLayout::ALL.iter().copied().find(|layout| layout.name() == text).ok_or_else(|| {
            let names: Vec<_> = ProductLayout::ALL.iter().map(|layout| layout.name()).collect();
            format!("there is no layout `{text}`; choose from: {}", names.join(", "))
        })
    }
}

impl fmt::Display for ProductLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What `--resume` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResumeFrom {
    /// The newest whole checkpoint of the run folder.
    Auto,
    /// This run folder's newest whole checkpoint, or exactly this checkpoint folder.
    Path(PathBuf),
}

impl FromStr for ResumeFrom {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text == "auto" { ResumeFrom::Auto } else { ResumeFrom::Path(text.into()) })
    }
}

/// Where `hlx verify --checkpoint` begins to train again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetraceFrom {
    /// Where the checkpoint's options begin to hold: the start of the run, or of its last other options.
    #[default]
    Start,
    /// The newest whole checkpoint kept before it that leads to it.
    Last,
}

impl FromStr for RetraceFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "start" => Ok(RetraceFrom::Start),
            "last" => Ok(RetraceFrom::Last),
            _ => Err("give start or last".into()),
        }
    }
}

impl fmt::Display for RetraceFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RetraceFrom::Start => "start",
            RetraceFrom::Last => "last",
        })
    }
}
