//! The stand that products are timed on: a program of some of them, each computed in every way, on random
//! factors that all share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::measure::warm::until_steady;
use super::contest::Stand;
use crate::error::Result;
use crate::exact::{fill_normal, snap};
use crate::ops::gemm::{Causal, Gemm, Matrix, Way};
use crate::ops::pack::{pack, packed_words};
use crate::ops::softmax::{self, AttentionShape};
use crate::ops::split::{split, split_words};
use crate::ops::{Recorder, compare};
use crate::recording::{
    Dispatch, Executor, Group, Program, RecordingId, Residence, Traits, VIEW_ALIGNMENT_WORDS, View,
    align_words,
};
use crate::vulkan::{Device, VulkanExecutor};

/// A product, and the ways to compute it that give the same bits. Way 0 is the one that the estimates take.
#[derive(Clone, Debug)]
pub struct Contestant {
    pub gemm: Gemm,
    pub ways: Vec<Way>,
}

/// Random numbers that the host makes; the device repeats them as often as it takes, packed two to a word
/// too. Not a power of two, so that few rows are alike.
const RANDOM_WORDS: usize = 2 * VIEW_ALIGNMENT_WORDS * 32_771;

/// A product is repeated until a run has so many multiplications and additions, but not more often than this:
/// one alone may be over before a clock ticks.
const FLOPS_OF_A_RUN: f64 = 8e9;
const MOST_CALLS: usize = 16;

/// Runs of one turn of what is repeated.
const RUNS: usize = 2;

/// A product that takes longer than this, in seconds, is not timed: a desktop resets a device that a submit
/// keeps busy for too long.
const LONGEST_S: f64 = 0.1;

/// The same for all its calls in one submit: desktops wait for two seconds and more.
const LONGEST_RUN_S: f64 = 0.5;

/// A turn of warming up, how many must be no faster than those before, and how long all may take.
const WARM_TURN: Duration = Duration::from_millis(30);
const WARM_ENOUGH: usize = 3;
const WARM_MOST: Duration = Duration::from_millis(1500);

/// The recordings of one product.
struct Recordings {
    /// Spoils both results, and splits the factors if they are multiplied so.
    prepare: RecordingId,
    /// Way 0, into the result that the others are compared with.
    reference: RecordingId,
    /// Each way, and a comparison of its result.
    compared: Vec<RecordingId>,
    /// Each way, so many times.
    timed: Vec<RecordingId>,
    calls: usize,
    flops: f64,
}

/// Words that all products together need of each buffer.
#[derive(Clone, Copy, Default)]
struct Sizes {
    floats: usize,
    packed: usize,
    split: [usize; 2],
    triangle: usize,
    result: usize,
    partials: usize,
    counts: usize,
}

/// The program of a stand.
pub struct StandProgram {
    pub program: Program,
    floats: View,
    packed: View,
    /// Packs the first numbers, if any factor is packed.
    pack: Option<(RecordingId, View)>,
    counts: View,
    recordings: Vec<Recordings>,
}

/// Elements up to the last that a product touches of A, B and C.
fn extents(gemm: &Gemm) -> [usize; 3] {
    let problem = gemm.problem();
    [
        problem.extent(problem.a, problem.stored_a()),
        problem.extent(problem.b, problem.stored_b()),
        problem.extent(problem.c, (problem.m, problem.n)),
    ]
}

/// True if zeros of the left factor are left out.
fn has_triangle(gemm: &Gemm) -> bool {
    matches!(gemm.causal, Causal::LowerA | Causal::UpperA)
}

/// True if a product can be put on the stand: nothing is done to its elements before they are written, and
/// what of it is a triangle lies as attention lays it out.
pub fn is_possible(gemm: &Gemm) -> bool {
    let squares = |matrix: &Matrix| {
        let (layout, square) = (matrix.layout, gemm.m * gemm.m);
        let outer_is = layout.outer == gemm.batch_inner * square || gemm.batch_outer == 1;
        let inner_is = layout.inner == square || gemm.batch_inner == 1;
        !matrix.packed && (layout.first, layout.ld) == (0, gemm.m) && inner_is && outer_is
    };
    let lies_right = match gemm.causal {
        Causal::None => true,
        Causal::LowerOutput => squares(&gemm.c),
        Causal::LowerA | Causal::UpperA => squares(&gemm.a),
        Causal::Blocks => false,
    };
    gemm.is_plain() && lies_right
}

