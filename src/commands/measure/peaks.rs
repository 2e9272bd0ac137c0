//! What the device can do at best, measured: how fast it moves memory and how fast it multiplies.

use std::time::Instant;

use rayon::prelude::*;
use serde_json::{Value, json};

use super::super::backend::Backend;
use super::super::tune::Tuner;
use super::loaded::Loaded;
use super::median;
use super::product::Product;
use crate::config::{Precision, ProductLayout};
use crate::error::Result;
use crate::ops::{Recorder, residual};
use crate::recording::{Group, Program, RecordingId, Residence, View};
use crate::vulkan::Kind;

/// Words of each buffer that is moved: far larger than a cache.
const GPU_WORDS: usize = 64 << 20;
const CPU_WORDS: usize = 16 << 20;

/// Sides of the square product.
const GPU_SIDE: usize = 4096;
const CPU_SIDE: usize = 512;

const RUNS: usize = 10;

/// A device's measured peaks.
pub struct Peaks {
    /// Of a copy by the driver (on the CPU by all cores): bytes read and bytes written.
    pub copy_gb_s: f64,
    /// Of the kernel `residual_add`, which reads two buffers and writes one.
    pub stream_gb_s: f64,
    /// Of the square product in each precision.
    products: Vec<(Precision, f64)>,
    side: usize,
}

impl Peaks {
    /// Measures all of them, in a second or so.
    pub fn measure(backend: &Backend, precisions: &[Precision], tuner: &mut Tuner) -> Result<Peaks> {
        let (words, side) = if is_gpu(backend) { (GPU_WORDS, GPU_SIDE) } else { (CPU_WORDS, CPU_SIDE) };
        let (copy_gb_s, stream_gb_s) = bandwidths(backend, words)?;
        let mut rate = |&precision: &Precision| {
            let product = Product { precision, sizes: [side; 3], layout: ProductLayout::Nn };
            let ms = product.load(backend, tuner)?.time()?.ms;
            Ok((precision, product.flops() / ms * 1e-6))
        };
        let products = precisions.iter().map(&mut rate).collect::<Result<_>>()?;
        Ok(Peaks { copy_gb_s, stream_gb_s, products, side })
    }

    /// The faster of both ways to move memory.
    pub fn memory_gb_s(&self) -> f64 {
        self.copy_gb_s.max(self.stream_gb_s)
    }

    /// GFLOP/s of the square product.
    pub fn product_gflops(&self, precision: Precision) -> Option<f64> {
        self.products.iter().find(|(of, _)| *of == precision).map(|(_, gflops)| *gflops)
    }

    /// A line for people.
    pub fn line(&self) -> String {
        let products: Vec<String> =
            self.products.iter().map(|(of, gflops)| format!("{gflops:.0} GFLOP/s {of}")).collect();
        let side = self.side;
        format!(
            "measured peaks: memory {:.0} GB/s (copy {:.0}, kernel {:.0}); product {side}^3 {}",
            self.memory_gb_s(),
            self.copy_gb_s,
            self.stream_gb_s,
            products.join(", ")
        )
    }

    pub fn json(&self) -> Value {
        let side = self.side;
        let product =
            |(of, gflops): &(Precision, f64)| json!({ "precision": of, "n": side, "gflops": gflops });
        json!({
            "memory_gb_s": self.memory_gb_s(),
            "copy_gb_s": self.copy_gb_s,
            "stream_gb_s": self.stream_gb_s,
            "products": self.products.iter().map(product).collect::<Vec<_>>(),
        })
    }
}

/// True for what is no processor: sizes that keep a GPU busy take a processor forever.
pub fn is_gpu(backend: &Backend) -> bool {
    match backend {
        Backend::Cpu => false,
        Backend::Vulkan(device) => device.info().kind != Kind::Cpu,
    }
}

/// GB/s of a copy and of a kernel that adds two buffers, of `words` words or as many as fit.
fn bandwidths(backend: &Backend, words: usize) -> Result<(f64, f64)> {
    let words = words.min(backend.traits(Precision::Exact).max_view_words);
    let (program, [from, _, to]) = sum(backend, words);
    if !backend.fits(&program) {
        return bandwidths(backend, words / 2);
    }
    let mut loaded = Loaded::load(backend, program)?;
    let numbers: Vec<u32> = (0..words).map(|i| (i as f32 * 1e-6).to_bits()).collect();
    loaded.executor().write(from, &numbers)?;
    let stream_ms = median(&loaded.time(RecordingId(0), RUNS)?);
    let copy_ms = match &mut loaded {
        Loaded::Vulkan(executor) => executor.time_copy(from, to, RUNS)?.median_ms(),
        Loaded::Cpu(_) => host_copy_ms(&numbers),
    };
    let gb_s = |buffers: usize, ms: f64| (buffers * words * 4) as f64 / ms * 1e-6;
    Ok((gb_s(2, copy_ms), gb_s(3, stream_ms)))
}

/// A program that adds two buffers into a third.
fn sum(backend: &Backend, words: usize) -> (Program, [View; 3]) {
    let mut program = Program::default();
    let views = ["stream", "branch", "output"]
        .map(|name| program.add_buffer(name, words, Group::Scratch, Residence::Device));
    let mut r = Recorder::new(backend.traits(Precision::Exact), None);
    residual::add(&mut r, views[0], views[1], views[2]);
    r.finish(&mut program, "sum");
    (program, views)
}

/// A copy on all cores, after one that is not counted.
fn host_copy_ms(from: &[u32]) -> f64 {
    const TASK: usize = 1 << 18;
    let mut to = vec![0; from.len()];
    let mut copy = || {
        let start = Instant::now();
        to.par_chunks_mut(TASK).zip(from.par_chunks(TASK)).for_each(|(to, from)| to.copy_from_slice(from));
        let ms = start.elapsed().as_secs_f64() * 1e3;
        std::hint::black_box(&to);
        ms
    };
    copy();
    median(&(0..RUNS).map(|_| copy()).collect::<Vec<_>>())
}
