//! Times of fused attention in `mixed` by the device's clock, every variant checked against the f32 kernels:
//! `cargo bench --bench attention -- [DEVICE] [BxHxTxD] [SHOWN] [RUNS]`.
//!
//! Prints the fastest SHOWN variants of each kernel, the one that is taken marked, and the sum of those
//! taken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hlx::exact::fill_normal;
use hlx::ops::Recorder;
use hlx::ops::attention::{BackwardViews, ForwardViews, FusedAttention, PARTS, Part};
use hlx::ops::pack::{pack_on_host, unpack_on_host};
use hlx::ops::softmax::AttentionShape;
use hlx::precision::Precision;
use hlx::recording::{Dispatch, Executor, Group, MatrixUnits, Program, RecordingId, Residence, Traits, View};
use hlx::vulkan::{Device, Selection, VulkanExecutor};

/// Everything is timed so many times in turn: a device's clock rate wanders.
const ROUNDS: usize = 4;

/// How long the device is kept busy beforehand.
const WARM: Duration = Duration::from_millis(300);

/// What a variant's results may be off by, of their norm; its heads' gradient has the standard deviation
/// D_SIZE.
const LIMIT: f64 = 4e-3;
const D_SIZE: f64 = 1e-3;

/// A kernel to be timed.
struct Candidate {
    part: Part,
    name: String,
    taken: bool,
    /// How far its results are from the f32 kernels'.
    error: f64,
    /// Of every round.
    runs_ms: Vec<f64>,
}

fn main() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let argument = |n: usize, default: &str| arguments.get(n).map_or(default.to_string(), String::clone);
    let selection: Selection = argument(0, "auto").parse().expect("every text names a device");
    let sizes: Vec<usize> =
        argument(1, "16x12x1024x64").split('x').map(|n| n.parse().expect("BxHxTxD")).collect();
    let [batch, n_head, context, d_head] = sizes[..] else { panic!("a shape is BxHxTxD") };
    let shape = AttentionShape { batch, context, n_head, d_head };
    let shown: usize = argument(2, "8").parse().expect("a number of variants");
    let runs: usize = argument(3, "4").parse().expect("a number of runs");
    let device = Device::open(&selection, false).unwrap_or_else(|error| panic!("{error}"));
    println!(
        "{}, {:?}, B{batch} H{n_head} T{context} d{d_head}",
        device.info().name,
        device.info().matrix_units
    );
    for traits in all_traits(&device) {
        let mut candidates = time(&device, shape, &traits, runs);
        print(shape, &mut candidates, shown);
    }
}

/// In mixed in registers and through memory, as far as the device offers them.
fn all_traits(device: &Device) -> Vec<Traits> {
    let units = device.traits().matrix_units.expect("a device with matrix units");
    let ways = [true, false].into_iter().filter(|&in_registers| units.in_registers || !in_registers);
    ways.map(|in_registers| Traits {
        precision: Precision::Mixed,
        fast_shared_memory: true,
        matrix_units: Some(MatrixUnits { in_registers, ..units }),
        ..device.traits()
    })
    .collect()
}

/// A program of attention, and what its kernels read and write.
struct Built {
    program: Program,
    views: BackwardViews,
}

impl Built {
    fn new(shape: AttentionShape, fused: &FusedAttention) -> Built {
        let mut program = Program::default();
        let mut add =
            |name: &str, words| program.add_buffer(name, words, Group::Activations, Residence::Device);
        let elements = shape.rows() * shape.d_head;
        let forward = ForwardViews {
            qkv: add("qkv", fused.words(3 * elements)),
            step_number: add("step_number", 2),
            heads: add("heads", fused.words(elements)),
            lse: add("lse", shape.rows()),
        };
        let views = BackwardViews {
            forward,
            d_heads: add("d_heads", fused.words(elements)),
            delta: add("delta", shape.rows()),
            d_qkv: add("d_qkv", fused.words(3 * elements)),
        };
        Built { program, views }
    }

    fn dispatches(&self, fused: &FusedAttention, traits: &Traits) -> Vec<Dispatch> {
        let mut r = Recorder::new(*traits, None);
        fused.forward(&mut r, &self.views.forward);
        fused.backward(&mut r, &self.views);
        r.dispatches
    }

    /// Loads the program, and writes what is read: normal numbers that 16 bits hold.
    fn load(&mut self, device: &Arc<Device>, fused: &FusedAttention) -> VulkanExecutor {
        let mut executor = VulkanExecutor::load(device, std::mem::take(&mut self.program)).expect("it fits");
        for (view, size) in [(self.views.forward.qkv, 1.0), (self.views.d_heads, D_SIZE)] {
            let gradient = view == self.views.d_heads;
            let count = if fused.packs() { 2 * view.words } else { view.words };
            let mut numbers = vec![0.0; count.min(1 << 20)];
            fill_normal(&mut numbers, size, 1, u32::from(gradient), 0);
            numbers.iter_mut().for_each(|x| *x = f32::from_bits(x.to_bits() & 0xffff_0000));
            let words = match fused.packing() {
                Some(factor) => pack_on_host(&numbers, factor, gradient),
                None => numbers.iter().map(|x| x.to_bits()).collect(),
            };
            let words: Vec<u32> = words.into_iter().cycle().take(view.words).collect();
            executor.write(view, &words).expect("the device works");
        }
        executor
    }

