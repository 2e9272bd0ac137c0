//! The product kernels give, on the Vulkan device, the bits of their CPU twin: over sizes, layouts,
//! batches and triangles, with every tile. (The twin's own tests hold it to the plain loops.)

mod common;
#[path = "common/products.rs"]
mod products;

use std::sync::Arc;

use hlx::cpu::CpuExecutor;
use hlx::ops::gemm::fast::{FastTile, Order};
use hlx::ops::gemm::{Causal, Pass, Split, Tiling};
use hlx::recording::{Dispatch, Group, Program, Residence, Traits};
use hlx::vulkan::{Device, DeviceInfo, Simulation, VulkanExecutor};

use products::{
    Case, Loaded, batches_and_triangles, load_gemm, long_sums, run, shapes_and_layouts, triangles,
};

/// What the results' buffers hold before a run: a number that no product here gives.
const UNTOUCHED: f32 = 12345.0;

/// Adds a case to a program.
fn load(program: &mut Program, case: Case, pass: Pass, tiling: Tiling) -> (Loaded, Dispatch) {
    let (loaded, gemm) = load_gemm(program, case, pass, UNTOUCHED);
    (loaded, gemm.record_tiled(tiling))
}

/// Runs the cases with one kernel's tiles on the CPU twin and on the device.
fn check(device: &Arc<Device>, cases: &[Case], pass: Pass, tiling: Tiling) {
    let mut program = Program::default();
    let (loaded, dispatches): (Vec<_>, Vec<_>) =
        cases.iter().map(|case| load(&mut program, *case, pass, tiling)).unzip();
    program.add_recording("products", dispatches);
    let expected = run(&mut CpuExecutor::load(program.clone()).unwrap(), &loaded);
    let actual = run(&mut VulkanExecutor::load(device, program).unwrap(), &loaded);
    for (loaded, (expected, actual)) in loaded.iter().zip(expected.iter().zip(&actual)) {
        if let Some(at) = (0..expected.len()).find(|&at| expected[at] != actual[at]) {
            let [want, got] = [expected[at], actual[at]].map(f32::from_bits);
            panic!("{pass:?}, {tiling:?}, {:?}: element {at} is {got:e}, not {want:e}", loaded.case);
        }
    }
}

/// Checks the cases with both passes, `gemm` and `gemm_backward` (without the biases).
fn check_both_passes(cases: &[Case], tiling: Tiling) {
    check_on(&common::open(), cases, tiling);
}

fn check_on(device: &Arc<Device>, cases: &[Case], tiling: Tiling) {
    check(device, cases, Pass::Forward, tiling);
    let gradients: Vec<Case> = cases.iter().map(|case| Case { use_bias: false, ..*case }).collect();
    check(device, &gradients, Pass::Backward, tiling);
    common::assert_silent(device);
}

#[test]
fn one_subgroup_a_tile() {
    check_both_passes(&shapes_and_layouts(), alone());
    check_both_passes(&batches_and_triangles(), alone());
    // Rows in eights, of tiles that are whole and cut.
    let sizes = [[128, 528, 256], [40, 72, 24], [72, 264, 136], [16, 20, 8], [40, 65, 128]];
    let eights =
        sizes.into_iter().map(|sizes| Case { gap: 0, ..Case::new(sizes) }).flat_map(Case::transposed);
    check_both_passes(&eights.collect::<Vec<Case>>(), alone());
}

/// Devices that are not faster by it can do it all the same, and are told to here.
#[test]
fn factors_by_address() {
    let lower: fn(&mut DeviceInfo) = |info| info.addresses = true;
    let device = common::open_simulated(Simulation { lower: Some(lower), ..Simulation::default() }).unwrap();
    let traits = device.traits();
    let lanes = traits.lanes;
    // Columns of a tile.
    let wide = 4 * lanes as usize;
    let sizes = [[64, 4, 1], [32, 256, 2], [32, 260, 1], [192, 512, 3], [96, 772, 5]];
    let sizes = sizes.map(|[m, k, tiles]| [m, k, tiles * wide]);
    let gaps = sizes.into_iter().map(|sizes| Case { gap: 4, use_bias: true, ..Case::new(sizes) });
    let mut cases: Vec<Case> = gaps.flat_map(Case::transposed).collect();
    cases.extend(triangles(&[(4 * wide, wide, 0), (8 * wide, 2 * wide, 4)]));
    cases.extend([whole_tiles(), shapes_and_layouts()].concat());
    let mut tried = Vec::new();
    for rows in [64, 32] {
        let tiling = Tiling::Addressed { lanes, rows };
        let fits = |case: &Case| Tiling::addressed(&case.problem(), lanes) == Some(tiling);
        let fit: Vec<Case> = cases.iter().copied().filter(fits).collect();
        check_on(&device, &fit, tiling);
        tried.extend(fit.iter().map(|case| (rows, case.causal, [case.trans_a, case.trans_b])));
    }
    for rows in [64, 32] {
        for trans in [[false, false], [false, true], [true, false], [true, true]] {
            assert!(
                tried.contains(&(rows, Causal::None, trans)),
                "tiles of {rows} rows, transposed: {trans:?}"
            );
        }
    }
    for causal in [Causal::LowerOutput, Causal::LowerA, Causal::UpperA] {
        assert!(tried.iter().any(|(_, tried, _)| *tried == causal), "{causal:?}");
    }
}

