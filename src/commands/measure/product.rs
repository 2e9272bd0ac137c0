//! The time and the error of one matrix product.

use std::time::Duration;

use super::super::backend::Backend;
use super::super::tune::Tuner;
use super::error::{ProductError, Sample, product_error};
use super::loaded::Loaded;
use super::median;
use super::warm::until_steady;
use crate::config::{Precision, ProductLayout};
use crate::error::{Error, Result};
use crate::exact::fill_normal;
use crate::kernels::Kernel;
use crate::ops::Recorder;
use crate::ops::gemm::{Gemm, Matrix, Pass, Tunable, Tuning};
use crate::recording::{
    Dispatch, Group, Program, RecordingId, Residence, Traits, VIEW_ALIGNMENT_WORDS, View, align_words,
};

/// Products of one timed batch: the most that stay below [`BATCH_MS`].
const CALLS: [usize; 4] = [1, 4, 16, 64];
const BATCH_MS: f64 = 5.0;

/// A turn of warming up, how many must be no faster than those before, and how long all may take.
const WARM_MS: f64 = 80.0;
const WARM_ENOUGH: usize = 5;
const WARM_MOST: Duration = Duration::from_secs(3);

/// How long batches are timed, and how many at least and at most.
const TIMED_MS: f64 = 150.0;
const FEWEST_BATCHES: usize = 5;
const MOST_BATCHES: usize = 50;

/// Operands exist so many times that together they are larger than a cache, up to [`MOST_SETS`].
const SETS_WORDS: usize = 48 << 20;
const MOST_SETS: usize = 32;

/// Length of the random numbers that operands are filled with again and again: a prime, so that no two rows
/// begin alike.
const RANDOM_WORDS: usize = 1_048_573;

/// Which product: C[m,n] = op(A)[m,k] op(B)[k,n].
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub precision: Precision,
    /// m, k and n.
    pub sizes: [usize; 3],
    pub layout: ProductLayout,
}

/// What a product took.
#[derive(Clone, Copy, Debug)]
pub struct ProductTime {
    /// The median over batches of a batch's time by its products.
    pub ms: f64,
    pub fastest_ms: f64,
    /// Batches timed.
    pub batches: usize,
    /// Products in a batch, each waiting for the one before.
    pub calls: usize,
    /// Pairs of operands that a batch goes through in turns.
    pub sets: usize,
    /// What it takes to pack one pair of operands, if the precision packs them: not part of the above.
    pub packing_ms: Option<f64>,
}

/// A product as a program: pairs of operands, one result, and a recording for each number of calls. Products
/// share the result, so each waits for the one before it.
struct ProductProgram {
    program: Program,
    operands: Vec<[View; 2]>,
    c: View,
    /// The product, as a recorder was asked for it.
    asked: Vec<Tunable>,
    /// What packs each pair of operands, where the precision asks for it: run once, before any product.
    packing: Vec<RecordingId>,
    recordings: Vec<(usize, RecordingId)>,
}

/// A product that is loaded, its operands filled with random numbers.
pub struct LoadedProduct {
    product: Product,
    parts: ProductProgram,
    loaded: Loaded,
    /// The first pair of operands.
    first: [Vec<f32>; 2],
}

impl Product {
    /// Multiplications and additions.
    pub fn flops(&self) -> f64 {
        2.0 * self.sizes.iter().map(|&size| size as f64).product::<f64>()
    }

    /// Refuses a product that the device has no room for. The program's description takes no memory yet.
    pub fn check_fit(&self, backend: &Backend) -> Result<()> {
        let program = self.program(1, backend.traits(self.precision), &Tuning::default()).program;
        let Some(why) = backend.obstacle(&program) else { return Ok(()) };
        let ([m, k, n], name) = (self.sizes, backend.name());
        Err(Error::Usage(format!("{m} x {k} x {n} does not fit {name} ({why}): give smaller sizes")))
    }

    fn sets(&self) -> usize {
        let [m, k, n] = self.sizes;
        (SETS_WORDS / (m * k + k * n)).clamp(1, MOST_SETS)
    }

    fn gemm(&self, [a, b]: [View; 2], c: View) -> Gemm {
        let [m, k, n] = self.sizes;
        let a = if self.layout.transposes_a() { Matrix::new(a, m).transposed() } else { Matrix::new(a, k) };
        let b = if self.layout.transposes_b() { Matrix::new(b, k).transposed() } else { Matrix::new(b, n) };
        let pass = if self.layout == ProductLayout::Nn { Pass::Forward } else { Pass::Backward };
        Gemm::new(pass, self.sizes, a, b, Matrix::new(c, n))
    }

    fn program(&self, sets: usize, traits: Traits, tuning: &Tuning) -> ProductProgram {
        let [m, k, n] = self.sizes;
        let mut program = Program::default();
        let mut add = |name: &str, words| program.add_buffer(name, words, Group::Scratch, Residence::Device);
        let operands: Vec<[View; 2]> =
            (0..sets).map(|set| [add(&format!("a.{set}"), m * k), add(&format!("b.{set}"), k * n)]).collect();
        let c = add("c", m * n);
        let room = add("room", 1).buffer;
        let mut products = Vec::new();
        let (mut packing, mut asked) = (Vec::new(), Vec::new());
        for (set, operands) in operands.iter().enumerate() {
            let recorder = |room| Recorder::new(traits, Some(room)).tuned(tuning.clone());
            let mut r = recorder(room);
            r.multiply(&self.gemm(*operands, c));
            if r.dispatches.iter().any(is_packing) && set > 0 {
                // Packed operands stay, so each pair needs room of its own.
                let room = program.add_buffer(&format!("room.{set}"), 1, Group::Scratch, Residence::Device);
                r = recorder(room.buffer);
                r.multiply(&self.gemm(*operands, c));
            }
            asked.clone_from(&r.products);
            let (packs, product): (Vec<_>, Vec<_>) = r.dispatches.drain(..).partition(is_packing);
            let any = !packs.is_empty();
            products.push(product);
            r.dispatches = packs;
            let recording = r.finish(&mut program, &format!("packing {set}"));
            packing.extend(any.then_some(recording));
        }
        let mut record = |calls: usize| {
            let dispatches = (0..calls).flat_map(|call| products[call % sets].clone()).collect();
            (calls, program.add_recording(&format!("{calls} products"), dispatches))
        };
        let recordings = CALLS.into_iter().map(&mut record).collect();
        ProductProgram { program, operands, c, asked, packing, recordings }
    }

