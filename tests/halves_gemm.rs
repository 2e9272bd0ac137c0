//! Products of factors split into two 16-bit floats an element are as close to the exact ones as any f32
//! product, write the whole result and nothing else, and give the same bits on every run. On a device whose
//! matrix units take no such floats, only what can be said without them is tested.

#[path = "common/closeness.rs"]
mod closeness;
mod common;
#[path = "common/products.rs"]
mod products;

use std::sync::Arc;

use hlx::exact::{fill_normal, random_u32};
use hlx::ops::Recorder;
use hlx::ops::gemm::halves::{self, HalvesPlan, HalvesTile, TILES};
use hlx::ops::gemm::{Gemm, Matrix, Pass};
use hlx::ops::split::{split, split_words};
use hlx::precision::Precision;
use hlx::recording::{
    Dispatch, Executor, Factor, Group, MatrixUnits, Program, RecordingId, Residence, Traits, View,
    align_words,
};
use hlx::vulkan::{Device, Kind, VulkanExecutor};

use closeness::check;
use products::{Case, batches_and_triangles, long_sums, shapes_and_layouts};

/// What the norm of the difference may be, of the exact result's.
const TOLERANCE: f64 = 1e-6;

/// Small, because software Vulkan takes long to build a large tile's kernel. A chunk is a matrix' side.
fn tile(units: MatrixUnits) -> HalvesTile {
    HalvesTile { shares: 2, chunk: units.side as usize, ..HalvesTile::new([32, 32], [16, 16]) }
}

const WHOLE_SUMS: usize = 1 << 20;

/// The device under test, if it has such matrix units.
fn open() -> Option<(Arc<Device>, MatrixUnits)> {
    let device = common::open();
    common::half_units(&device).map(|units| (device, units))
}

/// A product with all that goes before: its factors are split into the room.
fn record(gemm: &Gemm, room: View, units: MatrixUnits, plan: &HalvesPlan) -> Vec<Dispatch> {
    let mut recorder = Recorder::new(Traits::PLAIN, None);
    let mut next = 0;
    let mut take = |words: usize| {
        let view = room.part(next, words);
        next += align_words(words);
        view
    };
    let factors = [gemm.a.view, gemm.b.view].map(|factor| {
        let view = take(split_words(factor.words));
        split(&mut recorder, factor, view, plan.tile.low_shift);
        view
    });
    let words = plan.partial_words(&gemm.problem());
    let alone = gemm.batch_outer * gemm.batch_inner == 1;
    let partials = (words > 0 && alone).then(|| take(words));
    halves::record(gemm, factors, units, plan, partials).into_iter().for_each(|d| recorder.add(d));
    recorder.dispatches
}

fn check_plan(cases: &[Case], plan: impl Fn(MatrixUnits) -> HalvesPlan) {
    let Some((device, units)) = open() else { return };
    let plan = plan(units);
    check(&device, cases, TOLERANCE, |gemm, room| record(gemm, room, units, &plan));
    common::assert_silent(&device);
}

/// Those of the cases that the kernel can compute, and whose gaps leave rows whole eights.
fn possible(cases: Vec<Case>) -> Vec<Case> {
    let eights = |case: &Case| {
        let problem = case.problem();
        let of = |layout: hlx::ops::gemm::Layout, columns: usize| {
            [layout.first, layout.ld, layout.outer, layout.inner, columns].iter().all(|x| x % 8 == 0)
        };
        of(problem.a, problem.stored_a().1) && of(problem.b, problem.stored_b().1)
    };
    cases.into_iter().filter(eights).collect()
}

#[test]
fn shapes_layouts_batches_and_triangles() {
    let own =
        [[8, 8, 8], [7, 40, 64], [72, 24, 40], [64, 96, 32], [100, 264, 104], [1, 600, 8], [200, 16, 8]];
    let own = own.iter().enumerate().flat_map(|(i, &sizes)| {
        Case { use_bias: i % 2 == 0, gap: [0, 8][i % 2], ..Case::new(sizes) }.transposed()
    });
    let given = shapes_and_layouts().into_iter().chain(batches_and_triangles());
    let triangles = batches_and_triangles().into_iter().map(|case| {
        let [m, k, n] = case.sizes.map(|size| usize::next_multiple_of(size, 8));
        Case { gap: 8, sizes: [m, k, n], ..case }
    });
    let cases = possible(own.chain(given).chain(triangles).collect());
    assert!(cases.len() > 40, "{} cases", cases.len());
    check_plan(&cases, |units| HalvesPlan { tile: tile(units), block_terms: WHOLE_SUMS });
}

