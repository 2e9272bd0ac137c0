//! GFLOP/s of the matrix product: `cargo bench --bench gemm` on the CPU executor,
//! `cargo bench --bench gemm -- vulkan [DEVICE]` on a Vulkan device.
//!
//! After the device, `tilings` compares tiles of the exact kernels, and `units [LINES [MxKxN:nt...]]` tiles
//! of the matrix units', the best LINES of each shape.
//!
//! The sizes are the products of a training step of `nano` (batch 12, context 64), then large ones.

#[path = "gemm/unit_tiles.rs"]
mod unit_tiles;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hlx::cpu::CpuExecutor;
use hlx::exact::fill_normal;
use hlx::ops::gemm::fast::FastTile;
use hlx::ops::gemm::{Gemm, Matrix, Pass, Tiling};
use hlx::recording::{Dispatch, Executor, Group, Program, RecordingId, Residence, View};
use hlx::vulkan::{Device, Selection, VulkanExecutor};

/// How long each product is repeated on the CPU.
const TIME: Duration = Duration::from_millis(400);

/// How often each product is repeated on a device.
const RUNS: usize = 20;

/// Rounds over all ways of computing a product on a device, after one to warm it up.
const ROUNDS: usize = 3;

#[derive(Clone, Copy)]
struct Product {
    sizes: [usize; 3],
    trans_a: bool,
    trans_b: bool,
    batches: usize,
}

const fn product(sizes: [usize; 3], layout: [char; 2], batches: usize) -> Product {
    Product { sizes, trans_a: matches!(layout[0], 'T'), trans_b: matches!(layout[1], 'T'), batches }
}

const PRODUCTS: [Product; 21] = [
    product([512, 256, 512], ['N', 'N'], 1),
    product([768, 128, 384], ['N', 'N'], 1),
    product([768, 128, 512], ['N', 'N'], 1),
    product([768, 128, 128], ['N', 'N'], 1),
    product([768, 512, 128], ['N', 'N'], 1),
    product([768, 128, 65], ['N', 'T'], 1),
    product([768, 65, 128], ['N', 'N'], 1),
    product([768, 384, 128], ['N', 'T'], 1),
    product([768, 128, 512], ['N', 'T'], 1),
    product([768, 512, 128], ['N', 'T'], 1),
    product([128, 768, 384], ['T', 'N'], 1),
    product([128, 768, 512], ['T', 'N'], 1),
    product([512, 768, 128], ['T', 'N'], 1),
    product([65, 768, 128], ['T', 'N'], 1),
    product([64, 32, 64], ['N', 'T'], 48),
    product([64, 64, 32], ['N', 'N'], 48),
    product([64, 64, 32], ['T', 'N'], 48),
    product([2048, 768, 2304], ['N', 'N'], 1),
    product([2048, 3072, 768], ['N', 'T'], 1),
    product([768, 2048, 3072], ['T', 'N'], 1),
    product([2048, 2048, 2048], ['N', 'N'], 1),
];

impl Product {
    fn flops(&self) -> f64 {
        2.0 * self.sizes.iter().product::<usize>() as f64 * self.batches as f64
    }

    /// A program of this one product, a recording for each way of computing it, and the views of its
    /// operands.
    fn program(&self, ways: impl Fn(&Gemm) -> Vec<Dispatch>) -> (Program, [View; 2]) {
        let [m, k, n] = self.sizes;
        let mut program = Program::default();
        let mut matrix = |name: &str, rows: usize, columns: usize, trans: bool| {
            let len = rows * columns;
            let view = program.add_buffer(name, len * self.batches, Group::Scratch, Residence::Device);
            let stored = Matrix::new(view, if trans { rows } else { columns }).batched(len, 0);
            (view, if trans { stored.transposed() } else { stored })
        };
        let (a_view, a) = matrix("a", m, k, self.trans_a);
        let (b_view, b) = matrix("b", k, n, self.trans_b);
        let (_, c) = matrix("c", m, n, false);
        let gemm = Gemm { batch_outer: self.batches, ..Gemm::new(Pass::Backward, self.sizes, a, b, c) };
        for dispatch in ways(&gemm) {
            program.add_recording("product", vec![dispatch]);
        }
        (program, [a_view, b_view])
    }
}

/// Different numbers of an operand.
const NUMBERS: usize = (1 << 20) + 7;

/// Gives the operands numbers.
fn fill(executor: &mut dyn Executor, views: [View; 2]) {
    for (seed, view) in views.into_iter().enumerate() {
        // Some numbers over and over: drawing them takes longer than multiplying them.
        let mut numbers = vec![0.0; NUMBERS.min(view.words)];
        fill_normal(&mut numbers, 1.0, seed as u64, 0, 0);
        let values: Vec<f32> = numbers.iter().cycle().take(view.words).copied().collect();
        executor.write(view, bytemuck::cast_slice(&values)).expect("the device works");
    }
}

