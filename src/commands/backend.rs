//! Where a command runs: the CPU executor or a Vulkan device, chosen once and able to load programs.

use std::sync::Arc;

use crate::config::{DeviceChoice, ModelConfig};
use crate::cpu::CpuExecutor;
use crate::error::{Error, Result};
use crate::recording::{Executor, Program, Traits};
use crate::report::MemoryPlan;
use crate::vulkan::{Device, DeviceInfo, Kind, Selection, devices};

/// An open device.
#[derive(Clone)]
pub enum Backend {
    Cpu,
    Vulkan(Arc<Device>),
}

/// A backend and why it was taken.
pub struct Chosen {
    pub backend: Backend,
    /// One sentence for the log; `None` where the user's own choice says enough.
    pub why: Option<String>,
}

impl Backend {
    /// Opens what `--device` asks for.
    ///
    /// `auto` takes the best GPU that keeps the exact contract, else the CPU executor: it gives the
    /// same bits as software Vulkan, faster.
    pub fn open(choice: &DeviceChoice) -> Result<Chosen> {
        match choice {
            DeviceChoice::Cpu => Ok(Chosen { backend: Backend::Cpu, why: None }),
            DeviceChoice::Index(index) => Backend::open_vulkan(&Selection::Index(*index)),
            DeviceChoice::Name(name) => Backend::open_vulkan(&Selection::Name(name.clone())),
            DeviceChoice::Auto => Backend::open_best(),
        }
    }

    fn open_vulkan(selection: &Selection) -> Result<Chosen> {
        Ok(Chosen { backend: Backend::Vulkan(Device::open(selection, false)?), why: None })
    }

    fn open_best() -> Result<Chosen> {
        let found = devices();
        let usable = |d: &&DeviceInfo| d.exact && d.kind != Kind::Cpu;
        if found.as_ref().is_ok_and(|all| all.iter().any(|d| usable(&d))) {
            let backend = Backend::Vulkan(Device::open(&Selection::Auto, false)?);
            return Ok(Chosen { backend, why: Some("the best Vulkan GPU here".into()) });
        }
        let why = match &found {
            Err(error) => first_clause(&error.to_string()),
            Ok(all) => format!("no usable Vulkan GPU ({})", summarize(all)),
        };
        Ok(Chosen { backend: Backend::Cpu, why: Some(why) })
    }

    /// The name that results and checkpoints carry.
    pub fn name(&self) -> String {
        match self {
            Backend::Cpu => "CPU executor".to_owned(),
            Backend::Vulkan(device) => device.info().name.clone(),
        }
    }

    /// The driver's name and version, or hlx's own.
    pub fn driver(&self) -> String {
        match self {
            Backend::Cpu => format!("hlx {}", env!("CARGO_PKG_VERSION")),
            Backend::Vulkan(device) => device.info().driver.clone(),
        }
    }

    pub fn traits(&self) -> Traits {
        match self {
            Backend::Cpu => CpuExecutor::TRAITS,
            Backend::Vulkan(device) => device.traits(),
        }
    }

    /// Bytes that a program may take, if the system says.
    pub fn memory_budget_bytes(&self) -> Option<u64> {
        match self {
            Backend::Cpu => {
                let mut system = sysinfo::System::new().ok()?;
                system.refresh_memory();
                Some(system.available_memory())
            }
            Backend::Vulkan(device) => Some(device.memory_budget_bytes()),
        }
    }

    /// The longest buffer that a kernel can bind, if there is a limit beside the memory.
    pub fn largest_buffer_bytes(&self) -> Option<u64> {
        match self {
            Backend::Cpu => None,
            Backend::Vulkan(device) => {
                let info = device.info();
                Some(info.max_storage_range_bytes.min(info.max_allocation_bytes))
            }
        }
    }

    /// Takes the memory of a program and makes it ready to run.
    pub fn load(&self, program: Program) -> Result<Box<dyn Executor>> {
        Ok(match self {
            Backend::Cpu => Box::new(CpuExecutor::load(program)?),
            Backend::Vulkan(device) => Box::new(crate::vulkan::VulkanExecutor::load(device, program)?),
        })
    }

    /// True if a program fits this device.
    pub fn fits(&self, program: &Program) -> bool {
        self.fits_into(program, self.memory_budget_bytes())
    }

    fn fits_into(&self, program: &Program, budget: Option<u64>) -> bool {
        let total: u64 = program.bytes_by_group().values().sum();
        let largest = program.largest_buffer().map_or(0, |b| 4 * b.words as u64);
        budget.is_none_or(|budget| total <= budget)
            && self.largest_buffer_bytes().is_none_or(|limit| largest <= limit)
    }
}

/// What is wrong, without what to do about it: here nothing needs to be done.
fn first_clause(message: &str) -> String {
    message.split(':').next().unwrap_or_default().to_owned()
}

fn summarize(all: &[DeviceInfo]) -> String {
    let each = all.iter().map(|d| match (&d.reason, d.kind) {
        (Some(reason), _) => format!("{}: {reason}", d.name),
        (None, Kind::Cpu) => {
            format!("{} is software, slower than the CPU executor; --device {} takes it", d.name, d.index)
        }
        (None, _) => d.name.clone(),
    });
    each.collect::<Vec<_>>().join("; ")
}

/// The error for a product that is too large.
pub fn too_large(backend: &Backend, [m, k, n]: [usize; 3]) -> Error {
    Error::Usage(format!("{m} x {k} x {n} does not fit {}: give smaller sizes", backend.name()))
}

/// The largest batch size in `1..=limit` for which `fits` holds, 0 if none, assuming that smaller ones
/// fit where a larger one does.
pub fn largest_batch(limit: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut good, mut bad) = (0, 1);
    while bad <= limit && fits(bad) {
        (good, bad) = (bad, bad * 2);
    }
    bad = bad.min(limit + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle) { good = middle } else { bad = middle }
    }
    good
}

/// The memory plan of a program for `batch_size` windows at once, or the error that says which batch
/// would fit. `program` makes it for any batch size; `hint` says what makes up for a smaller one.
pub fn plan(
    backend: &Backend,
    model: &ModelConfig,
    batch_size: usize,
    hint: &str,
    program: impl Fn(usize) -> Program,
) -> Result<MemoryPlan> {
    let limit = model.max_batch_size();
    // Asked once: what is free changes while the search goes on.
    let budget = backend.memory_budget_bytes();
    let largest = largest_batch(limit, |batch| backend.fits_into(&program(batch), budget));
    let name = backend.name();
    if largest == 0 {
        return Err(Error::Usage(format!(
            "the model does not fit {name} with any --batch-size: give a smaller --model or --context"
        )));
    }
    if batch_size > largest {
        return Err(Error::Usage(format!(
            "--batch-size {batch_size} does not fit {name}: the largest that fits is {largest}{hint}"
        )));
    }
    let groups = program(batch_size).bytes_by_group();
    Ok(MemoryPlan {
        device: name,
        groups: groups
            .into_iter()
            .map(|(group, bytes)| (format!("{group:?}").to_lowercase(), bytes))
            .collect(),
        budget,
        largest_batch: Some(largest),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_batch_is_found_wherever_the_limit_lies() {
        for enough in 0..70 {
            for limit in [1, 2, 3, 31, 64, 100] {
                assert_eq!(largest_batch(limit, |batch| batch <= enough), enough.min(limit));
            }
        }
    }
}
