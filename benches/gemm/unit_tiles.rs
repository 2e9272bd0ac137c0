//! Tiles of several kinds for the products of packed factors on matrix units, side by side on one device.
//!
//! Every result is held to the product of a sample of its rows on the host; every candidate is loaded before
//! the first is timed, and all are timed in turns, because a card's clock wanders.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hlx::exact::random_u32;
use hlx::ops::gemm::units::{self, UnitPlan, UnitTile};
use hlx::ops::gemm::{Gemm, Matrix, Pass};
use hlx::recording::{Executor, Factor, Group, MatrixUnits, Program, RecordingId, Residence, View};
use hlx::vulkan::{Device, VulkanExecutor};

/// How long a card is kept busy before anything is timed: it takes a while to come to its full speed.
const WARM: Duration = Duration::from_millis(150);

/// Rounds over all candidates, and how long a candidate is timed in each.
const ROUNDS: usize = 2;
const TURN_S: f64 = 0.006;

/// Rows and columns of a result that are compared.
const SAMPLE: [usize; 2] = [12, 48];

/// What the norm of a result's error may be, of the result's.
const TOLERANCE: f64 = 5e-3;

#[derive(Clone, Copy, Debug)]
struct Candidate {
    tile: UnitTile,
    /// The result is packed.
    packed: bool,
    blocks: usize,
}

impl Candidate {
    fn plan(&self, k: usize) -> UnitPlan {
        UnitPlan { tile: self.tile, block_terms: k.div_ceil(self.blocks).next_multiple_of(64) }
    }

    fn name(&self) -> String {
        let UnitTile { rows, columns, part_rows, part_columns, step, band } = self.tile;
        let packed = if self.packed { ", packed result" } else { "" };
        let blocks = self.blocks;
        format!("{rows}x{columns}/{part_rows}x{part_columns} step {step} band {band} blocks {blocks}{packed}")
    }
}

/// Tiles to compare.
fn tiles() -> Vec<UnitTile> {
    let of = |tile: UnitTile, steps: &[usize]| -> Vec<UnitTile> {
        steps.iter().map(|&step| UnitTile { step, ..tile }).collect()
    };
    [
        of(UnitTile::new([128, 128], [64, 64]), &[16, 32, 64]),
        of(UnitTile::new([128, 256], [64, 64]), &[16, 32]),
        of(UnitTile::new([256, 128], [64, 64]), &[16, 32]),
        of(UnitTile::new([128, 128], [64, 32]), &[32]),
        of(UnitTile::new([256, 128], [64, 32]), &[32]),
        of(UnitTile::new([64, 128], [32, 64]), &[32, 64]),
        of(UnitTile::new([128, 64], [64, 32]), &[32, 64]),
        of(UnitTile::new([64, 64], [32, 32]), &[32, 64]),
    ]
    .concat()
}

fn candidates(bands: bool, blocks: &[usize]) -> Vec<Candidate> {
    let largest = UnitTile::new([128, 128], [64, 64]);
    let others = if bands { &[1, 2, 32][..] } else { &[] };
    let tiles = tiles().into_iter().chain(others.iter().map(|&band| UnitTile { band, ..largest }));
    let outs = tiles.flat_map(|tile| [(tile, false), (tile, true)]);
    outs.flat_map(|(tile, packed)| blocks.iter().map(move |&blocks| Candidate { tile, packed, blocks }))
        .collect()
}

