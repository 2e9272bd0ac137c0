//! Tuning: before a program runs, the ways to compute its products are timed on its device, and what is
//! faster than the estimates' choice is taken.
//!
//! No bit depends on it: only ways that give the same bits take part, and each has to show it on random
//! factors. So what was found earlier, in a checkpoint or in a file, saves time and nothing else.

mod cache;
mod contest;
mod stand;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cache::{Cache, Place};
use contest::winner;
use stand::{Contestant, DeviceStand, StandProgram, is_possible};

use super::backend::{self, Backend};
use crate::checkpoint::RunState;
use crate::config::Precision;
use crate::error::Result;
use crate::kernels::kernels_hash;
use crate::ops::gemm::{Causal, Tunable, Tuning};
use crate::recording::{Program, Traits};
use crate::report::{MemoryPlan, say};
use crate::train::program::{StepShape, TrainProgram};
use crate::vulkan::{Device, Kind};

/// Products are tuned that have this share of a program's multiplications or more.
const LEAST_SHARE: f64 = 0.004;

/// How long all products together may take: those not reached by then keep their ways. The largest come
/// first.
const LONGEST: Duration = Duration::from_secs(5);

/// Products that are loaded at a time: enough to build their kernels on all cores.
const LOADED_TOGETHER: usize = 6;

/// Tunes programs, and remembers what was found.
pub struct Tuner {
    wanted: bool,
    cache: Cache,
    /// What this process or a checkpoint has found.
    known: Vec<(Place, BTreeMap<String, String>)>,
    warned: bool,
}

/// A product of a program that is worth tuning.
struct Entry {
    contestant: Contestant,
    key: String,
}

/// What came of some products on a device.
#[derive(Default)]
struct Findings {
    names: BTreeMap<String, String>,
    changed: usize,
    /// The largest.
    gain: f64,
    left: usize,
}

impl Tuner {
    /// Without `wanted`, every program keeps the estimates' choices.
    pub fn new(wanted: bool) -> Tuner {
        Tuner { wanted, cache: Cache::of_user(), known: Vec::new(), warned: false }
    }

    /// Takes over what the run of a checkpoint was computed by.
    pub fn remember(&mut self, state: &RunState, backend: &Backend) {
        let Some(place) = place(backend, state.precision) else { return };
        let same = (&state.device, &state.driver, &state.kernels_hash)
            == (&place.device, &place.driver, &place.kernels_hash);
        if same && !state.tuning.is_empty() {
            self.known.push((place, state.tuning.clone()));
        }
    }

    /// The memory plan of a training step with its products computed as they are to be, and how that is.
    /// `hint` and `copies` as for [`backend::plan`].
    ///
    /// # Errors
    /// As [`backend::plan`], before anything is timed.
    pub fn plan(
        &mut self,
        backend: &Backend,
        shape: &StepShape,
        precision: Precision,
        hint: &str,
        copies: u64,
    ) -> Result<(MemoryPlan, Tuning)> {
        let traits = backend.traits(precision);
        let plan = |tuning: &Tuning| {
            let program = |batch_size| {
                TrainProgram::tuned(&StepShape { batch_size, ..shape.clone() }, traits, tuning).program
            };
            backend::plan(backend, &shape.model, shape.batch_size, hint, copies, program)
        };
        let untuned = plan(&Tuning::default())?;
        let tuning = self.of_step(backend, shape, precision);
        // Sums in blocks take room of their own: where there is none, the step is not tuned.
        match plan(&tuning) {
            Ok(plan) => Ok((plan, tuning)),
            Err(_) => Ok((untuned, Tuning::default())),
        }
    }

    /// How the products of a training step are to be computed.
    pub fn of_step(&mut self, backend: &Backend, shape: &StepShape, precision: Precision) -> Tuning {
        match self.device(backend) {
            Some(_) => {
                let products = TrainProgram::new(shape, backend.traits(precision)).first.products;
                self.of_products(backend, precision, &products)
            }
            None => Tuning::default(),
        }
    }

