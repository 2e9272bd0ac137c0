//! Where a command runs: the CPU executor or a Vulkan device, chosen once and able to load programs.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{DeviceChoice, ModelConfig, Precision};
use crate::cpu::CpuExecutor;
use crate::error::{Error, Result};
use crate::model::parameters::parameter_count;
use crate::ops::admission::{self, Difference};
use crate::ops::trial;
use crate::recording::{Executor, Program, Traits};
use crate::report::{MemoryPlan, format};
use crate::vulkan::{Device, DeviceInfo, Kind, Selection, VulkanExecutor, devices};

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

impl fmt::Display for Chosen {
    /// The backend, its driver, and why it was taken, if that is to be said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.backend.name(), self.backend.driver())?;
        self.why.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

impl Chosen {
    /// The error of a device that lacks a precision: where nobody asked for it, with why it was taken.
    fn not_offered(&self, precision: Precision, reason: &str) -> Error {
        let fallback = self.why.as_ref().filter(|_| matches!(self.backend, Backend::Cpu));
        let why = fallback.map_or(String::new(), |why| format!(" (taken because: {why})"));
        Error::NoDevice(format!(
            "{}{why} does not offer --precision {precision}: {reason}. Take --precision f32 or exact, or \
             another --device",
            self.backend.name()
        ))
    }
}

impl Backend {
    /// Opens what `--device` asks for, if it offers `precision`.
    ///
    /// `auto` takes the best GPU that keeps the exact contract, else the CPU executor: it gives the
    /// same bits as software Vulkan, faster.
    pub fn open(choice: &DeviceChoice, precision: Precision) -> Result<Chosen> {
        let chosen = match choice {
            DeviceChoice::Cpu => Chosen { backend: Backend::Cpu, why: None },
            DeviceChoice::Index(index) => Backend::open_vulkan(&Selection::Index(*index))?,
            DeviceChoice::Name(name) => Backend::open_vulkan(&Selection::Name(name.clone()))?,
            DeviceChoice::Auto => Backend::open_best()?,
        };
        match chosen.backend.lacks(precision) {
            None => {
                chosen.backend.try_products(precision)?;
                Ok(chosen)
            }
            Some(reason) => Err(chosen.not_offered(precision, &reason)),
        }
    }

    /// Why this backend does not offer a precision, if so.
    ///
    /// The CPU executor, and software Vulkan, calculate `f32` as they do `exact`: nothing else is faster
    /// there.
    pub fn lacks(&self, precision: Precision) -> Option<String> {
        if precision != Precision::Mixed {
            return None;
        }
        let Backend::Vulkan(device) = self else { return Some("it has no matrix units".to_owned()) };
        lacks_units(device.info())
    }

    /// Holds the products of a precision to the exact ones before anything is trusted to them.
    fn try_products(&self, precision: Precision) -> Result<()> {
        let Backend::Vulkan(device) = self else { return Ok(()) };
        let traits = self.traits(precision);
        if !traits.wants_fast_kernels() {
            return Ok(());
        }
        let load = |program| VulkanExecutor::load(device, program);
        match trial::first_departure(traits, CpuExecutor::load, load)? {
            None => Ok(()),
            Some(departure) => Err(Error::NoDevice(format!(
                "{} multiplies wrongly in --precision {precision}: {departure}. Take --precision exact, \
                 update its driver, or choose another --device",
                self.name()
            ))),
        }
    }

    fn open_vulkan(selection: &Selection) -> Result<Chosen> {
        Ok(Chosen { backend: Backend::Vulkan(open_admitted(selection)?), why: None })
    }

