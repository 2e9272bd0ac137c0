//! Products on matrix units stay close to the exact ones on fresh random data, write the whole result and
//! nothing else, and give the same bits on every run. On a device without matrix units that hlx has kernels
//! for, only what can be said without them is tested.

#[path = "common/closeness.rs"]
mod closeness;
mod common;
#[path = "common/halves.rs"]
mod halves;
#[path = "common/products.rs"]
mod products;

use std::collections::HashSet;
use std::sync::Arc;

use hlx::cpu::CpuExecutor;
use hlx::exact::fill_normal;
use hlx::ops::Recorder;
use hlx::ops::gemm::units::{self, TILES, UnitPlan, UnitTile};
use hlx::ops::gemm::{Gemm, Matrix, Pass, Tiling};
use hlx::ops::pack::{pack, pack_on_host, packed_words};
use hlx::precision::Precision;
use hlx::recording::{Executor, Factor, Group, MatrixUnits, Program, RecordingId, Residence, Traits, View};
use hlx::vulkan::{Device, Kind, VulkanExecutor};

use closeness::check;
use halves::{GRADIENT_SCALE, from_half, half_at, to_half};
use products::{Case, Loaded, batches_and_triangles, element, load_gemm, long_sums, shapes_and_layouts};

/// Small, because software Vulkan takes long to build a large tile's kernel.
const TILE: UnitTile = UnitTile { step: 16, ..UnitTile::new([32, 32], [16, 16]) };

/// The device under test, if it has matrix units.
fn open() -> Option<(Arc<Device>, MatrixUnits)> {
    let device = common::open();
    common::matrix_units(&device).map(|units| (device, units))
}

/// What the norm of the difference may be, of the exact result's.
fn tolerance(units: MatrixUnits) -> f64 {
    match units.factor {
        Factor::Bf16 => 5e-3,
        Factor::F16 => 1e-3,
    }
}

/// The plan with shares that the device's subgroups fill: large ones need longer shares of a small tile.
fn fitting(plan: UnitPlan, units: MatrixUnits) -> UnitPlan {
    let layouts = [[false, false], [false, true], [true, false], [true, true]];
    let fits = |tile: UnitTile| layouts.iter().all(|trans| tile.is_even(*trans, units));
    let longer = UnitTile { step: 32, ..plan.tile };
    let tile = if fits(plan.tile) { plan.tile } else { longer };
    assert!(fits(tile), "{tile:?} on {units:?}");
    UnitPlan { tile, ..plan }
}

fn check_plan(cases: &[Case], plan: UnitPlan) {
    let Some((device, units)) = open() else { return };
    let plan = fitting(plan, units);
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
    let whole = Case { use_bias: true, ..Case::new([64, 64, 96]) }.transposed();
    let cases = shapes_and_layouts().into_iter().chain(batches_and_triangles()).chain(whole);
    check_plan(&cases.collect::<Vec<_>>(), UnitPlan { tile: TILE, block_terms: WHOLE_SUMS });
}

#[test]
fn sums_in_blocks() {
    // A single element may be a small difference of large terms, whose error says nothing: a row instead.
    let cases = long_sums().into_iter().map(|case| match case.sizes {
        [1, k, 1] => Case { sizes: [1, k, 40], ..case },
        _ => case,
    });
    check_plan(&cases.collect::<Vec<_>>(), UnitPlan { tile: TILE, block_terms: 192 });
}

