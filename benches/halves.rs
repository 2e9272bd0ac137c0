//! Products of factors split into two 16-bit floats an element: TFLOP/s and errors against f64 beside the
//! kernel by fused multiply-add, with tiles of several kinds: `cargo bench --bench halves -- [DEVICE]`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hlx::exact::fill_normal;
use hlx::ops::Recorder;
use hlx::ops::gemm::halves::{self, HalvesPlan, HalvesTile, TILES};
use hlx::ops::gemm::{Gemm, Matrix, Pass};
use hlx::ops::split::{split, split_words};
use hlx::precision::Precision;
use hlx::recording::{Dispatch, Executor, Group, MatrixUnits, Program, RecordingId, Residence, Traits, View};
use hlx::vulkan::{Device, Kind, Selection, VulkanExecutor};
use rayon::prelude::*;

/// A product: sizes, and which of the factors are stored transposed.
#[derive(Clone, Copy)]
struct Product {
    sizes: [usize; 3],
    layout: &'static str,
    /// How many of the tiles are tried.
    tiles: Tiles,
}

#[derive(Clone, Copy, PartialEq)]
enum Tiles {
    /// Those that a program chooses from.
    Taken,
    /// Others too.
    Many,
    /// Sums of several lengths on the units too.
    Chunks,
}

const fn product(sizes: [usize; 3], layout: &'static str, tiles: Tiles) -> Product {
    Product { sizes, layout, tiles }
}

const PRODUCTS: [Product; 10] = [
    product([4096, 4096, 4096], "NN", Tiles::Chunks),
    product([4096, 4096, 4096], "NT", Tiles::Many),
    product([4096, 4096, 4096], "TN", Tiles::Many),
    product([16384, 768, 3072], "NN", Tiles::Many),
    product([16384, 384, 1536], "NN", Tiles::Many),
    product([16384, 384, 1536], "NT", Tiles::Many),
    product([384, 16384, 1536], "TN", Tiles::Taken),
    product([16384, 128, 512], "NN", Tiles::Many),
    product([128, 16384, 512], "TN", Tiles::Taken),
    product([8192, 8192, 8192], "NN", Tiles::Taken),
];

/// For software Vulkan, to see that this program works.
const SMALL: [Product; 2] =
    [product([256, 512, 256], "NN", Tiles::Taken), product([128, 256, 192], "TN", Tiles::Taken)];

/// Different numbers of an operand.
const NUMBERS: usize = (1 << 20) + 7;

/// Elements of the result that are held to f64: rows, and columns of each.
const ROWS: usize = 16;
const COLUMNS: usize = 256;

/// How long a card is kept busy before anything is timed.
const WARM: Duration = Duration::from_millis(300);

/// The best of several rounds over all candidates, because a card's clock wanders; of each the median run.
const ROUNDS: usize = 3;

impl Product {
    fn tiles(&self) -> Vec<HalvesTile> {
        let tile = HalvesTile::new;
        let deep = |tile, part| HalvesTile { step: 32, chunk: 32, ..HalvesTile::new(tile, part) };
        let mut tiles = TILES.to_vec();
        if self.tiles != Tiles::Taken {
            tiles.extend([
                tile([128, 128], [64, 64]),
                HalvesTile { low_shift: 0, ..tile([128, 128], [64, 64]) },
                HalvesTile { low_shift: 0, ..deep([128, 128], [64, 32]) },
                deep([128, 128], [32, 64]),
                deep([64, 64], [32, 32]),
                deep([64, 128], [32, 32]),
                HalvesTile { shares: 2, ..tile([128, 128], [64, 32]) },
            ]);
        }
        if self.tiles == Tiles::Chunks {
            let short = HalvesTile { low_shift: 0, ..tile([128, 64], [64, 32]) };
            tiles.extend([16, 32, 64, 128, 256, 512, 4096].map(|chunk| HalvesTile { chunk, ..short }));
        }
        tiles
    }

    fn flops(&self) -> f64 {
        2.0 * self.sizes.iter().product::<usize>() as f64
    }
}

/// A way to compute a product.
struct Candidate {
    name: String,
    recording: RecordingId,
    seconds: f64,
}

/// A product in all ways, ready to run.
struct Loaded {
    product: Product,
    executor: VulkanExecutor,
    candidates: Vec<Candidate>,
    factors: [View; 2],
    numbers: [Vec<f32>; 2],
    c: View,
}

