//! The memory plan, printed before step 0: bytes by group, and the largest batch that fits.

use std::fmt;

use super::format;

/// What a run will take of a device's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The device's name.
    pub device: String,
    /// Name and bytes of each group, as they are to be printed.
    pub groups: Vec<(String, u64)>,
    /// Bytes that the device has for this process, if it says.
    pub budget: Option<u64>,
    /// The largest `--batch-size` that fits, 0 if none does, if the device says what it has.
    pub largest_batch: Option<usize>,
}

impl MemoryPlan {
    /// Bytes of all groups.
    pub fn total(&self) -> u64 {
        self.groups.iter().map(|group| group.1).sum()
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "memory on {}", self.device)?;
        let width = self.groups.iter().map(|group| group.0.len()).max().unwrap_or(0).max("total".len());
        for (name, bytes) in &self.groups {
            writeln!(f, "  {name:width$} {:>12}", format::bytes(*bytes))?;
        }
        write!(f, "  {:width$} {:>12}", "total", format::bytes(self.total()))?;
        if let Some(budget) = self.budget {
            write!(f, " of {}", format::bytes(budget))?;
        }
        match self.largest_batch {
            Some(0) => write!(f, "; not even --batch-size 1 fits"),
            Some(largest) => write!(f, "; the largest --batch-size that fits is {largest}"),
            None => Ok(()),
        }
    }
}