fn alone() -> Tiling {
    let traits = Traits { fast_shared_memory: false, ..common::open().traits() };
    Tiling::alone(&traits).expect("the device's subgroups have shuffles, and it has 64-bit integers")
}

/// Software drivers end an invocation after 65,535 steps of all its loops together.
#[test]
fn any_number_of_terms_in_one_invocation() {
    let sizes = [[7, 60_000, 15], [8, 60_000, 64]];
    let cases: Vec<Case> = sizes.into_iter().map(Case::new).flat_map(Case::transposed).step_by(3).collect();
    check_both_passes(&cases, alone());
}

/// A shared tile whose kernel has its loop over terms left as a loop: software Vulkan takes minutes to
/// compile it otherwise, and the order of the sums is the same.
fn shared(tile: FastTile) -> Tiling {
    Tiling::Shared(FastTile { unrolled: 1, ..tile })
}

/// Products that no tile of 128 and no share of terms is cut off by, as those of models mostly are.
fn whole_tiles() -> Vec<Case> {
    let sizes = [[128, 528, 256], [256, 256, 128]];
    sizes.into_iter().map(|sizes| Case { gap: 0, ..Case::new(sizes) }).flat_map(Case::transposed).collect()
}

#[test]
fn small_shared_tiles() {
    let tiling = shared(FastTile::small(32, 32));
    check_both_passes(&shapes_and_layouts(), tiling);
    check_both_passes(&batches_and_triangles(), tiling);
    check_both_passes(&whole_tiles(), tiling);
}

/// Software Vulkan takes seconds to compile each variant of a larger tile, so the cases are few: both ends
/// of a sum and of a tile, whole and cut off.
#[test]
fn larger_shared_tiles() {
    let device = common::open();
    let lone = FastTile { step: 8, shares: 1, ..FastTile::large(64, 64) };
    let few: Vec<Case> = long_sums().into_iter().step_by(5).collect();
    for tile in [FastTile::large(64, 64), lone] {
        check(&device, &few, Pass::Forward, shared(tile));
    }
    let large = [(64, 128, Order::Strips), (128, 64, Order::ColumnsOfFours), (128, 128, Order::Rows)];
    for (rows, columns, order) in large {
        let cases: Vec<Case> = whole_tiles().into_iter().take(2).collect();
        check(&device, &cases, Pass::Backward, shared(FastTile { order, ..FastTile::large(rows, columns) }));
    }
    common::assert_silent(&device);
}

/// A product in one dispatch and the same in blocks, on the CPU twins and on the device.
#[test]
fn products_in_blocks_have_the_bits_of_whole_ones() {
    let device = common::open();
    for tiling in [alone(), shared(FastTile::small(32, 32))] {
        for case in long_sums() {
            let mut program = Program::default();
            let (loaded, gemm) = load_gemm(&mut program, case, Pass::Forward, UNTOUCHED);
            let split = Split::any(&gemm).expect("a sum of several blocks");
            let partials =
                program.add_buffer("partials", split.partial_words(), Group::Scratch, Residence::Device);
            let whole = [gemm.record_tiled(tiling)].to_vec();
            let blocks = split.record(Some(tiling), partials).to_vec();
            let loaded = [loaded];
            let result = |dispatches: &Vec<Dispatch>, on_device: bool| {
                let mut program = program.clone();
                program.add_recording("product", dispatches.clone());
                match on_device {
                    true => run(&mut VulkanExecutor::load(&device, program).unwrap(), &loaded),
                    false => run(&mut CpuExecutor::load(program).unwrap(), &loaded),
                }
            };
            let expected = result(&whole, false);
            assert_eq!(result(&blocks, false), expected, "twins, {tiling:?}, {case:?}");
            assert_eq!(result(&blocks, true), expected, "device, {tiling:?}, {case:?}");
        }
    }
    common::assert_silent(&device);
}