    fn open_best() -> Result<Chosen> {
        let found = devices();
        let usable = |d: &&DeviceInfo| d.exact && d.kind != Kind::Cpu;
        if found.as_ref().is_ok_and(|all| all.iter().any(|d| usable(&d))) {
            return match open_admitted(&Selection::Auto) {
                Ok(device) => {
                    let why = Some("the best Vulkan GPU here".into());
                    Ok(Chosen { backend: Backend::Vulkan(device), why })
                }
                // The best GPU breaks its promise: the CPU executor gives the right bits.
                Err(Error::NoDevice(text)) => Ok(Chosen { backend: Backend::Cpu, why: Some(text) }),
                Err(other) => Err(other),
            };
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

    /// The precisions that it offers.
    pub fn offered(&self) -> Vec<Precision> {
        Precision::ALL.iter().copied().filter(|&precision| self.lacks(precision).is_none()).collect()
    }

    /// What a program of this precision may know of it.
    pub fn traits(&self, precision: Precision) -> Traits {
        let traits = match self {
            Backend::Cpu => CpuExecutor::TRAITS,
            Backend::Vulkan(device) => device.traits(),
        };
        Traits { precision, ..traits }
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

    /// Takes the memory of a program and makes it ready to run.
    pub fn load(&self, program: Program) -> Result<Box<dyn Executor>> {
        Ok(match self {
            Backend::Cpu => Box::new(CpuExecutor::load(program)?),
            Backend::Vulkan(device) => Box::new(VulkanExecutor::load(device, program)?),
        })
    }

    /// True if a program fits this device.
    pub fn fits(&self, program: &Program) -> bool {
        self.obstacle(program).is_none()
    }

    /// Why a program does not fit this device, if it does not.
    pub fn obstacle(&self, program: &Program) -> Option<String> {
        self.obstacle_within(program, self.memory_budget_bytes())
    }

    /// The same with so much memory free.
    fn obstacle_within(&self, program: &Program, budget: Option<u64>) -> Option<String> {
        let total: u64 = program.bytes_by_group().values().sum();
        match (budget, self) {
            (Some(budget), _) if total > budget => {
                Some(format!("it takes {}, and {} are free", format::bytes(total), format::bytes(budget)))
            }
            (_, Backend::Vulkan(device)) => device.past_limit(program),
            (_, Backend::Cpu) => None,
        }
    }
}

/// Opens a device and tries every kernel on it before anything is trusted to it.
fn open_admitted(selection: &Selection) -> Result<Arc<Device>> {
    let device = Device::open(selection, false)?;
    match probe(&device)? {
        None => Ok(device),
        Some(difference) => Err(not_admitted(&device.info().name, &difference)),
    }
}

/// The first difference between an open device and the CPU twins, over every kernel.
pub fn probe(device: &Arc<Device>) -> Result<Option<Difference>> {
    let start = Instant::now();
    let load = |program| VulkanExecutor::load(device, program);
    let difference = admission::first_difference(device.traits(), CpuExecutor::load, load)?;
    let ms = start.elapsed().as_secs_f64() * 1e3;
    tracing::info!("tried every kernel on {} against its CPU twin in {ms:.0} ms", device.info().name);
    Ok(difference)
}

fn not_admitted(name: &str, difference: &Difference) -> Error {
    Error::NoDevice(format!(
        "{name} does not keep the exact contract: {difference}. Update its driver, or choose another --device"
    ))
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

/// Tokens that a kernel can have as rows of a matrix: 65,535 workgroups of 8.
const MAX_VOCABULARY: usize = 8 * 65_535;

/// Refuses a model that the kernels cannot address: they count words in 32 bits, of which hlx uses 31.
pub fn check_addressable(model: &ModelConfig) -> Result<()> {
    let parameters = parameter_count(model);
    if parameters > 1 << 31 {
        return Err(Error::Usage(format!(
            "a model of {} parameters is past the {} that hlx can address: give a smaller --d-model, \
             --n-layer or --d-ff",
            format::count(parameters as f64),
            format::count((1u64 << 31) as f64)
        )));
    }
    if model.vocab_size > MAX_VOCABULARY {
        return Err(Error::Input(format!(
            "{} different characters are more than the {MAX_VOCABULARY} that hlx can tell apart: give a text \
             with fewer",
            model.vocab_size
        )));
    }
    Ok(())
}

/// Copies of the parameters or of a moment that the host holds at most beside the program: the state that
/// training started from, and while it saves the state as read, as tensors and as files.
pub const COPIES_TO_TRAIN: u64 = 15;
/// The starting state, and the state as read and as tensors to be hashed.
pub const COPIES_TO_VERIFY: u64 = 9;
/// As loaded, and as packed for the device.
pub const COPIES_TO_EVALUATE: u64 = 3;

/// The memory plan of a program for `batch_size` windows at once, or the error that says which batch
/// would fit. `program` makes it for any batch size; `hint` says what makes up for a smaller one. On the
/// CPU executor the host's own `copies` of the parameters count too.
pub fn plan(
    backend: &Backend,
    model: &ModelConfig,
    batch_size: usize,
    hint: &str,
    copies: u64,
    program: impl Fn(usize) -> Program,
) -> Result<MemoryPlan> {
    check_addressable(model)?;
    let limit = model.max_batch_size();
    // Asked once: what is free changes while the search goes on.
    let budget = backend.memory_budget_bytes();
    let host_bytes = match backend {
        Backend::Cpu => 4 * copies * parameter_count(model) as u64,
        Backend::Vulkan(_) => 0,
    };
    let left = budget.map(|budget| budget.saturating_sub(host_bytes));
    let obstacle = |batch| backend.obstacle_within(&program(batch), left);
    let largest = largest_batch(limit, |batch| obstacle(batch).is_none());
    let name = backend.name();
    // Of the smallest batch that does not fit. Past the limit, tensors may not even be countable.
    let why = || {
        let countable = if largest < limit { obstacle(largest + 1) } else { None };
        countable.unwrap_or_else(|| "a tensor would have too many elements".to_owned())
    };
    if largest == 0 {
        return Err(Error::Usage(format!(
            "the model does not fit {name} with any --batch-size ({}): give a smaller --model or --context",
            why()
        )));
    }
    if batch_size > largest {
        return Err(Error::Usage(format!(
            "--batch-size {batch_size} does not fit {name} ({}): the largest that fits is {largest}{hint}",
            why()
        )));
    }
    let groups = program(batch_size).bytes_by_group();
    let named = groups.into_iter().map(|(group, bytes)| (format!("{group:?}").to_lowercase(), bytes));
    let host = (host_bytes > 0).then(|| ("host copies".to_owned(), host_bytes));
    Ok(MemoryPlan { device: name, groups: named.chain(host).collect(), budget, largest_batch: Some(largest) })
}

/// Why products on a device's matrix units are not offered, if so.
fn lacks_units(info: &DeviceInfo) -> Option<String> {
    let needed = Traits::FAST_SHARED_BYTES as u64;
    match &info.no_matrix_units {
        Some(reason) => Some(format!("it has no matrix units that hlx can use ({reason})")),
        None if info.kind == Kind::Cpu => {
            Some("its matrix units are software, no faster than plain arithmetic".to_owned())
        }
        None if info.shared_memory_bytes < needed => Some(format!(
            "its workgroups share {} of memory, and the kernels for matrix units take {}",
            format::bytes(info.shared_memory_bytes),
            format::bytes(needed)
        )),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Preset, TrainConfig, TrainOptions};
    use crate::kernels::Element;
    use crate::train::program::{StepShape, TrainProgram};
    use crate::train::run::step_shape;
    use crate::vulkan::Simulation;

    /// Software Vulkan, made worse than it is.
    fn simulated(lower: fn(&mut DeviceInfo)) -> Backend {
        let install = "this test needs software Vulkan (Debian and Ubuntu: apt install mesa-vulkan-drivers)";
        let all = devices().unwrap_or_else(|error| panic!("{error}; {install}"));
        let software = all.iter().find(|d| d.kind == Kind::Cpu).unwrap_or_else(|| panic!("{install}"));
        let simulation = Simulation { lower: Some(lower), ..Default::default() };
        let device = Device::open_simulated(&Selection::Index(software.index), false, simulation);
        Backend::Vulkan(device.unwrap_or_else(|error| panic!("{error}; {install}")))
    }

    #[test]
    fn a_device_that_differs_is_refused_with_kernel_element_and_values() {
        let difference = Difference {
            kernel: "softmax_forward".into(),
            output: "output",
            element: 7,
            wanted: 0x3f80_0000,
            got: 0x3f80_0001,
            type_: Element::F32,
        };
        let error = not_admitted("some card", &difference);
        assert_eq!(error.exit_code(), 4);
        let text = error.to_string();
        assert!(text.contains("some card") && text.contains("softmax_forward gives output[7]"), "{text}");
        assert!(text.contains("0x3f800001") && text.contains("0x3f800000"), "{text}");
    }

    #[test]
    fn a_device_that_nobody_asked_for_says_why_it_was_taken() {
        let chosen = |why: Option<&str>| Chosen { backend: Backend::Cpu, why: why.map(str::to_owned) };
        let error = chosen(Some("no usable Vulkan GPU (a card: no float controls)"));
        let error = error.not_offered(Precision::Mixed, "it has no matrix units");
        assert_eq!(error.exit_code(), 4);
        let text = error.to_string();
        let start = "CPU executor (taken because: no usable Vulkan GPU (a card: no float controls)) does not \
                     offer --precision mixed: it has no matrix units. Take ";
        assert!(text.starts_with(start), "{text}");
        // Where the user's own choice says enough.
        let text = chosen(None).not_offered(Precision::Mixed, "it has no matrix units").to_string();
        assert!(text.starts_with("CPU executor does not offer"), "{text}");

        // What `open` itself says of the device that it takes.
        let open = |choice| Backend::open(&choice, Precision::Mixed).err().map(|error| error.to_string());
        let asked = open(DeviceChoice::Cpu).expect("the CPU executor has no matrix units");
        assert!(!asked.contains("taken because"), "{asked}");
        let best = Backend::open_best().expect("the CPU executor is always there");
        if let (Backend::Cpu, Some(why)) = (&best.backend, &best.why) {
            let said = open(DeviceChoice::Auto).expect("the CPU executor has no matrix units");
            assert!(said.contains(&format!("(taken because: {why})")), "{said}");
        } else {
            assert!(open(DeviceChoice::Auto).is_none_or(|said| !said.contains("taken because")));
        }
    }

    #[test]
    fn a_device_says_why_it_lacks_matrix_units() {
        let lacking = simulated(|info| {
            info.kind = Kind::Discrete;
            info.no_matrix_units = Some("its subgroups lack shuffle".to_owned());
        });
        let reason = "it has no matrix units that hlx can use (its subgroups lack shuffle)";
        assert_eq!(lacking.lacks(Precision::Mixed).as_deref(), Some(reason));
        assert_eq!(lacking.offered(), [Precision::Exact, Precision::F32]);
        let Backend::Vulkan(device) = &lacking else { panic!("it is a Vulkan device") };
        let able = DeviceInfo { no_matrix_units: None, ..device.info().clone() };
        assert_eq!(lacks_units(&able), None);
        let cramped = DeviceInfo { shared_memory_bytes: 16 << 10, ..able };
        let said = lacks_units(&cramped).expect("the kernels do not fit");
        assert!(said.contains("16.0 KiB of memory"), "{said}");
        let with = |info: &mut DeviceInfo| info.no_matrix_units = None;
        let software = simulated(with).lacks(Precision::Mixed).expect("software is no faster by them");
        assert!(software.contains("software"), "{software}");
    }

    #[test]
    fn the_largest_batch_is_found_wherever_the_limit_lies() {
        for enough in 0..70 {
            for limit in [1, 2, 3, 31, 64, 100] {
                assert_eq!(largest_batch(limit, |batch| batch <= enough), enough.min(limit));
            }
        }
    }

    #[test]
    fn a_batch_past_a_limit_is_refused_with_the_limit_and_the_largest_that_fits() {
        let backend = simulated(|info| info.max_storage_range_bytes = 1 << 20);
        let options = TrainOptions { model: Some(Preset::Nano), ..TrainOptions::default() };
        let config = TrainConfig::resolve(options, None).unwrap();
        let shape = step_shape(&config, 65);
        let program = |batch_size| {
            TrainProgram::new(&StepShape { batch_size, ..shape.clone() }, backend.traits(Precision::Exact))
                .program
        };
        let plan = |batch_size| plan(&backend, &shape.model, batch_size, "", 0, program);
        // The widest tensor, [B*64, 512], is just a mebibyte for 8 windows; the arena is cut into pieces.
        assert_eq!(plan(8).unwrap().largest_batch, Some(8));
        let error = plan(9).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        for words in ["--batch-size 9", "(maxStorageBufferRange)", "1.0 MiB", "the largest that fits is 8"] {
            assert!(text.contains(words), "{text}");
        }
    }
}