#[test]
fn sums_in_blocks() {
    let even = [[65, 768, 128], [128, 776, 40], [129, 1000, 64], [24, 2048, 72]].into_iter();
    let even = even.flat_map(|sizes| Case { use_bias: true, gap: 8, ..Case::new(sizes) }.transposed());
    let cases = possible(long_sums().into_iter().chain(even).collect());
    assert!(cases.len() > 10, "{} cases", cases.len());
    check_plan(&cases, |units| HalvesPlan { tile: tile(units), block_terms: 192 });
}

/// One share, longer steps, other orders of tiles; long chunks, whose low parts are stored as they are.
#[test]
fn other_ways_through_the_kernel() {
    let cases = [[100, 80, 72], [96, 64, 64]].map(|size| Case { use_bias: true, ..Case::new(size) });
    for way in 0..4 {
        check_plan(&cases, |units| {
            let tile = tile(units);
            let tile = match way {
                0 => HalvesTile { shares: 1, band: 1, ..tile },
                1 => HalvesTile { step: 32, chunk: 32, part_columns: 32, band: 2, shares: 1, ..tile },
                2 => HalvesTile { ahead: false, shares: 1, ..tile },
                _ => HalvesTile { chunk: 64, low_shift: 0, ..tile },
            };
            HalvesPlan { tile, block_terms: WHOLE_SUMS }
        });
    }
}

#[test]
fn the_tiles_of_gpus() {
    let Some((device, _)) = open() else { return };
    let tiles = if device.info().kind == Kind::Cpu { &TILES[TILES.len() - 1..] } else { &TILES[..] };
    for &tile in tiles {
        let cases = [[300, 80, 264], [256, 128, 256]].map(Case::new);
        let plan = HalvesPlan { tile, block_terms: WHOLE_SUMS };
        check_plan(&cases, |_| plan);
    }
}

const SIZES: [usize; 3] = [40, 304, 48];

/// The product of these factors, in f64 and on the device.
fn products_of(device: &Arc<Device>, units: MatrixUnits, a: &[f32], b: &[f32]) -> [Vec<f64>; 2] {
    let [m, k, n] = SIZES;
    let mut program = Program::default();
    let mut add = |name: &str, words| program.add_buffer(name, words, Group::Scratch, Residence::Device);
    let (a_view, b_view, c) = (add("a", m * k), add("b", k * n), add("c", m * n));
    let room = add("room", 1 << 18);
    let gemm =
        Gemm::new(Pass::Forward, SIZES, Matrix::new(a_view, k), Matrix::new(b_view, n), Matrix::new(c, n));
    let plan = HalvesPlan { tile: tile(units), block_terms: WHOLE_SUMS };
    program.add_recording("product", record(&gemm, room, units, &plan));
    let mut executor = VulkanExecutor::load(device, program).unwrap();
    for (view, values) in [(a_view, a), (b_view, b), (c, &vec![f32::NAN; m * n])] {
        executor.write(view, bytemuck::cast_slice(values)).unwrap();
    }
    executor.submit(RecordingId(0), &[]).unwrap();
    let got = executor.read(c).unwrap().into_iter().map(|word| f64::from(f32::from_bits(word))).collect();
    let term = |i: usize, p: usize, j: usize| f64::from(a[i * k + p]) * f64::from(b[p * n + j]);
    let sum = |at: usize| (0..k).map(|p| term(at / n, p, at % n)).sum();
    [(0..m * n).map(sum).collect(), got]
}

fn normal(len: usize, std_dev: f64, seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; len];
    fill_normal(&mut values, std_dev, seed, 0, 0);
    values
}

/// Factors of any size, and of sizes that differ by many powers of two, keep their digits.
#[test]
fn large_and_small_numbers() {
    let Some((device, units)) = open() else { return };
    let [m, k, n] = SIZES;
    let spread = |mut values: Vec<f32>, seed: u64| {
        for (i, x) in values.iter_mut().enumerate() {
            *x *= 2.0_f32.powi(-((random_u32(seed, 1, 0, i as u32) % 40) as i32));
        }
        values
    };
    for (what, a, b) in [
        ("about one", normal(m * k, 1.0, 1), normal(k * n, 1.0, 2)),
        ("gradients", normal(m * k, 1e-7, 1), normal(k * n, 0.02, 2)),
        ("large and small", normal(m * k, 1e30, 1), normal(k * n, 1e-30, 2)),
        ("large", normal(m * k, 1e18, 1), normal(k * n, 1e18, 2)),
        ("spread", spread(normal(m * k, 1.0, 1), 3), spread(normal(k * n, 1.0, 2), 4)),
    ] {
        let [wanted, got] = products_of(&device, units, &a, &b);
        let error = common::distance(&got, &wanted);
        assert!(error <= TOLERANCE / 2.0, "{what}: {error:e}");
    }
    common::assert_silent(&device);
}