fn words_of(matrix: &Matrix, elements: usize) -> usize {
    if matrix.packed { packed_words(elements) } else { elements }
}

impl Sizes {
    fn of(contestants: &[Contestant]) -> Sizes {
        let mut sizes = Sizes::default();
        for Contestant { gemm, ways } in contestants {
            let [a, b, c] = extents(gemm);
            let [a_words, b_words, c_words] =
                [(&gemm.a, a), (&gemm.b, b), (&gemm.c, c)].map(|(matrix, n)| words_of(matrix, n));
            let of = |packed: bool| {
                let words =
                    |matrix: &Matrix, words| if matrix.packed == packed { align_words(words) } else { 0 };
                words(&gemm.a, a_words) + words(&gemm.b, b_words)
            };
            sizes.floats = sizes.floats.max(of(false)).max(gemm.n);
            sizes.packed = sizes.packed.max(of(true));
            if ways.iter().any(|way| matches!(way, Way::Halves(_))) {
                sizes.split = [sizes.split[0].max(split_words(a)), sizes.split[1].max(split_words(b))];
            }
            if has_triangle(gemm) {
                sizes.triangle = sizes.triangle.max(a);
            }
            sizes.result = sizes.result.max(c_words);
            let partials = ways.iter().map(|way| way.partial_words(gemm)).max();
            sizes.partials = sizes.partials.max(partials.unwrap_or(0));
            // One more for what spoils the results.
            sizes.counts = sizes.counts.max((ways.len() + 1) * VIEW_ALIGNMENT_WORDS);
        }
        if sizes.packed > 0 {
            sizes.floats = sizes.floats.max(RANDOM_WORDS);
        }
        sizes
    }
}

impl StandProgram {
    /// The program in which these products meet, on a device of these traits.
    pub fn new(contestants: &[Contestant], traits: Traits) -> StandProgram {
        let mut program = Program::default();
        let sizes = Sizes::of(contestants);
        let mut add = |name: &str, words: usize| {
            program.add_buffer(name, words.max(1), Group::Scratch, Residence::Device)
        };
        let (floats, packed) = (add("floats", sizes.floats), add("packed", sizes.packed));
        let split = [add("split.a", sizes.split[0]), add("split.b", sizes.split[1])];
        let triangle = add("triangle", sizes.triangle);
        let results = [add("wanted", sizes.result), add("got", sizes.result)];
        let (partials, counts) = (add("partials", sizes.partials), add("counts", sizes.counts));
        let pack = (sizes.packed > 0).then(|| {
            let units = traits.matrix_units.expect("factors are packed for matrix units");
            let first = packed.part(0, packed.words.min(RANDOM_WORDS / 2));
            let mut r = Recorder::new(traits, None);
            pack(&mut r, units.factor, false, floats.part(0, 2 * first.words), first);
            (r.finish(&mut program, "pack"), first)
        });
        let room = Room { floats, packed, split, triangle, results, partials, counts };
        let recordings =
            contestants.iter().map(|contestant| room.record(&mut program, contestant, traits)).collect();
        StandProgram { program, floats, packed, pack, counts, recordings }
    }
}

#[cfg(test)]
impl StandProgram {
    /// Makes the comparison of a way of the first product miss the workgroups at the right edge.
    pub fn leave_out_last_column(&mut self, way: usize) {
        let recording = self.recordings[0].compared[way];
        self.program.recordings[recording.0].dispatches[0].groups[0] -= 1;
    }
}

/// The buffers that products share.
struct Room {
    floats: View,
    packed: View,
    split: [View; 2],
    /// Factors with a triangle of zeros.
    triangle: View,
    /// What is wanted, and what is compared with it.
    results: [View; 2],
    partials: View,
    counts: View,
}

