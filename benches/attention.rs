//! Times of fused attention by the device's clock: `cargo bench --bench attention -- [DEVICE] [RUNS]`.
//!
//! For each shape and precision the median of each kernel with each block size that fits, the one that is
//! taken marked, and the sum of those taken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hlx::exact::fill_normal;
use hlx::ops::Recorder;
use hlx::ops::attention::{BackwardViews, ForwardViews, FusedAttention, PARTS, Part};
use hlx::ops::softmax::AttentionShape;
use hlx::precision::Precision;
use hlx::recording::{Dispatch, Executor, Group, MatrixUnits, Program, RecordingId, Residence, Traits};
use hlx::vulkan::{Device, Selection, VulkanExecutor};

const SHAPES: [AttentionShape; 3] = [
    AttentionShape { batch: 16, n_head: 12, context: 1024, d_head: 64 },
    AttentionShape { batch: 64, n_head: 6, context: 256, d_head: 64 },
    AttentionShape { batch: 64, n_head: 4, context: 256, d_head: 32 },
];

/// Scores in a block, at least: smaller ones are for devices with little memory.
const LEAST: usize = 1024;

/// Everything is timed so many times in turn: a device's clock rate wanders.
const ROUNDS: usize = 5;

/// How long the device is kept busy beforehand.
const WARM: Duration = Duration::from_millis(300);

/// A kernel to be timed.
struct Candidate {
    part: Part,
    name: String,
    taken: bool,
    /// Of every round.
    runs_ms: Vec<f64>,
}

/// A shape and a precision, ready to run.
struct Loaded {
    shape: AttentionShape,
    title: String,
    executor: VulkanExecutor,
    candidates: Vec<Candidate>,
}

fn main() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let name = arguments.first().map_or("auto", String::as_str);
    let runs: usize = arguments.get(1).map_or(8, |n| n.parse().expect("a number of runs"));
    let selection: Selection = name.parse().expect("every text names a device");
    let device = Device::open(&selection, false).unwrap_or_else(|error| panic!("{error}"));
    println!("{}, {:?}", device.info().name, device.info().matrix_units);
    let all_traits = all_traits(&device);
    let mut all: Vec<Loaded> = SHAPES
        .iter()
        .flat_map(|&shape| all_traits.iter().map(move |traits| (shape, *traits)))
        .map(|(shape, traits)| Loaded::new(&device, shape, &traits))
        .collect();
    let start = Instant::now();
    while start.elapsed() < WARM {
        all.iter_mut().for_each(|loaded| loaded.time(1));
    }
    all.iter_mut().flat_map(|loaded| &mut loaded.candidates).for_each(|c| c.runs_ms.clear());
    for _ in 0..ROUNDS {
        all.iter_mut().for_each(|loaded| loaded.time(runs));
    }
    all.iter_mut().for_each(Loaded::print);
}

impl Loaded {
    fn new(device: &Arc<Device>, shape: AttentionShape, traits: &Traits) -> Loaded {
        let fused = FusedAttention::any(shape, None, traits).expect("there is a kernel");
        let (mut program, views) = program(shape);
        let (dispatches, candidates) = candidates(&fused, traits, &views);
        program.add_recording("attention", dispatches);
        let mut executor = VulkanExecutor::load(device, program).expect("it fits");
        for view in [views.forward.qkv, views.d_heads] {
            executor.write(view, &random_words(view.words)).expect("the device works");
        }
        let AttentionShape { batch, n_head, context, d_head } = shape;
        let title = format!("B{batch} H{n_head} T{context} d{d_head}, {}", traits.precision);
        Loaded { shape, title, executor, candidates }
    }

    fn time(&mut self, runs: usize) {
        for (i, candidate) in self.candidates.iter_mut().enumerate() {
            let timing = self.executor.time_range(RecordingId(0), i..i + 1, runs).expect("a clock");
            candidate.runs_ms.extend(timing.runs_ms);
        }
    }

    fn print(&mut self) {
        println!("{}", self.title);
        let AttentionShape { batch, n_head, context, d_head } = self.shape;
        let mut sums_ms = [0.0, 0.0];
        for candidate in &mut self.candidates {
            candidate.runs_ms.sort_by(f64::total_cmp);
            let (least, median) = (candidate.runs_ms[0], candidate.runs_ms[candidate.runs_ms.len() / 2]);
            // Products of the half of the scores below the diagonal that the kernel calculates.
            let products = [2.0, 3.0, 4.0][candidate.part as usize];
            let flops = products * (batch * n_head * context * context * d_head) as f64;
            let mark = if candidate.taken { "*" } else { " " };
            if candidate.taken {
                sums_ms[(candidate.part != Part::Forward) as usize] += median;
            }
            let teraflops = flops / median * 1e-9;
            println!(
                "{mark} {:<58} {median:>8.4} ms (least {least:.4}) {teraflops:>6.1} TFLOP/s",
                candidate.name
            );
        }
        let [forward, backward] = sums_ms;
        println!("  forward {forward:.4} + backward {backward:.4} = {:.4} ms", forward + backward);
    }
}

/// In f32, in mixed through memory, and in mixed in registers, as far as the device offers them.
fn all_traits(device: &Device) -> Vec<Traits> {
    let of = |precision, matrix_units| Traits {
        precision,
        fast_shared_memory: true,
        matrix_units,
        ..device.traits()
    };
    let mut all = vec![of(Precision::F32, None)];
    if let Some(units) = device.traits().matrix_units {
        let in_memory = MatrixUnits { in_registers: false, ..units };
        all.push(of(Precision::Mixed, Some(in_memory)));
        if units.in_registers {
            all.push(of(Precision::Mixed, Some(units)));
        }
    }
    all
}

fn program(shape: AttentionShape) -> (Program, BackwardViews) {
    let mut program = Program::default();
    let mut add = |name: &str, words| program.add_buffer(name, words, Group::Activations, Residence::Device);
    let words = shape.rows() * shape.d_head;
    let forward = ForwardViews {
        qkv: add("qkv", 3 * words),
        step_number: add("step_number", 2),
        heads: add("heads", words),
        lse: add("lse", shape.rows()),
    };
    let views = BackwardViews {
        forward,
        d_heads: add("d_heads", words),
        delta: add("delta", shape.rows()),
        d_qkv: add("d_qkv", 3 * words),
    };
    (program, views)
}

/// Every kernel with every block size that fits: those of a part one after the other.
fn candidates(
    fused: &FusedAttention,
    traits: &Traits,
    views: &BackwardViews,
) -> (Vec<Dispatch>, Vec<Candidate>) {
    let mut found = (Vec::new(), Vec::new());
    for part in PARTS {
        for variant in fused.variants(part, traits).into_iter().filter(|v| v.block_scores(part) >= LEAST) {
            let mut r = Recorder::new(*traits, None);
            variant.forward(&mut r, &views.forward);
            variant.backward(&mut r, views);
            let dispatch = r.dispatches.swap_remove(part as usize);
            found.1.push(Candidate {
                part,
                name: format!(
                    "{} {:?}",
                    dispatch.kernel.name(),
                    (&dispatch.specialization[..3], &dispatch.specialization[8..])
                ),
                taken: variant == *fused,
                runs_ms: Vec::new(),
            });
            found.0.push(dispatch);
        }
    }
    found
}

/// Normal numbers, the first of them over and over.
fn random_words(words: usize) -> Vec<u32> {
    let mut numbers = vec![0.0; 1 << 20];
    fill_normal(&mut numbers, 1.0, 1, 0, 0);
    numbers.iter().map(|x| x.to_bits()).cycle().take(words).collect()
}
