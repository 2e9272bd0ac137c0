//! The three promises that arithmetic can make.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What the arithmetic promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Precision {
    /// The same bits on every device.
    #[default]
    Exact,
    /// 32-bit floats throughout, in whatever order and with whatever instructions the device is fastest;
    /// the same bits on every run on one device.
    F32,
    /// Factors of matrix products rounded to 16 bits, everything else as in [`Precision::F32`]; needs the
    /// device's matrix units. The same bits on every run on one device.
    Mixed,
}

impl Precision {
    /// Every precision there is.
    pub const ALL: &'static [Precision] = &[Precision::Exact, Precision::F32, Precision::Mixed];

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Exact => "exact",
            Precision::F32 => "f32",
            Precision::Mixed => "mixed",
        }
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Precision::ALL.iter().copied().find(|p| p.name() == text).ok_or_else(|| {
            let names: Vec<_> = Precision::ALL.iter().map(|p| p.name()).collect();
            format!("there is no precision `{text}`; choose from: {}", names.join(", "))
        })
    }
}

impl TryFrom<String> for Precision {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Precision> for &'static str {
    fn from(precision: Precision) -> &'static str {
        precision.name()
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