impl Loaded {
    fn new(device: &Arc<Device>, units: MatrixUnits, product: Product) -> Loaded {
        let [m, k, n] = product.sizes;
        let [trans_a, trans_b] = [0, 1].map(|i| product.layout.as_bytes()[i] == b'T');
        let mut program = Program::default();
        let mut add = |name: &str, words| program.add_buffer(name, words, Group::Scratch, Residence::Device);
        let [a_words, b_words, c_words] = [m * k, k * n, m * n];
        let factors = [add("a", a_words), add("b", b_words)];
        let shifted = [add("a split", split_words(a_words)), add("b split", split_words(b_words))];
        let plain = [add("a plain", split_words(a_words)), add("b plain", split_words(b_words))];
        let c = add("c", c_words);
        let room = add("room", 1);
        let partials = add("partials", 1 << 23);
        let stored = |view, trans, rows, columns| {
            if trans { Matrix::new(view, rows).transposed() } else { Matrix::new(view, columns) }
        };
        let (a, b) = (stored(factors[0], trans_a, m, k), stored(factors[1], trans_b, k, n));
        let gemm = Gemm::new(Pass::Backward, product.sizes, a, b, Matrix::new(c, n));
        let traits = Traits { precision: Precision::F32, fast_shared_memory: true, ..device.traits() };
        let mut candidates = Vec::new();
        let mut record = |program: &mut Program, name: String, dispatches: Vec<Dispatch>| {
            let recording = program.add_recording(&name, dispatches);
            candidates.push(Candidate { name, recording, seconds: f64::INFINITY });
        };
        for (name, half_units) in [("fma", None), ("as a program does, splitting too", Some(units))] {
            let mut recorder = Recorder::new(Traits { half_units, ..traits }, Some(room.buffer));
            recorder.multiply(&gemm);
            let kernels: Vec<_> = recorder.dispatches.iter().map(|d| d.kernel.name()).collect();
            let name = format!("{name}: {}", kernels.join(", "));
            let recording = recorder.finish(&mut program, &name);
            let dispatches = program.recordings.remove(recording.0).dispatches;
            record(&mut program, name, dispatches);
        }
        for (low_shift, split_factors) in [(halves::LOW_SHIFT, shifted), (0, plain)] {
            let mut recorder = Recorder::new(traits, None);
            for (from, to) in factors.into_iter().zip(split_factors) {
                split(&mut recorder, from, to, low_shift);
            }
            record(&mut program, format!("splitting, low parts * 2^{low_shift}"), recorder.dispatches);
        }
        let best = HalvesPlan::best(&gemm.problem(), &traits);
        let fits = |tile: &HalvesTile| tile.shared_bytes() <= traits.shared_memory_bytes;
        let tiles = product.tiles().into_iter().filter(fits);
        for plan in best.into_iter().chain(tiles.map(|tile| HalvesPlan { tile, block_terms: k })) {
            let words = plan.partial_words(&gemm.problem());
            let partials = (words > 0).then(|| partials.part(0, words));
            let factors = if plan.tile.low_shift == 0 { plain } else { shifted };
            record(&mut program, describe(&plan), halves::record(&gemm, factors, units, &plan, partials));
        }
        let mut executor = VulkanExecutor::load(device, program).expect("it fits");
        let numbers = [0, 1].map(|i| {
            let mut numbers = vec![0.0; NUMBERS.min(factors[i].words)];
            fill_normal(&mut numbers, 1.0, i as u64, 0, 0);
            let all: Vec<f32> = numbers.iter().cycle().take(factors[i].words).copied().collect();
            executor.write(factors[i], bytemuck::cast_slice(&all)).expect("the device works");
            all
        });
        Loaded { product, executor, candidates, factors, numbers, c }
    }

    fn time(&mut self, runs: usize) {
        for candidate in &mut self.candidates {
            // What is measured at first is told at once: should a kernel not end, its name is the last.
            let first = candidate.seconds == f64::INFINITY;
            if first {
                eprint!("{:?} {} {}: ", self.product.sizes, self.product.layout, candidate.name);
            }
            let timing = self.executor.time(candidate.recording, runs).expect("a clock");
            if first {
                eprintln!("{:.3} ms", timing.median_ms());
            }
            candidate.seconds = candidate.seconds.min(timing.median_ms() / 1e3);
        }
    }

    /// Rows and columns of the sample.
    fn sample(&self) -> [Vec<usize>; 2] {
        let [m, _, n] = self.product.sizes;
        let spread = |size: usize, count: usize| {
            let count = count.min(size);
            (0..count).map(|i| i * size / count + i % (size / count)).collect()
        };
        [spread(m, ROWS), spread(n, COLUMNS)]
    }