    /// How some products are to be computed. If the device fails meanwhile they stay as they are, and no
    /// other is timed; what is loaded on a device that was lost fails then, as after any other loss.
    pub fn of_products(&mut self, backend: &Backend, precision: Precision, products: &[Tunable]) -> Tuning {
        let (Some(device), Some(place)) = (self.device(backend), place(backend, precision)) else {
            return Tuning::default();
        };
        let traits = backend.traits(precision);
        let entries = worthwhile(products, &traits);
        let mut names = self.recall(&place, &entries);
        // Nothing is kept of those that do not fit: another time, more memory may be free.
        let fits = |entry: &&Entry| {
            let alone = StandProgram::new(slice::from_ref(&entry.contestant), traits);
            let obstacle = backend.obstacle(&alone.program);
            obstacle.inspect(|why| tracing::info!("{} is not timed: {why}", entry.key)).is_none()
        };
        let unknown = entries.iter().filter(|entry| !names.contains_key(&entry.key));
        let missing: Vec<&Entry> = unknown.filter(fits).collect();
        if missing.is_empty() {
            tracing::info!("the tiles of {} products are known", names.len());
        } else {
            names.extend(self.time(backend, &device, &place, traits, &missing));
        }
        // A run that is resumed takes what it began with, so the rest is said too.
        for Entry { contestant, key } in &entries {
            names.entry(key.clone()).or_insert_with(|| contestant.ways[0].name());
        }
        Tuning { names }
    }

    /// Times products, says so, and remembers what was found; nothing if the device fails meanwhile.
    fn time(
        &mut self,
        backend: &Backend,
        device: &Arc<Device>,
        place: &Place,
        traits: Traits,
        missing: &[&Entry],
    ) -> BTreeMap<String, String> {
        say(format_args!("timing the tiles of {} products on {}", missing.len(), backend.name()));
        let start = Instant::now();
        match time_on(device, traits, |program| backend.fits(program), missing, LONGEST) {
            Ok(found) => {
                say(found.summary(start.elapsed()));
                self.keep(place, &found.names);
                found.names
            }
            Err(error) => {
                // Whoever opens the device again after a loss is not to lose it in the same way.
                self.wanted = false;
                tracing::warn!("the tiles could not be timed ({error}): they stay as they are");
                BTreeMap::new()
            }
        }
    }

    /// The device, if its products are to be tuned: a GPU that can take the time.
    fn device(&self, backend: &Backend) -> Option<Arc<Device>> {
        let Backend::Vulkan(device) = backend else { return None };
        let info = device.info();
        let can_be_timed = info.timestamp_period_ns > 0.0 && info.timestamp_bits > 0;
        (self.wanted && info.kind != Kind::Cpu && can_be_timed).then(|| Arc::clone(device))
    }

    /// The names that were found at this place before, of ways that there are.
    fn recall(&self, place: &Place, entries: &[Entry]) -> BTreeMap<String, String> {
        let here = self.known.iter().rev().filter(|(known, _)| known == place);
        let known: Vec<_> = here.map(|(_, names)| names.clone()).chain([self.cache.read(place)]).collect();
        let mut names = BTreeMap::new();
        for Entry { contestant, key } in entries {
            let said: Vec<&String> = known.iter().filter_map(|names| names.get(key)).collect();
            let is_one = |name: &&&String| contestant.ways.iter().any(|way| way.name() == ***name);
            if let Some(name) = said.iter().find(is_one) {
                names.insert(key.clone(), (*name).clone());
            } else if !said.is_empty() {
                tracing::warn!("what is known of the product {key} names no tile of it: it is timed anew");
            }
        }
        names
    }

    /// Remembers what was found, in the user's file too if that can be.
    fn keep(&mut self, place: &Place, names: &BTreeMap<String, String>) {
        self.known.push((place.clone(), names.clone()));
        if let Err(error) = self.cache.add(place, names)
            && !self.warned
        {
            self.warned = true;
            tracing::warn!("what was timed is not kept for the next run: {error}");
        }
    }
}