#[test]
fn longer_steps_and_other_orders_of_tiles() {
    let cases = [[100, 80, 70], [96, 64, 64]].map(|size| Case { use_bias: true, ..Case::new(size) });
    for tile in [UnitTile { band: 1, ..TILE }, UnitTile { step: 32, part_columns: 32, band: 2, ..TILE }] {
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

/// Stands in packed results beforehand: not a number in either format.
const UNWRITTEN_PAIR: u32 = 0x7fff_7fff;

/// The same product with the operands marked in `packing` (A, B, C) packed.
struct Packed {
    loaded: Loaded,
    gemm: Gemm,
    packing: [bool; 3],
    /// Where A, B and C lie packed.
    views: [View; 3],
}

impl Packed {
    fn load(program: &mut Program, case: Case, packing: [bool; 3]) -> Packed {
        let (loaded, gemm) = load_gemm(program, case, Pass::Forward, closeness::UNWRITTEN);
        let views = [gemm.a.view, gemm.b.view, gemm.c.view].map(|view| {
            let name = format!("packed {}", program.buffers.len());
            program.add_buffer(&name, packed_words(view.words), Group::Scratch, Residence::Device)
        });
        Packed { loaded, gemm, packing, views }
    }

    fn packed_gemm(&self) -> Gemm {
        let one = |matrix: Matrix, i: usize| {
            let packed = Matrix { view: self.views[i], ..matrix }.packed();
            if self.packing[i] { packed } else { matrix }
        };
        let Gemm { a, b, c, .. } = self.gemm;
        Gemm { a: one(a, 0), b: one(b, 1), c: one(c, 2), ..self.gemm }
    }

    /// What stands in all buffers before a run.
    fn write(&self, executor: &mut dyn Executor, factor: Factor) {
        for (view, values) in &self.loaded.inputs {
            executor.write(*view, bytemuck::cast_slice(values)).unwrap();
        }
        for i in 0..2 {
            let words = pack_on_host(&self.loaded.inputs[i].1, factor, false);
            executor.write(self.views[i], &words).unwrap();
        }
        executor.write(self.views[2], &vec![UNWRITTEN_PAIR; self.views[2].words]).unwrap();
    }

    /// The error of the packed result, of the exact result's norm; what is outside must be as it was.
    fn error(&self, exact: &[u32], got: &[u32], factor: Factor) -> f64 {
        let problem = &self.loaded.problem;
        let [m, _, n] = self.loaded.case.sizes;
        let wanted = |i: usize, j: usize| element(problem, problem.c, 0, i, j);
        let places: HashSet<usize> = (0..m).flat_map(|i| (0..n).map(move |j| wanted(i, j))).collect();
        let (mut difference, mut size) = (0.0, 0.0);
        for at in 0..exact.len() {
            let half = half_at(got, at);
            if !places.contains(&at) {
                assert_eq!(half, UNWRITTEN_PAIR & 0xffff, "element {at} is outside, and was written");
                continue;
            }
            let exact = from_half(to_half(f32::from_bits(exact[at]), factor), factor);
            difference += f64::from(from_half(half, factor) - exact).powi(2);
            size += f64::from(exact).powi(2);
        }
        (difference / size).sqrt()
    }
}

/// Holds products of packed operands to the exact ones.
fn check_packed(cases: &[(Case, [bool; 3])], plan: UnitPlan) {
    let Some((device, units)) = open() else { return };
    let plan = fitting(plan, units);
    let mut program = Program::default();
    let cases: Vec<Packed> =
        cases.iter().map(|(case, packing)| Packed::load(&mut program, *case, *packing)).collect();
    let room = program.add_buffer("room", 1 << 20, Group::Scratch, Residence::Device);
    let mut exact = program.clone();
    exact.add_recording(
        "exact",
        cases.iter().map(|case| case.gemm.record_tiled(Tiling::Alone { lanes: 8 })).collect(),
    );
    let exact = {
        let mut executor = CpuExecutor::load(exact).unwrap();
        cases.iter().for_each(|case| case.write(&mut executor, units.factor));
        executor.submit(RecordingId(0), &[]).unwrap();
        cases.iter().map(|case| executor.read(case.loaded.c).unwrap()).collect::<Vec<_>>()
    };
    let dispatches = cases.iter().flat_map(|case| {
        let gemm = case.packed_gemm();
        let words = plan.partial_words(&gemm.problem());
        units::record(&gemm, units, &plan, (words > 0).then_some(View { words, ..room }))
    });
    program.add_recording("packed", dispatches.collect());
    let mut executor = VulkanExecutor::load(&device, program).unwrap();
    cases.iter().for_each(|case| case.write(&mut executor, units.factor));
    executor.submit(RecordingId(0), &[]).unwrap();
    let mut worst: f64 = 0.0;
    for (case, exact) in cases.iter().zip(&exact) {
        let what = format!("{:?} packed: {:?}", case.loaded.case, case.packing);
        let error = if case.packing[2] {
            case.error(exact, &executor.read(case.views[2]).unwrap(), units.factor)
        } else {
            closeness::compare(&case.loaded, exact, &executor.read(case.loaded.c).unwrap(), &what)
        };
        assert!(error <= tolerance(units), "{what}: error {error:e}");
        worst = worst.max(error);
    }
    println!("{} products, largest error {worst:.1e}", cases.len());
    common::assert_silent(&device);
}

/// Every layout with every operand packed or not, over sizes that tiles end in and sizes that they do not,
/// rows that start at eights, at pairs and anywhere.
fn packed_cases() -> Vec<(Case, [bool; 3])> {
    const SIZES: [([usize; 3], usize); 5] =
        [([64, 32, 64], 0), ([65, 97, 62], 8), ([37, 45, 50], 6), ([96, 64, 72], 8), ([33, 70, 31], 3)];
    let layouts = (0..4).map(|way| (way & 1 != 0, way & 2 != 0));
    let combinations = layouts.flat_map(|layout| (0..8_usize).map(move |mask| (layout, mask)));
    let case = |(i, ((trans_a, trans_b), mask)): (usize, ((bool, bool), usize))| {
        let packing = [mask & 1 != 0, mask & 2 != 0, mask & 4 != 0];
        // Sizes in turns; a row of an odd number of columns cannot be packed.
        let (sizes, gap) = SIZES[(i + i / 8) % if packing[2] { 4 } else { 5 }];
        (Case { trans_a, trans_b, gap, use_bias: i % 2 == 0, ..Case::new(sizes) }, packing)
    };
    combinations.enumerate().map(case).collect()
}

#[test]
fn operands_packed_and_not() {
    check_packed(&packed_cases(), UnitPlan { tile: TILE, block_terms: WHOLE_SUMS });
}

#[test]
fn packed_results_of_sums_in_blocks() {
    let case = |sizes, gap, use_bias| Case { gap, use_bias, ..Case::new(sizes) };
    let cases = [case([64, 256, 64], 0, true), case([30, 400, 70], 2, false), case([9, 193, 24], 8, true)];
    let plan = UnitPlan { tile: TILE, block_terms: 64 };
    check_packed(&cases.map(|case| (case, [true; 3])), plan);
    check_packed(&cases.map(|case| (Case { trans_a: true, ..case }, [true, false, true])), plan);
}

/// How a product of gradients of 1e-8 is recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gradients {
    Unknown,
    Known,
    /// Packed by a kernel of its own before the product, and its result packed too.
    Packed,
}

/// Gradients of 1e-8 are lost in 16 bits with 5 bits of exponent, unless they are known to be gradients.
#[test]
fn small_gradients_keep_their_digits() {
    let Some((device, units)) = open() else { return };
    let [m, k, n] = [40, 304, 56];
    let error = |gradients: Gradients| {
        let mut program = Program::default();
        let mut add = |name: &str, words| program.add_buffer(name, words, Group::Scratch, Residence::Device);
        let (a, b, c) = (add("a", m * k), add("b", k * n), add("c", m * n));
        let (packed_a, packed_c) = (add("packed a", m * k / 2), add("packed c", m * n / 2));
        let gemm =
            Gemm::new(Pass::Backward, [m, k, n], Matrix::new(a, k), Matrix::new(b, n), Matrix::new(c, n));
        let plan = fitting(UnitPlan { tile: TILE, block_terms: WHOLE_SUMS }, units);
        let mut exact = program.clone();
        exact.add_recording("exact", vec![gemm.record_tiled(Tiling::Alone { lanes: 8 })]);
        let mut r = Recorder::new(device.traits(), None);
        let tried = match gradients {
            Gradients::Unknown => gemm,
            Gradients::Known => Gemm { a: gemm.a.gradient(), ..gemm },
            Gradients::Packed => {
                pack(&mut r, units.factor, true, a, packed_a);
                Gemm {
                    a: Matrix::new(packed_a, k).packed().gradient(),
                    c: Matrix::new(packed_c, n).packed().gradient(),
                    ..gemm
                }
            }
        };
        units::record(&tried, units, &plan, None).into_iter().for_each(|dispatch| r.add(dispatch));
        program.add_recording("units", r.dispatches);
        let result = |executor: &mut dyn Executor, packed: bool| -> Vec<f64> {
            for (view, std_dev) in [(a, 1e-8), (b, 1.0)] {
                let mut values = vec![0.0; view.words];
                fill_normal(&mut values, std_dev, 3, view.buffer.0, 0);
                executor.write(view, bytemuck::cast_slice(&values)).unwrap();
            }
            executor.submit(RecordingId(0), &[]).unwrap();
            let words = executor.read(if packed { packed_c } else { c }).unwrap();
            let scale = if units.factor == Factor::F16 { GRADIENT_SCALE } else { 1.0 };
            let value = |i: usize| match packed {
                true => from_half(half_at(&words, i), units.factor) / scale,
                false => f32::from_bits(words[i]),
            };
            (0..m * n).map(|i| f64::from(value(i))).collect()
        };
        let exact = result(&mut CpuExecutor::load(exact).unwrap(), false);
        let is_packed = gradients == Gradients::Packed;
        let got = result(&mut VulkanExecutor::load(&device, program).unwrap(), is_packed);
        common::distance(&got, &exact)
    };
    for known in [Gradients::Known, Gradients::Packed] {
        assert!(error(known) <= tolerance(units), "{}", error(known));
    }
    assert!(units.factor == Factor::Bf16 || error(Gradients::Unknown) > 0.1, "{}", error(Gradients::Unknown));
    common::assert_silent(&device);
}

/// Which kernel a precision asks for, and that a product's plan follows from its shape.
#[test]
fn mixed_takes_matrix_units_where_there_are_some() {
    let units = MatrixUnits::usual(Factor::F16);
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