/// The shortest of many runs.
fn seconds_on_cpu(product: &Product) -> f64 {
    let (program, views) = product.program(|gemm| vec![gemm.record(&CpuExecutor::TRAITS)]);
    let mut executor = CpuExecutor::load(program).expect("it fits");
    fill(&mut executor, views);
    let start = Instant::now();
    let mut shortest = Duration::MAX;
    while start.elapsed() < TIME {
        let run = Instant::now();
        executor.submit(RecordingId(0), &[]).expect("the CPU works");
        shortest = shortest.min(run.elapsed());
    }
    shortest.as_secs_f64()
}

/// The shortest of many runs of each way of computing a product, by the device's own clock. The ways take
/// turns, because a card's clock wanders, and all are built before, because a card that waits slows down.
fn seconds_on(device: &Arc<Device>, product: &Product, ways: impl Fn(&Gemm) -> Vec<Dispatch>) -> Vec<f64> {
    let (program, views) = product.program(ways);
    let count = program.recordings.len();
    let mut executor = VulkanExecutor::load(device, program).expect("it fits");
    fill(&mut executor, views);
    let mut shortest = vec![f64::INFINITY; count];
    for round in 0..=ROUNDS {
        for (id, shortest) in shortest.iter_mut().enumerate() {
            let seconds = executor.time(RecordingId(id), RUNS).expect("the device works").min_ms() / 1e3;
            if round > 0 {
                *shortest = shortest.min(seconds);
            }
        }
    }
    shortest
}

const LARGE: [Product; 5] = [
    product([4096, 4096, 4096], ['N', 'N'], 1),
    product([16384, 768, 3072], ['N', 'N'], 1),
    product([16384, 3072, 768], ['N', 'T'], 1),
    product([768, 16384, 3072], ['T', 'N'], 1),
    product([2048, 768, 2304], ['N', 'N'], 1),
];

/// GFLOP/s of the exact kernels with tiles of several kinds, on large products.
fn compare_tilings(device: &Arc<Device>) {
    let short = |tile: FastTile| FastTile { step: 8, unrolled: 8, ..tile };
    let lone = |tile: FastTile| FastTile { shares: 1, ..tile };
    let tiles = [(128, 128), (64, 128), (128, 64), (64, 64)]
        .map(|(rows, columns)| FastTile::large(rows, columns))
        .into_iter()
        .flat_map(|tile| [tile, lone(tile), short(tile), lone(short(tile))])
        .chain([FastTile::small(64, 64), lone(FastTile::small(64, 64)), FastTile::small(32, 64)]);
    let tiles: Vec<FastTile> = tiles.collect();
    for product in &LARGE {
        let ways = |gemm: &Gemm| tiles.iter().map(|tile| gemm.record_tiled(Tiling::Shared(*tile))).collect();
        let shortest = seconds_on(device, product, ways);
        println!("{:?} A transposed: {}, B: {}", product.sizes, product.trans_a, product.trans_b);
        for (FastTile { rows, columns, row_quads, step, shares, .. }, seconds) in tiles.iter().zip(shortest) {
            let gflops = product.flops() / seconds * 1e-9;
            println!("  {rows}x{columns} {row_quads} quads, {shares} shares of {step}: {gflops:.0} GFLOP/s");
        }
    }
}

fn main() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let device = (arguments.first().map(String::as_str) == Some("vulkan")).then(|| {
        let name = arguments.get(1).map_or("auto", String::as_str);
        let selection: Selection = name.parse().expect("every text names a device");
        Device::open(&selection, false).unwrap_or_else(|error| panic!("{error}"))
    });
    match &device {
        Some(device) => println!("{}", device.info().name),
        None => println!("CPU executor, {} threads", rayon::current_num_threads()),
    }
    if let (Some(device), true) = (&device, arguments.iter().any(|a| a == "tilings")) {
        return compare_tilings(device);
    }
    if let (Some(device), Some(at)) = (&device, arguments.iter().position(|a| a == "units")) {
        let lines = arguments.get(at + 1).map_or(6, |lines| lines.parse().expect("a number of lines"));
        let shapes = arguments.get(at + 2..).unwrap_or_default();
        return unit_tiles::compare_all(device, lines, shapes);
    }
    println!("{:>5} {:>5} {:>5}  layout batches {:>10} {:>9}", "m", "k", "n", "us", "GFLOP/s");
    for product in &PRODUCTS {
        let seconds = device.as_ref().map_or_else(
            || seconds_on_cpu(product),
            |d| seconds_on(d, product, |gemm| vec![gemm.record(&d.traits())])[0],
        );
        let [m, k, n] = product.sizes;
        let [a, b] = [product.trans_a, product.trans_b].map(|trans| if trans { 'T' } else { 'N' });
        let (us, gflops) = (seconds * 1e6, product.flops() / seconds * 1e-9);
        println!("{m:>5} {k:>5} {n:>5} {a:>5}{b} {:>8} {us:>10.1} {gflops:>9.1}", product.batches);
    }
}