    /// The heads' outputs and the gradient of queries, keys and values, by a recording.
    fn results(
        &self,
        executor: &mut VulkanExecutor,
        recording: RecordingId,
        fused: &FusedAttention,
    ) -> [Vec<f32>; 2] {
        let written = [self.views.forward.heads, self.views.d_qkv];
        for view in written {
            executor.write(view, &vec![u32::MAX; view.words]).expect("the device works");
        }
        executor.submit(recording, &[]).expect("the device works");
        written.map(|view: View| {
            let words = executor.read(view).expect("the device works");
            match fused.packing() {
                Some(factor) => unpack_on_host(&words, factor, view == self.views.d_qkv),
                None => words.into_iter().map(f32::from_bits).collect(),
            }
        })
    }
}

/// The fused kernels that are taken, and every variant of each part.
fn variants(shape: AttentionShape, traits: &Traits) -> (FusedAttention, Vec<(Part, FusedAttention)>) {
    let taken = FusedAttention::any(shape, None, traits).expect("there is a kernel").packed();
    let all =
        PARTS.into_iter().flat_map(|part| taken.variants(part, traits).into_iter().map(move |v| (part, v)));
    (taken, all.collect())
}

/// How far each variant's results are from the f32 kernels', on heads of the same width.
fn errors(device: &Arc<Device>, d_head: usize, traits: &Traits) -> Vec<f64> {
    let shape = AttentionShape { batch: 1, n_head: 2, context: 520, d_head };
    let plain = FusedAttention::any(shape, None, &Traits { precision: Precision::F32, ..*traits });
    let plain = plain.expect("there is a kernel");
    let mut built = Built::new(shape, &plain);
    let dispatches = built.dispatches(&plain, traits);
    built.program.add_recording("plain", dispatches);
    let mut executor = built.load(device, &plain);
    let wanted = built.results(&mut executor, RecordingId(0), &plain);
    let (taken, all) = variants(shape, traits);
    let mut built = Built::new(shape, &taken);
    for (number, (_, variant)) in all.iter().enumerate() {
        let dispatches = built.dispatches(variant, traits);
        built.program.add_recording(&format!("variant {number}"), dispatches);
    }
    let mut executor = built.load(device, &taken);
    let one = |number: usize| {
        let got = built.results(&mut executor, RecordingId(number), &taken);
        wanted.iter().zip(&got).map(|(wanted, got)| departure(wanted, got)).fold(0.0, worse)
    };
    (0..all.len()).map(one).collect()
}

/// The larger; NaN if any is.
fn worse(a: f64, b: f64) -> f64 {
    if b.is_nan() || b > a { b } else { a }
}

/// The norm of the difference, of the wanted numbers'.
fn departure(wanted: &[f32], got: &[f32]) -> f64 {
    let (mut off, mut size) = (0.0, 0.0);
    for (&wanted, &got) in wanted.iter().zip(got) {
        let [wanted, got] = [wanted, got].map(f64::from);
        off += (got - wanted) * (got - wanted);
        size += wanted * wanted;
    }
    (off / size).sqrt()
}

fn time(device: &Arc<Device>, shape: AttentionShape, traits: &Traits, runs: usize) -> Vec<Candidate> {
    let errors = errors(device, shape.d_head, traits);
    let (taken, all) = variants(shape, traits);
    let mut built = Built::new(shape, &taken);
    let mut dispatches = Vec::new();
    let mut candidates = Vec::new();
    for ((part, variant), error) in all.iter().zip(errors) {
        let dispatch = built.dispatches(variant, traits).swap_remove(*part as usize);
        let kernel = dispatch.kernel.name();
        let taken = *variant == taken;
        let name = format!("{kernel} {}", variant.describe(*part));
        dispatches.push(dispatch);
        candidates.push(Candidate { part: *part, name, taken, error, runs_ms: Vec::new() });
    }
    let count = dispatches.len();
    built.program.add_recording("attention", dispatches);
    let mut executor = built.load(device, &taken);
    let mut round = |runs: usize| {
        for (i, candidate) in candidates.iter_mut().enumerate().take(count) {
            let timing = executor.time_range(RecordingId(0), i..i + 1, runs).expect("a clock");
            candidate.runs_ms.extend(timing.runs_ms);
        }
    };
    let start = Instant::now();
    while start.elapsed() < WARM {
        round(1);
    }
    (0..ROUNDS).for_each(|_| round(runs));
    candidates
}

fn print(shape: AttentionShape, candidates: &mut [Candidate], shown: usize) {
    let AttentionShape { batch, n_head, context, d_head } = shape;
    let median = |candidate: &Candidate| {
        let mut runs_ms = candidate.runs_ms.clone();
        runs_ms.sort_by(f64::total_cmp);
        runs_ms[runs_ms.len() / 2]
    };
    let (mut sum_ms, mut best_ms) = (0.0, 0.0);
    for part in PARTS {
        let mut of_part: Vec<&Candidate> = candidates.iter().filter(|c| c.part == part).collect();
        of_part.sort_by(|a, b| median(a).total_cmp(&median(b)));
        for (place, candidate) in of_part.iter().enumerate() {
            let ms = median(candidate);
            // Products of the half of the scores below the diagonal that the kernel calculates.
            let products = [2.0, 3.0, 4.0][part as usize];
            let teraflops = products * (batch * n_head * context * context * d_head) as f64 / ms * 1e-9;
            let wrong = candidate.error.is_nan() || candidate.error > LIMIT;
            if candidate.taken {
                sum_ms += ms;
            }
            if place == 0 {
                best_ms += ms;
            }
            if place < shown || candidate.taken || wrong {
                let mark = if candidate.taken { "*" } else { " " };
                let wrong = if wrong { "  WRONG" } else { "" };
                let Candidate { name, error, .. } = candidate;
                println!("{mark} {name:<84} {ms:>7.4} ms {teraflops:>6.1} TFLOP/s, error {error:.1e}{wrong}");
            }
        }
    }
    println!("  sum of those taken {sum_ms:.4} ms, of the fastest {best_ms:.4} ms");
}
