//! Products on matrix units stay close to the exact ones on fresh random data, write the whole result and
//! nothing else, and give the same bits on every run. On a device without matrix units that hlx has kernels
//! for, only what can be said without them is tested.

#[path = "common/closeness.rs"]
mod closeness;
mod common;
#[path = "common/products.rs"]
mod products;

use std::io::Write;
use std::sync::Arc;

use hlx::cpu::CpuExecutor;
use hlx::exact::fill_normal;
use hlx::ops::gemm::units::{self, TILES, UnitPlan, UnitTile};
use hlx::ops::gemm::{Gemm, Matrix, Pass, Tiling};
use hlx::precision::Precision;
use hlx::recording::{Executor, Factor, Group, MatrixUnits, Program, RecordingId, Residence, Traits, View};
use hlx::vulkan::{Device, Kind, VulkanExecutor};

use closeness::check;
use products::{Case, batches_and_triangles, long_sums, shapes_and_layouts};

/// Small, because software Vulkan takes long to build a large tile's kernel.
const TILE: UnitTile =
    UnitTile { rows: 32, columns: 32, part_rows: 16, part_columns: 16, step: 16, shares: 2, band: 8 };

/// The device under test, if it has matrix units.
fn open() -> Option<(Arc<Device>, MatrixUnits)> {
    let device = common::open();
    let units = device.info().matrix_units;
    if units.is_none() {
        // Past the test harness, which would keep it to itself.
        let name = &device.info().name;
        let _ = writeln!(std::io::stderr(), "NOT RUN: {name} has no matrix units that hlx has kernels for");
    }
    units.map(|units| (device, units))
}

/// What the norm of the difference may be, of the exact result's.
fn tolerance(units: MatrixUnits) -> f64 {
    match units.factor {
        Factor::Bf16 => 5e-3,
        Factor::F16 => 1e-3,
    }
}

fn check_plan(cases: &[Case], plan: UnitPlan) {
    let Some((device, units)) = open() else { return };
    check(&device, cases, tolerance(units), |gemm, room| {
        let words = plan.partial_words(&gemm.problem());
        let partials =
            (words > 0 && gemm.batch_outer * gemm.batch_inner == 1).then_some(View { words, ..room });
        units::record(gemm, units, &plan, partials)
    });
    common::assert_silent(&device);
}

const WHOLE_SUMS: usize = 1 << 20;

#[test]
fn shapes_layouts_batches_and_triangles() {
    let whole = Case { use_bias: true, ..Case::new([64, 48, 96]) }.transposed();
    let cases = shapes_and_layouts().into_iter().chain(batches_and_triangles()).chain(whole);
    check_plan(&cases.collect::<Vec<_>>(), UnitPlan { tile: TILE, block_terms: WHOLE_SUMS });
}

#[test]
fn sums_in_blocks() {
    check_plan(&long_sums(), UnitPlan { tile: TILE, block_terms: 192 });
}

#[test]
fn one_share_longer_steps_and_other_orders_of_tiles() {
    let cases = [[100, 80, 70], [96, 64, 64]].map(|size| Case { use_bias: true, ..Case::new(size) });
    for tile in
        [UnitTile { shares: 1, band: 1, ..TILE }, UnitTile { step: 32, part_columns: 32, band: 2, ..TILE }]
    {
        check_plan(&cases, UnitPlan { tile, block_terms: WHOLE_SUMS });
    }
}

#[test]
fn the_tiles_of_gpus() {
    let Some((device, _)) = open() else { return };
    let tiles = if device.info().kind == Kind::Cpu { &TILES[3..] } else { &TILES[..] };
    for &tile in tiles {
        let cases = [[300, 80, 261], [256, 128, 256]].map(Case::new);
        check_plan(&cases, UnitPlan { tile, block_terms: WHOLE_SUMS });
    }
}

/// The bits of a 16-bit float that is nearest, and what it stands for.
fn round(x: f32, factor: Factor) -> (u32, f32) {
    match factor {
        Factor::Bf16 => {
            let bits = x.to_bits();
            let rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
            (rounded, f32::from_bits(rounded << 16))
        }
        // Of numbers between 2^-14 and 65,504 only.
        Factor::F16 => {
            let bits = x.to_bits();
            let rounded = (bits + 0xfff + (bits >> 13 & 1)) >> 13 << 13;
            let magnitude = rounded & 0x7fff_ffff;
            ((rounded >> 16 & 0x8000) | ((magnitude >> 13) - (112 << 10)), f32::from_bits(rounded))
        }
    }
}