/// Rows far below the largest magnitude have an error as small, measured by their own size.
#[test]
fn small_rows_keep_their_digits() {
    let Some((device, units)) = open() else { return };
    let [m, k, n] = SIZES;
    let (mut a, b) = (normal(m * k, 1.0, 1), normal(k * n, 1.0, 2));
    for (i, row) in a.chunks_mut(k).enumerate() {
        row.iter_mut().for_each(|x| *x *= 2.0_f32.powi(-(i as i32)));
    }
    let [wanted, got] = products_of(&device, units, &a, &b);
    let errors: Vec<f64> = wanted.chunks(n).zip(got.chunks(n)).map(|(x, y)| common::distance(y, x)).collect();
    println!("by powers of two below the largest: {errors:?}");
    assert!(errors[..25].iter().all(|&error| error <= TOLERANCE / 2.0), "{errors:?}");
    // Sums below 2^-50 are snapped, and none here is.
    assert!(errors.iter().all(|&error| error <= 1e-3), "{errors:?}");
    common::assert_silent(&device);
}

#[test]
fn zeros() {
    let Some((device, units)) = open() else { return };
    let [m, k, n] = SIZES;
    let [_, got] = products_of(&device, units, &vec![0.0; m * k], &normal(k * n, 1.0, 2));
    assert!(got.iter().all(|&x| x == 0.0));
    let [_, got] = products_of(&device, units, &vec![0.0; m * k], &vec![-0.0; k * n]);
    assert!(got.iter().all(|&x| x == 0.0));
}

/// What is not finite makes what it is a factor of not finite, and nothing else.
#[test]
fn what_is_not_finite_is_seen() {
    let Some((device, units)) = open() else { return };
    let [m, k, n] = SIZES;
    for bad in [f32::NAN, f32::from_bits(0xff80_0001), f32::INFINITY, f32::NEG_INFINITY] {
        let (mut a, mut b) = (normal(m * k, 1.0, 1), normal(k * n, 1.0, 2));
        a[3 * k + 17] = bad;
        b[100 * n + 5] = bad;
        let [wanted, got] = products_of(&device, units, &a, &b);
        for (at, (wanted, got)) in wanted.iter().zip(&got).enumerate() {
            let touched = at / n == 3 || at % n == 5;
            assert_eq!(got.is_finite(), !touched, "{bad} at {at}: {got} for {wanted}");
            assert!(touched || (got - wanted).abs() < 1e-3, "{bad} at {at}: {got} for {wanted}");
        }
    }
    common::assert_silent(&device);
}

/// Which products are taken by which kernels, and that a factor is split once.
#[test]
fn f32_takes_matrix_units_where_they_are_faster() {
    let units = MatrixUnits::usual(Factor::F16);
    let traits = Traits {
        precision: Precision::F32,
        fast_shared_memory: true,
        half_units: Some(units),
        ..Traits::PLAIN
    };
    let kernels = |traits: Traits, sizes: [usize; 3], times: usize| {
        let mut program = Program::default();
        let mut add = |name: &str, words| program.add_buffer(name, words, Group::Scratch, Residence::Device);
        let [m, k, n] = sizes;
        let (a, b, c, room) = (add("a", m * k), add("b", k * n), add("c", m * n), add("room", 1));
        let mut recorder = Recorder::new(traits, Some(room.buffer));
        for _ in 0..times {
            recorder.multiply(&Gemm::new(
                Pass::Forward,
                sizes,
                Matrix::new(a, k),
                Matrix::new(b, n),
                Matrix::new(c, n),
            ));
        }
        recorder.dispatches.iter().map(|dispatch| dispatch.kernel.name()).collect::<Vec<_>>()
    };
    let splits = ["halves_largest", "halves_pack", "halves_largest", "halves_pack"];
    let large = [4096, 1024, 2048];
    let twice = [&splits[..], &["gemm_halves"; 2]].concat();
    assert_eq!(kernels(traits, large, 2), twice);
    assert_eq!(kernels(traits, [64, 64, 64], 1), ["gemm_fast"]);
    assert_eq!(kernels(traits, [4096, 1021, 2048], 1), ["gemm_fast"]);
    assert_eq!(kernels(Traits { half_units: None, ..traits }, large, 1), ["gemm_fast"]);
    let mixed = Traits { precision: Precision::Mixed, matrix_units: Some(units), ..traits };
    assert_eq!(kernels(mixed, large, 1).last(), Some(&"gemm_f16"));
    let little = Traits { shared_memory_bytes: 16 << 10, ..traits };
    assert!(kernels(little, large, 1).iter().all(|kernel| kernel.contains("tiled")));
    assert!(
        kernels(Traits { precision: Precision::Exact, ..traits }, large, 1)
            .iter()
            .all(|k| k.contains("tiled"))
    );
}