impl Room {
    /// The product with its factors, and with a result in each place.
    fn place(&self, gemm: &Gemm) -> [Gemm; 2] {
        let [a_len, b_len, c_len] = extents(gemm);
        let [a_words, b_words] = [words_of(&gemm.a, a_len), words_of(&gemm.b, b_len)];
        let pool = |matrix: &Matrix| if matrix.packed { self.packed } else { self.floats };
        let shared = gemm.a.packed == gemm.b.packed;
        let of_a = if has_triangle(gemm) { self.triangle } else { pool(&gemm.a) };
        let a = Matrix { view: of_a.part(0, a_words), ..gemm.a };
        let b_start = if shared { align_words(a_words) } else { 0 };
        let b = Matrix { view: pool(&gemm.b).part(b_start, b_words), ..gemm.b };
        let bias = gemm.bias.map(|_| self.floats.part(0, gemm.n));
        self.results.map(|result| {
            let c = Matrix { view: result.part(0, words_of(&gemm.c, c_len)), ..gemm.c };
            Gemm { a, b, c, bias, ..*gemm }
        })
    }

    fn count(&self, way: usize) -> View {
        self.counts.part(way * VIEW_ALIGNMENT_WORDS, 1)
    }

    /// Where the factors lie split, and by which shift, if a way multiplies them so.
    fn split_factors(&self, Contestant { gemm, ways }: &Contestant) -> Option<(u32, [View; 2])> {
        let low_shift = ways.iter().find_map(|way| match way {
            Way::Halves(plan) => Some(plan.tile.low_shift),
            _ => None,
        })?;
        let [a, b, _] = extents(gemm);
        Some((low_shift, [self.split[0].part(0, split_words(a)), self.split[1].part(0, split_words(b))]))
    }

    /// Spoils both results, and makes the factors that are not only random.
    fn prepare(&self, program: &mut Program, contestant: &Contestant, traits: Traits) -> RecordingId {
        let gemm = &contestant.gemm;
        let [wanted, got] = self.place(gemm);
        let mut r = Recorder::new(traits, None);
        let spare = self.count(contestant.ways.len());
        compare::results(&mut r, gemm, got.c.view, wanted.c.view, spare);
        compare::results(&mut r, gemm, wanted.c.view, got.c.view, spare);
        if let Some((low_shift, [a, b])) = self.split_factors(contestant) {
            split(&mut r, wanted.a.view, a, low_shift);
            split(&mut r, wanted.b.view, b, low_shift);
        }
        if has_triangle(gemm) {
            let (batch, n_head) = (gemm.batch_outer, gemm.batch_inner);
            let shape = AttentionShape { batch, context: gemm.m, n_head, d_head: 1 };
            let random = self.floats.part(0, wanted.a.view.words);
            softmax::forward(&mut r, shape, random, wanted.a.view);
        }
        r.finish(program, "prepare")
    }

    fn record(&self, program: &mut Program, contestant: &Contestant, traits: Traits) -> Recordings {
        let Contestant { gemm, ways } = contestant;
        let [wanted, got] = self.place(gemm);
        let factors = self.split_factors(contestant).map(|(_, factors)| factors);
        let dispatches = |way: &Way, gemm: &Gemm| -> Vec<Dispatch> {
            let words = way.partial_words(gemm);
            let partials = (words > 0).then(|| self.partials.part(0, words));
            way.record(gemm, &traits, factors, partials)
        };
        let prepare = self.prepare(program, contestant, traits);
        let reference = program.add_recording("reference", dispatches(&ways[0], &wanted));
        let compared = |(number, way): (usize, &Way)| {
            let mut r = Recorder::new(traits, None);
            dispatches(way, &got).into_iter().for_each(|dispatch| r.add(dispatch));
            compare::results(&mut r, gemm, wanted.c.view, got.c.view, self.count(number));
            r.finish(program, "compared")
        };
        let compared = ways.iter().enumerate().map(compared).collect();
        let flops = gemm.problem().flops() as f64;
        let calls = ((FLOPS_OF_A_RUN / flops) as usize).clamp(1, MOST_CALLS);
        let repeated = |way: &Way| (0..calls).flat_map(|_| dispatches(way, &got)).collect();
        let timed = ways.iter().map(|way| program.add_recording("timed", repeated(way))).collect();
        Recordings { prepare, reference, compared, timed, calls, flops }
    }
}

/// A stand on a device.
pub struct DeviceStand {
    parts: StandProgram,
    executor: VulkanExecutor,
    /// Of the product that was tried last; 0 before.
    seconds_a_flop: f64,
}