/// Factors that lie packed in memory give the same bits as factors that are rounded on the way.
#[test]
fn packed_factors_are_read_as_they_are() {
    let Some((device, units)) = open() else { return };
    for ([m, k, n], ld, trans_b) in
        [([64, 32, 64], 64, false), ([37, 45, 50], 56, true), ([37, 45, 51], 53, false)]
    {
        let words = 64 * 64;
        let mut program = Program::default();
        let mut add = |name: &str, words| program.add_buffer(name, words, Group::Scratch, Residence::Device);
        let (plain, packed) =
            ([add("a", words), add("b", words)], [add("pa", words / 2), add("pb", words / 2)]);
        let results = [add("c", m * n), add("d", m * n)];
        let record = |[a, b]: [Matrix; 2], c: View| {
            let b = if trans_b { b.transposed() } else { b };
            let gemm = Gemm::new(Pass::Forward, [m, k, n], a, b, Matrix::new(c, n));
            units::record(&gemm, units, &UnitPlan { tile: TILE, block_terms: WHOLE_SUMS }, None)
        };
        let dispatches = [
            record(plain.map(|view| Matrix::new(view, ld)), results[0]),
            record(packed.map(|view| Matrix::new(view, ld).packed()), results[1]),
        ];
        program.add_recording("products", dispatches.concat());
        let mut executor = VulkanExecutor::load(&device, program).unwrap();
        for (i, (plain, packed)) in plain.into_iter().zip(packed).enumerate() {
            let mut values = vec![0.0; words];
            fill_normal(&mut values, 1.0, 7, i as u32, 0);
            let rounded: Vec<(u32, f32)> =
                values.iter().map(|x| round(x.signum() * x.abs().max(1e-3), units.factor)).collect();
            let floats: Vec<f32> = rounded.iter().map(|(_, x)| *x).collect();
            let pairs: Vec<u32> = rounded.chunks(2).map(|pair| pair[0].0 | pair[1].0 << 16).collect();
            executor.write(plain, bytemuck::cast_slice(&floats)).unwrap();
            executor.write(packed, &pairs).unwrap();
        }
        executor.submit(RecordingId(0), &[]).unwrap();
        let [plain, packed] = results.map(|view| executor.read(view).unwrap());
        assert!(plain == packed, "{m} x {k} x {n}");
        assert!(plain.iter().any(|&word| word != 0));
    }
    common::assert_silent(&device);
}

/// Gradients of 1e-9 are lost in 16 bits with 5 bits of exponent, unless they are known to be gradients.
#[test]
fn small_gradients_keep_their_digits() {
    let Some((device, units)) = open() else { return };
    let [m, k, n] = [40, 300, 50];
    let error = |gradient: bool| {
        let mut program = Program::default();
        let mut add = |name: &str, words| program.add_buffer(name, words, Group::Scratch, Residence::Device);
        let (a, b, c) = (add("a", m * k), add("b", k * n), add("c", m * n));
        let a_matrix = Matrix::new(a, k);
        let a_matrix = if gradient { a_matrix.gradient() } else { a_matrix };
        let gemm = Gemm::new(Pass::Backward, [m, k, n], a_matrix, Matrix::new(b, n), Matrix::new(c, n));
        let plan = UnitPlan { tile: TILE, block_terms: WHOLE_SUMS };
        let mut exact = program.clone();
        exact.add_recording("exact", vec![gemm.record_tiled(Tiling::Alone)]);
        program.add_recording("units", units::record(&gemm, units, &plan, None));
        let result = |executor: &mut dyn Executor| {
            for (view, std_dev) in [(a, 1e-8), (b, 1.0)] {
                let mut values = vec![0.0; view.words];
                fill_normal(&mut values, std_dev, 3, view.buffer.0, 0);
                executor.write(view, bytemuck::cast_slice(&values)).unwrap();
            }
            executor.submit(RecordingId(0), &[]).unwrap();
            executor
                .read(c)
                .unwrap()
                .into_iter()
                .map(|word| f64::from(f32::from_bits(word)))
                .collect::<Vec<_>>()
        };
        let exact = result(&mut CpuExecutor::load(exact).unwrap());
        let got = result(&mut VulkanExecutor::load(&device, program).unwrap());
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        norm(&mut exact.iter().zip(&got).map(|(x, y)| x - y)) / norm(&mut exact.iter().copied())
    };
    assert!(error(true) <= tolerance(units), "{}", error(true));
    assert!(units.factor == Factor::Bf16 || error(false) > 0.1, "{}", error(false));
    common::assert_silent(&device);
}

/// Which kernel a precision asks for, and that a product's plan follows from its shape.
#[test]
fn mixed_takes_matrix_units_where_there_are_some() {
    let units = MatrixUnits {
        factor: Factor::F16,
        side: 16,
        subgroup_size: 32,
        in_registers: false,
        workgroup_scope: false,
    };
    let traits = Traits {
        precision: Precision::Mixed,
        fast_shared_memory: true,
        matrix_units: Some(units),
        ..Traits::PLAIN
    };
    let mut program = Program::default();
    let mut add = |name: &str, words| program.add_buffer(name, words, Group::Scratch, Residence::Device);
    let [a, b, c] =
        [add("a", 1 << 16), add("b", 1 << 16), add("c", 1 << 16)].map(|view| Matrix::new(view, 256));
    let gemm = Gemm::new(Pass::Forward, [256; 3], a, b, c);
    assert_eq!(gemm.record(&traits).kernel.name(), "gemm_f16");
    let bf16 = Some(MatrixUnits { factor: Factor::Bf16, ..units });
    assert_eq!(gemm.record(&Traits { matrix_units: bf16, ..traits }).kernel.name(), "gemm_bf16");
    assert_eq!(gemm.record(&Traits { matrix_units: None, ..traits }).kernel.name(), "gemm_fast");
    assert_eq!(gemm.record(&Traits { precision: Precision::F32, ..traits }).kernel.name(), "gemm_fast");
    assert!(gemm.record(&Traits { precision: Precision::Exact, ..traits }).kernel.exact());
}