    /// The sample in f64.
    fn reference(&self) -> Vec<f64> {
        let [m, k, n] = self.product.sizes;
        let [rows, columns] = self.sample();
        let layout = self.product.layout.as_bytes();
        let [a, b] = &self.numbers;
        let a_at = |i: usize, p: usize| f64::from(a[if layout[0] == b'T' { p * m + i } else { i * k + p }]);
        let b_at = |p: usize, j: usize| f64::from(b[if layout[1] == b'T' { j * k + p } else { p * n + j }]);
        let row = |&i: &usize| -> Vec<f64> {
            let mut sums = vec![0.0; columns.len()];
            for p in 0..k {
                let x = a_at(i, p);
                for (sum, &j) in sums.iter_mut().zip(&columns) {
                    *sum += x * b_at(p, j);
                }
            }
            sums
        };
        rows.par_iter().flat_map_iter(row).collect()
    }

    /// The norm of the sample's difference from f64, of f64's own norm; NaN where nothing was written.
    fn error(&mut self, candidate: usize, reference: &[f64]) -> f64 {
        let n = self.product.sizes[2];
        let [rows, columns] = self.sample();
        // Rows of the result start where views may.
        let of_row =
            |row: usize| self.c.part(row * n / 64 * 64, (n + 64).min(self.c.words - row * n / 64 * 64));
        for &row in &rows {
            let view = of_row(row);
            self.executor.write(view, &vec![f32::NAN.to_bits(); view.words]).expect("the device works");
        }
        self.executor.submit(self.candidates[candidate].recording, &[]).expect("the device works");
        let (mut difference, mut size) = (0.0, 0.0);
        for (&row, wanted) in rows.iter().zip(reference.chunks(columns.len())) {
            let words = self.executor.read(of_row(row)).expect("the device works");
            for (&column, wanted) in columns.iter().zip(wanted) {
                let got = f64::from(f32::from_bits(words[row * n % 64 + column]));
                difference += (got - wanted) * (got - wanted);
                size += wanted * wanted;
            }
        }
        libm::sqrt(difference / size)
    }

    fn print(&mut self) {
        let [m, k, n] = self.product.sizes;
        println!("{m} x {k} x {n} {}", self.product.layout);
        let reference = self.reference();
        for i in 0..self.candidates.len() {
            let splitting = self.candidates[i].name.starts_with("splitting");
            let Candidate { name, seconds, .. } = &self.candidates[i];
            let us = seconds * 1e6;
            if splitting {
                let words = self.factors[0].words + self.factors[1].words;
                println!("  {us:8.1} us {:6.0} GB/s                {name}", 12.0 * words as f64 / us * 1e-3);
                continue;
            }
            let (name, tflops) = (name.clone(), self.product.flops() / seconds * 1e-12);
            let error = self.error(i, &reference);
            println!("  {us:8.1} us {tflops:6.1} TFLOP/s error {error:.1e} {name}");
        }
    }
}

fn describe(plan: &HalvesPlan) -> String {
    let tile = &plan.tile;
    let ahead = if tile.ahead { "ahead" } else { "late" };
    format!(
        "{}x{} of {}x{} step {} shares {} chunk {} shift {} {ahead}, blocks of {}",
        tile.rows,
        tile.columns,
        tile.part_rows,
        tile.part_columns,
        tile.step,
        tile.shares,
        tile.chunk,
        tile.low_shift,
        plan.block_terms
    )
}

fn main() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let name = arguments.first().map_or("auto", String::as_str);
    let selection: Selection = name.parse().expect("every text names a device");
    let device = Device::open(&selection, false).unwrap_or_else(|error| panic!("{error}"));
    let units = device.info().half_units.expect("a device with matrix units for 16-bit floats");
    println!("{}, {units:?}, {} bytes shared", device.info().name, device.info().shared_memory_bytes);
    let software = device.info().kind == Kind::Cpu;
    let (products, runs) = if software { (&SMALL[..], 1) } else { (&PRODUCTS[..], 8) };
    let start = Instant::now();
    for &product in products {
        // One at a time: memory.
        let mut loaded = Loaded::new(&device, units, product);
        let warming = Instant::now();
        while !software && warming.elapsed() < WARM {
            loaded.time(1);
        }
        loaded.candidates.iter_mut().for_each(|c| c.seconds = f64::MAX);
        let rounds = if software { 1 } else { ROUNDS };
        (0..rounds).for_each(|_| loaded.time(runs));
        loaded.print();
        println!("  {:.1} s so far", start.elapsed().as_secs_f64());
    }
}