/// Where times hold; `None` on the CPU executor.
fn place(backend: &Backend, precision: Precision) -> Option<Place> {
    let Backend::Vulkan(device) = backend else { return None };
    let info = device.info();
    Some(Place {
        device: info.name.clone(),
        vendor_id: info.vendor_id,
        device_id: info.device_id,
        driver: info.driver.clone(),
        kernels_hash: kernels_hash(precision),
        precision,
    })
}

/// The different products that matter, those with the most work first.
fn worthwhile(products: &[Tunable], traits: &Traits) -> Vec<Entry> {
    let flops = |product: &Tunable| {
        let all = product.gemm().problem().flops() as f64;
        if product.gemm().causal == Causal::None { all } else { all / 2.0 }
    };
    let total: f64 = products.iter().map(flops).sum();
    let mut by_key: BTreeMap<String, (f64, &Tunable)> = BTreeMap::new();
    for product in products {
        by_key.entry(product.key()).or_insert((0.0, product)).0 += flops(product);
    }
    let mut found: Vec<_> =
        by_key.into_iter().filter(|(_, (work, _))| *work >= LEAST_SHARE * total).collect();
    found.sort_by(|(_, x), (_, y)| y.0.total_cmp(&x.0));
    let entry = |(key, (_, product)): (String, (f64, &Tunable))| {
        let contestant = Contestant { gemm: *product.gemm(), ways: product.ways(traits) };
        (contestant.ways.len() > 1 && is_possible(&contestant.gemm)).then_some(Entry { contestant, key })
    };
    found.into_iter().filter_map(entry).collect()
}

/// Times products on a device, some at a time. Those that do not fit keep their ways.
fn time_on(
    device: &Arc<Device>,
    traits: Traits,
    fits: impl Fn(&Program) -> bool,
    entries: &[&Entry],
    longest: Duration,
) -> Result<Findings> {
    let start = Instant::now();
    let mut findings = Findings::default();
    let mut left = entries;
    while !left.is_empty() && start.elapsed() < longest {
        let mut count = LOADED_TOGETHER.min(left.len());
        let program = loop {
            let contestants: Vec<_> = left[..count].iter().map(|entry| entry.contestant.clone()).collect();
            let program = StandProgram::new(&contestants, traits);
            if fits(&program.program) {
                break Some(program);
            }
            if count == 1 {
                break None;
            }
            count /= 2;
        };
        let (group, rest) = left.split_at(count);
        left = rest;
        let Some(program) = program else { continue };
        let mut stand = DeviceStand::load(device, program)?;
        let loaded = start.elapsed();
        stand.warm_up()?;
        tracing::info!("{count} products loaded after {loaded:.1?}, warm after {:.1?}", start.elapsed());
        for (number, entry) in group.iter().enumerate() {
            if start.elapsed() >= longest {
                findings.left += group.len() - number;
                break;
            }
            let verdict = winner(&mut stand, number)?;
            findings.add(entry, &verdict);
        }
    }
    findings.left += left.len();
    Ok(findings)
}

impl Findings {
    fn add(&mut self, entry: &Entry, verdict: &contest::Verdict) {
        let ways = &entry.contestant.ways;
        for &way in &verdict.wrong {
            let (key, name, first) = (&entry.key, ways[way].name(), ways[0].name());
            match way {
                0 => tracing::warn!("{key} by {first} does not repeat its own bits: it is not tuned"),
                _ => tracing::warn!("{key} by {name} has other bits than by {first}: it is not taken"),
            }
        }
        let name = ways[verdict.way].name();
        tracing::info!("{}: {name}, {:.2} x", entry.key, verdict.gain);
        self.names.insert(entry.key.clone(), name);
        self.changed += usize::from(verdict.way != 0);
        self.gain = self.gain.max(verdict.gain);
    }

    fn summary(&self, time: Duration) -> String {
        let gain =
            if self.changed > 0 { format!(", up to {:.2} x as fast", self.gain) } else { String::new() };
        let left = match self.left {
            0 => String::new(),
            left => format!("; {left} not reached in time"),
        };
        let (count, seconds) = (self.names.len(), time.as_secs_f64());
        format!("tuned {count} products in {seconds:.1} s, {} changed{gain}{left}", self.changed)
    }
}
