//! `hlx bench-gemm`: how fast the matrix product is, and how far from the true one.

use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde_json::json;

use super::backend::{Backend, too_large};
use super::{print, print_json};
use crate::cli::BenchGemmArgs;
use crate::config::Precision;
use crate::cpu::CpuExecutor;
use crate::error::Result;
use crate::exact::{fill_normal, random_words};
use crate::ops::gemm::{Gemm, Matrix, Pass};
use crate::recording::{Executor, Group, Program, RecordingId, Residence, Traits, View};
use crate::report::say;
use crate::vulkan::VulkanExecutor;

/// The table's shapes: a small one, squares, and the products of GPT-2's layers for 2,048 positions.
const TABLE: [[u32; 3]; 7] = [
    [512, 256, 512],
    [1024, 1024, 1024],
    [2048, 2048, 2048],
    [2048, 768, 2304],
    [2048, 768, 768],
    [2048, 768, 3072],
    [2048, 3072, 768],
];

/// Runs that are timed on a device; on the CPU executor, runs for this long.
const RUNS: usize = 20;
const CPU_TIME: Duration = Duration::from_millis(500);

/// Elements of the product that are compared with an f64 product: all of a small one, else as many as
/// can be calculated in about a second.
const CHECKED_PRODUCTS: usize = 1 << 29;

/// One line of the table.
struct Measured {
    precision: Precision,
    sizes: [usize; 3],
    ms: f64,
    max_relative_error: f64,
}

pub fn run(args: &BenchGemmArgs) -> Result<()> {
    let chosen = Backend::open(&args.device, args.precision.unwrap_or_default())?;
    let backend = &chosen.backend;
    let shapes = match args.sizes.as_deref() {
        Some(&[m, k, n]) => vec![[m, k, n]],
        _ => TABLE.to_vec(),
    };
    let offered = Precision::ALL.iter().copied().filter(|&precision| backend.lacks(precision).is_none());
    let precisions = args.precision.map_or_else(|| offered.collect(), |one| vec![one]);
    for sizes in &shapes {
        check_fit(backend, &precisions, sizes.map(|size| size as usize))?;
    }
    if !args.json {
        let why = chosen.why.as_deref().map_or(String::new(), |why| format!(": {why}"));
        say(format_args!("on {}{why}", backend.name()));
        print(&format!(
            "{:<9} {:>6} {:>6} {:>6} {:>10} {:>10} {:>19}\n",
            "precision", "m", "k", "n", "ms", "GFLOP/s", "max relative error"
        ))?;
    }
    let mut rows = Vec::new();
    for sizes in shapes {
        for &precision in &precisions {
            let measured = measure(backend, precision, sizes.map(|size| size as usize))?;
            if !args.json {
                print(&measured.line())?;
            }
            rows.push(measured.json(backend));
        }
    }
    if args.json { print_json(&rows.into()) } else { Ok(()) }
}

impl Measured {
    fn gflops(&self) -> f64 {
        2.0 * self.sizes.iter().map(|&size| size as f64).product::<f64>() / (self.ms * 1e6)
    }

    fn line(&self) -> String {
        let [m, k, n] = self.sizes;
        format!(
            "{:<9} {m:>6} {k:>6} {n:>6} {:>10.4} {:>10.1} {:>19.2e}\n",
            self.precision.name(),
            self.ms,
            self.gflops(),
            self.max_relative_error
        )
    }

    fn json(&self, backend: &Backend) -> serde_json::Value {
        let [m, k, n] = self.sizes;
        json!({
            "device": backend.name(),
            "precision": self.precision.name(),
            "m": m,
            "k": k,
            "n": n,
            "ms": self.ms,
            "gflops": self.gflops(),
            "max_relative_error": self.max_relative_error,
        })
    }
}

/// A product C[m,n] = A[m,k] B[k,n] as a program.
struct Product {
    program: Program,
    a: View,
    b: View,
    c: View,
    recording: RecordingId,
}

impl Product {
    fn new([m, k, n]: [usize; 3], traits: Traits) -> Product {
        let mut program = Program::default();
        let mut add = |name, words| program.add_buffer(name, words, Group::Scratch, Residence::Device);
        let (a, b, c) = (add("a", m * k), add("b", k * n), add("c", m * n));
        let gemm =
            Gemm::new(Pass::Forward, [m, k, n], Matrix::new(a, k), Matrix::new(b, n), Matrix::new(c, n));
        let recording = program.add_recording("product", vec![gemm.record(&traits)]);
        Product { program, a, b, c, recording }
    }
}