impl DeviceStand {
    /// Takes the memory, builds every kernel, and makes the factors.
    pub fn load(device: &Arc<Device>, parts: StandProgram) -> Result<DeviceStand> {
        let mut executor = VulkanExecutor::load(device, parts.program.clone())?;
        let floats = parts.floats;
        let first = floats.part(0, floats.words.min(RANDOM_WORDS));
        let mut numbers = vec![0.0f32; first.words];
        fill_normal(&mut numbers, 1.0, 1, 0, 0);
        numbers.iter_mut().for_each(|x| *x = snap(*x));
        executor.write(first, bytemuck::cast_slice(&numbers))?;
        repeat(&mut executor, first, floats)?;
        if let Some((pack, first)) = parts.pack {
            executor.submit(pack, &[])?;
            repeat(&mut executor, first, parts.packed)?;
        }
        Ok(DeviceStand { parts, executor, seconds_a_flop: 0.0 })
    }

    /// Keeps the device busy with the smallest product until it runs as fast as it will, unless even that
    /// takes too long.
    pub fn warm_up(&mut self) -> Result<()> {
        let smallest =
            self.parts.recordings.iter().enumerate().min_by(|x, y| x.1.flops.total_cmp(&y.1.flops));
        let Some((smallest, _)) = smallest else { return Ok(()) };
        if self.reference_seconds(smallest)?.is_none() {
            return Ok(());
        }
        let recording = self.parts.recordings[smallest].timed[0];
        until_steady(WARM_ENOUGH, WARM_MOST, || {
            let (turn, mut ms) = (Instant::now(), f64::INFINITY);
            while turn.elapsed() < WARM_TURN {
                ms = ms.min(self.executor.time(recording, RUNS)?.min_ms());
            }
            Ok(ms)
        })
    }

    /// How long way 0 of a product takes; `None` if a submit of what is to be timed would take too long. What
    /// would by the pace of the product before is not even tried.
    fn reference_seconds(&mut self, product: usize) -> Result<Option<f64>> {
        let &Recordings { prepare, reference, calls, flops, .. } = &self.parts.recordings[product];
        if flops * self.seconds_a_flop > LONGEST_S {
            return Ok(None);
        }
        self.executor.submit(prepare, &[])?;
        self.executor.wait_idle()?;
        // The first run also pays for what the driver puts off until a kernel is used.
        let mut seconds = 0.0;
        for _ in 0..2 {
            let start = Instant::now();
            self.executor.submit(reference, &[])?;
            self.executor.wait_idle()?;
            seconds = start.elapsed().as_secs_f64();
        }
        self.seconds_a_flop = seconds / flops;
        Ok((seconds <= LONGEST_S && seconds * calls as f64 <= LONGEST_RUN_S).then_some(seconds))
    }
}

#[cfg(test)]
impl DeviceStand {
    /// The numbers that factors are made of, in 32 and in 16 bits.
    pub fn numbers(&mut self) -> Result<[Vec<u32>; 2]> {
        Ok([self.executor.read(self.parts.floats)?, self.executor.read(self.parts.packed)?])
    }
}

/// Fills a buffer with what stands at its beginning, `first`.
fn repeat(executor: &mut VulkanExecutor, first: View, all: View) -> Result<()> {
    let mut filled = first.words;
    while filled < all.words {
        let next = all.part(filled, filled.min(all.words - filled));
        executor.time_copy(all.part(0, next.words), next, 1)?;
        filled += next.words;
    }
    Ok(())
}

impl Stand for DeviceStand {
    fn agree(&mut self, product: usize) -> Result<Option<Vec<bool>>> {
        if self.reference_seconds(product)?.is_none() {
            return Ok(None);
        }
        let (compared, counts) = (&self.parts.recordings[product].compared, self.parts.counts);
        self.executor.write(counts, &vec![0; counts.words])?;
        for recording in compared {
            self.executor.submit(*recording, &[])?;
        }
        let words = self.executor.read(counts)?;
        let different = |way: usize| words[way * VIEW_ALIGNMENT_WORDS];
        Ok(Some((0..compared.len()).map(|way| different(way) == 0).collect()))
    }

    fn time_ms(&mut self, product: usize, way: usize) -> Result<f64> {
        let Recordings { timed, calls, .. } = &self.parts.recordings[product];
        // A run before, which is not counted, is enough for a product that takes long.
        let runs = if *calls > 1 { RUNS } else { 1 };
        let timing = self.executor.time(timed[way], runs)?;
        Ok(timing.min_ms() / *calls as f64)
    }
}