/// A product to be timed: sizes, layout, numbers of blocks to try.
type Shape = ([usize; 3], [char; 2], &'static [usize], bool);

const SHAPES: [Shape; 9] = [
    ([16384, 768, 3072], ['N', 'N'], &[1], true),
    ([16384, 768, 3072], ['N', 'T'], &[1], true),
    ([768, 16384, 3072], ['T', 'N'], &[1, 3], false),
    ([8192, 8192, 8192], ['N', 'N'], &[1], false),
    ([16384, 3072, 768], ['N', 'N'], &[1], true),
    ([16384, 3072, 768], ['N', 'T'], &[1], false),
    ([4096, 4096, 4096], ['T', 'N'], &[1], false),
    ([16384, 128, 512], ['N', 'N'], &[1], true),
    ([512, 16384, 128], ['T', 'N'], &[8, 32], false),
];

/// A pair of numbers between 1/2 and 2, of either sign.
fn pair(factor: Factor, i: usize) -> u32 {
    let random = random_u32(5, 0, 0, i as u32);
    match factor {
        Factor::Bf16 => random & 0x80ff_80ff | 0x3f00_3f00,
        Factor::F16 => random & 0x87ff_87ff | 0x3800_3800,
    }
}

fn value(factor: Factor, words: &[u32], i: usize) -> f64 {
    let half = words[i / 2] >> (i % 2 * 16) & 0xffff;
    f64::from(match factor {
        Factor::Bf16 => f32::from_bits(half << 16),
        Factor::F16 => f32::from_bits(((half & 0x7fff) + (112 << 10)) << 13 | (half & 0x8000) << 16),
    })
}

/// A sample of a product: places of rows and columns, and what is right there.
struct Sample {
    rows: Vec<usize>,
    columns: Vec<usize>,
    right: Vec<f64>,
}

impl Sample {
    fn of(
        [m, k, n]: [usize; 3],
        [a_trans, b_trans]: [bool; 2],
        words: [&[u32]; 2],
        factor: Factor,
    ) -> Sample {
        // Places that meet every part of tiles.
        let spread = |count: usize, length: usize| -> Vec<usize> {
            (0..count).map(|i| (i * length / count + i * 37 % 128) % length).collect()
        };
        let (rows, columns) = (spread(SAMPLE[0], m), spread(SAMPLE[1], n));
        let a = |i: usize, p: usize| value(factor, words[0], if a_trans { p * m + i } else { i * k + p });
        let b = |p: usize, j: usize| value(factor, words[1], if b_trans { j * k + p } else { p * n + j });
        let right = rows
            .iter()
            .flat_map(|&i| {
                let row: Vec<f64> = (0..k).map(|p| a(i, p)).collect();
                let sum = |j: usize| row.iter().enumerate().map(|(p, x)| x * b(p, j)).sum::<f64>();
                columns.iter().map(|&j| sum(j)).collect::<Vec<f64>>()
            })
            .collect();
        Sample { rows, columns, right }
    }

    fn row(c: View, n: usize, i: usize, packed: bool) -> View {
        let words = if packed { n / 2 } else { n };
        View { offset: c.offset + i * words, words, ..c }
    }

    /// Runs a candidate over rows that are not numbers; the norm of its error there.
    fn error(
        &self,
        executor: &mut VulkanExecutor,
        id: usize,
        c: View,
        n: usize,
        factor: Option<Factor>,
    ) -> f64 {
        let packed = factor.is_some();
        for &i in &self.rows {
            let row = Sample::row(c, n, i, packed);
            executor.write(row, &vec![0x7fff_7fff; row.words]).expect("the device works");
        }
        executor.submit(RecordingId(id), &[]).expect("the device works");
        let (mut errors, mut squares) = (0.0, 0.0);
        for (&i, right) in self.rows.iter().zip(self.right.chunks(self.columns.len())) {
            let words = executor.read(Sample::row(c, n, i, packed)).expect("the device works");
            for (&j, right) in self.columns.iter().zip(right) {
                let got = factor.map_or_else(|| f64::from(f32::from_bits(words[j])), |f| value(f, &words, j));
                errors += (got - right).powi(2);
                squares += right * right;
            }
        }
        (errors / squares).sqrt()
    }
}

/// One shape: loads, checks and times every candidate, and prints them, best first.
fn compare(device: &Arc<Device>, units: MatrixUnits, (sizes, layout, blocks, full): Shape, lines: usize) {
    let [m, k, n] = sizes;
    let trans = layout.map(|letter| letter == 'T');
    let shared = device.info().shared_memory_bytes;
    let candidates: Vec<Candidate> = candidates(full, blocks)
        .into_iter()
        .filter(|c| c.tile.is_even(trans, units) && c.tile.shared_bytes(trans, units) <= shared)
        .collect();
    let mut program = Program::default();
    let mut add = |name: &str, words| program.add_buffer(name, words, Group::Scratch, Residence::Device);
    let (a, b, c, packed_c) =
        (add("a", m * k / 2), add("b", k * n / 2), add("c", m * n), add("pc", m * n / 2));
    let most = blocks.iter().max().expect("a number of blocks");
    let room = add("room", most * m * n);
    let stored = |view, trans: bool, [rows, columns]: [usize; 2]| match trans {
        true => Matrix::new(view, rows).packed().transposed(),
        false => Matrix::new(view, columns).packed(),
    };
    let factors = [stored(a, trans[0], [m, k]), stored(b, trans[1], [k, n])];
    let gemm = |packed: bool| {
        let c = if packed { Matrix::new(packed_c, n).packed() } else { Matrix::new(c, n) };
        Gemm::new(Pass::Backward, sizes, factors[0], factors[1], c)
    };
    for candidate in &candidates {
        let gemm = gemm(candidate.packed);
        let plan = candidate.plan(k);
        let words = plan.partial_words(&gemm.problem());
        let partials = (words > 0).then_some(View { words, ..room });
        program.add_recording(&candidate.name(), units::record(&gemm, units, &plan, partials));
    }
    let start = Instant::now();
    let mut executor = VulkanExecutor::load(device, program).expect("it fits");
    let loading_s = start.elapsed().as_secs_f64();
    let words = [a, b].map(|view| (0..view.words).map(|i| pair(units.factor, i)).collect::<Vec<u32>>());
    for (view, words) in [a, b].into_iter().zip(&words) {
        executor.write(view, words).expect("the device works");
    }
    let sample = Sample::of(sizes, trans, [&words[0], &words[1]], units.factor);
    let errors: Vec<f64> = candidates
        .iter()
        .enumerate()
        .map(|(id, candidate)| match candidate.packed {
            true => sample.error(&mut executor, id, packed_c, n, Some(units.factor)),
            false => sample.error(&mut executor, id, c, n, None),
        })
        .collect();
    let start = Instant::now();
    while start.elapsed() < WARM {
        executor.time(RecordingId(0), 5).expect("the device works");
    }
    let flops = 2.0 * (m * k * n) as f64;
    let runs = (TURN_S * 2e14 / flops).clamp(3.0, 60.0) as usize;
    let mut shortest = vec![f64::INFINITY; candidates.len()];
    for _ in 0..ROUNDS {
        for (id, shortest) in shortest.iter_mut().enumerate() {
            let timing = executor.time(RecordingId(id), runs).expect("the device works");
            *shortest = shortest.min(timing.median_ms() / 1e3);
        }
    }
    let [a, b] = layout;
    println!("{m} x {k} x {n} {a}{b}: {} candidates, loaded in {loading_s:.1} s", candidates.len());
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|&x, &y| shortest[x].total_cmp(&shortest[y]));
    let best = UnitPlan::best(&gemm(false).problem(), units, true);
    for (place, id) in order.into_iter().enumerate() {
        let plan = candidates[id].plan(k);
        let taken = plan == best;
        // A NaN is wrong too.
        let wrong = errors[id].is_nan() || errors[id] > TOLERANCE;
        if place < lines || taken || wrong {
            println!(
                "  {:6.1} TFLOP/s {:7.1} us (model {:7.1}) {}{}{}",
                flops / shortest[id] * 1e-12,
                shortest[id] * 1e6,
                plan.estimate_us(&gemm(false).problem()),
                candidates[id].name(),
                if taken { " <- taken" } else { "" },
                if wrong { format!(" WRONG: error {:.1e}", errors[id]) } else { String::new() },
            );
        }
    }
}

/// A shape given as `MxKxN:nt`.
fn parse(text: &str) -> Option<Shape> {
    let (sizes, layout) = text.split_once(':')?;
    let sizes: Vec<usize> = sizes.split('x').map(|size| size.parse().ok()).collect::<Option<_>>()?;
    let layout: Vec<char> = layout.to_uppercase().chars().collect();
    Some((sizes.try_into().ok()?, layout.try_into().ok()?, &[1], true))
}

/// Compares tiles on every shape, or on those given, printing so many of the best of each.
pub fn compare_all(device: &Arc<Device>, lines: usize, shapes: &[String]) {
    let units = device.info().matrix_units.expect("a device with matrix units");
    let given: Vec<Shape> =
        shapes.iter().map(|text| parse(text).expect("a shape like 64x32x64:nt")).collect();
    for shape in if given.is_empty() { SHAPES.to_vec() } else { given } {
        compare(device, units, shape, lines);
    }
}