/// Checked for all before the first is measured. The program's description takes no memory yet.
fn check_fit(backend: &Backend, precisions: &[Precision], sizes: [usize; 3]) -> Result<()> {
    let program = |precision| Product::new(sizes, backend.traits(precision)).program;
    let fits = precisions.iter().all(|&precision| backend.fits(&program(precision)));
    if fits { Ok(()) } else { Err(too_large(backend, sizes)) }
}

fn measure(backend: &Backend, precision: Precision, sizes: [usize; 3]) -> Result<Measured> {
    let product = Product::new(sizes, backend.traits(precision));
    let [a, b] = [product.a, product.b].map(|view| random(view.words, view.buffer.0));
    let (ms, c) = match backend {
        Backend::Cpu => {
            let mut executor = CpuExecutor::load(product.program.clone())?;
            write_inputs(&mut executor, &product, &a, &b)?;
            let ms = time_on_the_host(&mut executor, product.recording)?;
            (ms, executor.read(product.c)?)
        }
        Backend::Vulkan(device) => {
            let mut executor = VulkanExecutor::load(device, product.program.clone())?;
            write_inputs(&mut executor, &product, &a, &b)?;
            let ms = executor.time(product.recording, RUNS)?.median_ms();
            (ms, executor.read(product.c)?)
        }
    };
    let max_relative_error = relative_error(&a, &b, bytemuck::cast_slice(&c), sizes);
    Ok(Measured { precision, sizes, ms, max_relative_error })
}

/// Normal numbers, a stream of their own for each buffer.
fn random(words: usize, stream: u32) -> Vec<f32> {
    let mut values = vec![0.0; words];
    fill_normal(&mut values, 1.0, 1, stream, 0);
    values
}

fn write_inputs(executor: &mut dyn Executor, product: &Product, a: &[f32], b: &[f32]) -> Result<()> {
    executor.write(product.a, bytemuck::cast_slice(a))?;
    executor.write(product.b, bytemuck::cast_slice(b))
}

/// The median time of a run, after one that is not counted.
fn time_on_the_host(executor: &mut CpuExecutor, recording: RecordingId) -> Result<f64> {
    executor.submit(recording, &[])?;
    let started = Instant::now();
    let mut runs = Vec::new();
    while runs.len() < 3 || started.elapsed() < CPU_TIME {
        let start = Instant::now();
        executor.submit(recording, &[])?;
        runs.push(start.elapsed().as_secs_f64() * 1e3);
    }
    runs.sort_by(f64::total_cmp);
    Ok(runs[runs.len() / 2])
}

/// The largest error against an f64 product, over the root mean square of the elements compared: an
/// element near zero is a difference of large numbers, and its own size says nothing.
fn relative_error(a: &[f32], b: &[f32], c: &[f32], [_, k, n]: [usize; 3]) -> f64 {
    let elements = c.len();
    let checked = (CHECKED_PRODUCTS / k).clamp(1, elements);
    let pick = |i: usize| match checked == elements {
        true => i,
        false => {
            let words = random_words(2, 0, 0, i as u32);
            ((u64::from(words[0]) << 32 | u64::from(words[1])) % elements as u64) as usize
        }
    };
    let one = |i: usize| {
        let (row, column) = (pick(i) / n, pick(i) % n);
        let a_row = &a[row * k..(row + 1) * k];
        let terms = a_row.iter().enumerate().map(|(j, &x)| f64::from(x) * f64::from(b[j * n + column]));
        let exact: f64 = terms.sum();
        ((f64::from(c[pick(i)]) - exact).abs(), exact * exact)
    };
    let (worst, squares) =
        (0..checked).into_par_iter().map(one).reduce(|| (0.0, 0.0), |x, y| (largest(x.0, y.0), x.1 + y.1));
    worst / libm::sqrt(squares / checked as f64)
}

/// The larger of two errors; NaN is the largest.
fn largest(x: f64, y: f64) -> f64 {
    if x.is_nan() || x > y { x } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_element_shows_as_an_error() {
        let sizes = [3, 40, 5];
        let (a, b) = (random(120, 0), random(200, 1));
        let mut c: Vec<f32> =
            (0..15).map(|i| (0..40).map(|j| a[i / 5 * 40 + j] * b[j * 5 + i % 5]).sum()).collect();
        assert!(relative_error(&a, &b, &c, sizes) < 1e-6);
        c[7] += 1.0;
        assert!(relative_error(&a, &b, &c, sizes) > 0.05);
        c[7] = f32::NAN;
        assert!(relative_error(&a, &b, &c, sizes).is_nan());
    }
}