    /// Tunes the product, takes its memory and fills it.
    pub fn load(self, backend: &Backend, tuner: &mut Tuner) -> Result<LoadedProduct> {
        let traits = backend.traits(self.precision);
        let asked = self.program(1, traits, &Tuning::default()).asked;
        let tuning = &tuner.of_products(backend, self.precision, &asked);
        let many = self.program(self.sets(), traits, tuning);
        let parts = if backend.fits(&many.program) { many } else { self.program(1, traits, tuning) };
        let mut loaded = Loaded::load(backend, parts.program.clone())?;
        let mut random = vec![0.0; RANDOM_WORDS];
        fill_normal(&mut random, 1.0, 1, 0, 0);
        let mut first = [Vec::new(), Vec::new()];
        for (i, view) in parts.operands.iter().flatten().enumerate() {
            let start = i * 7919 % RANDOM_WORDS;
            let values = repeated(&random, start, view.words);
            loaded.executor().write(*view, bytemuck::cast_slice(&values))?;
            if let Some(kept) = first.get_mut(i) {
                *kept = values;
            }
        }
        for recording in &parts.packing {
            loaded.executor().submit(*recording, &[])?;
        }
        Ok(LoadedProduct { product: self, parts, loaded, first })
    }
}

/// True for what only brings a factor into the form that matrix units take: a step does it once for several
/// products.
fn is_packing(dispatch: &Dispatch) -> bool {
    dispatch.kernel == Kernel::Pack
}

/// `words` numbers of an endless repetition of `numbers`, from number `start` on.
fn repeated(numbers: &[f32], start: usize, words: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(words);
    let mut next = &numbers[start..];
    while values.len() < words {
        values.extend_from_slice(&next[..next.len().min(words - values.len())]);
        next = numbers;
    }
    values
}

impl LoadedProduct {
    /// Times batches of the product on a warm device.
    pub fn time(&mut self) -> Result<ProductTime> {
        let (_, single) = self.parts.recordings[0];
        let one_ms = median(&self.loaded.time(single, 2)?);
        let batch_ms = |calls: usize| one_ms * calls as f64;
        let fitting = self.parts.recordings.iter().rev().find(|(calls, _)| batch_ms(*calls) <= BATCH_MS);
        let &(calls, recording) = fitting.unwrap_or(&self.parts.recordings[0]);
        let runs_of = |ms: f64| (ms / batch_ms(calls)) as usize;
        let warming = runs_of(WARM_MS).clamp(1, MOST_BATCHES);
        until_steady(WARM_ENOUGH, WARM_MOST, || Ok(median(&self.loaded.time(recording, warming)?)))?;
        let batches = runs_of(TIMED_MS).clamp(FEWEST_BATCHES, MOST_BATCHES);
        let times = self.loaded.time(recording, batches)?;
        let by_call = |ms: f64| ms / calls as f64;
        let fastest = times.iter().copied().fold(f64::INFINITY, f64::min);
        let sets = self.parts.operands.len().min(calls);
        let packing =
            self.parts.packing.first().map(|&recording| self.loaded.time(recording, FEWEST_BATCHES));
        let packing_ms = packing.transpose()?.map(|times| median(&times));
        let (ms, fastest_ms) = (by_call(median(&times)), by_call(fastest));
        Ok(ProductTime { ms, fastest_ms, batches, calls, sets, packing_ms })
    }

    /// Compares the product of the first operands with an f64 product. What the device did not write is NaN.
    pub fn error(&mut self) -> Result<(ProductError, usize)> {
        let Product { sizes, layout, .. } = self.product;
        let c = self.parts.c;
        let executor = self.loaded.executor();
        executor.write(c, &vec![f32::NAN.to_bits(); c.words])?;
        executor.submit(self.parts.recordings[0].1, &[])?;
        let sample = Sample::of(sizes);
        let rows: Result<Vec<Vec<f32>>> = if sample.rows.len() == sizes[0] {
            let all = executor.read(c)?;
            Ok(all.chunks_exact(sizes[2]).map(|row| bytemuck::cast_slice(row).to_vec()).collect())
        } else {
            sample.rows.iter().map(|&i| self.row(i)).collect()
        };
        let rows = rows?;
        let [a, b] = &self.first;
        Ok((product_error([a, b], sizes, layout, &sample, &rows), sample.elements()))
    }

    /// One row of the result. Views start at aligned words, rows anywhere.
    fn row(&mut self, i: usize) -> Result<Vec<f32>> {
        let (c, n) = (self.parts.c, self.product.sizes[2]);
        let before = i * n % VIEW_ALIGNMENT_WORDS;
        let start = i * n - before;
        let words = align_words(before + n).min(c.words - start);
        let words = self.loaded.executor().read(c.part(start, words))?;
        Ok(bytemuck::cast_slice(&words[before..before + n]).to_vec())
    }
}
