//! The products outside the exact contract stay close to the exact ones on fresh random data, write the whole
//! result and nothing else, and give the same bits on every run.

#[path = "common/closeness.rs"]
mod closeness;
mod common;
#[path = "common/products.rs"]
mod products;

use hlx::cpu::CpuExecutor;
use hlx::ops::gemm::fast::{self, FastPlan, FastTile, TILES};
use hlx::ops::gemm::{Pass, Split, Tiling};
use hlx::precision::Precision;
use hlx::recording::{Group, Program, Residence, Traits};
use hlx::vulkan::VulkanExecutor;

use closeness::{UNWRITTEN, check, compare};
use products::{Case, batches_and_triangles, load_gemm, long_sums, run, shapes_and_layouts};

/// What the norm of the difference may be, of the exact result's.
const F32_TOLERANCE: f64 = 1e-6;

fn check_tile(tile: FastTile, cases: &[Case]) {
    let device = common::open();
    check(&device, cases, F32_TOLERANCE, |gemm, _| {
        vec![fast::record(gemm, &FastPlan { tile, block_terms: 64 })]
    });
    common::assert_silent(&device);
}

/// Sizes that fill tiles and shares, so that nothing is checked for edges.
fn whole_tiles(tile: FastTile) -> impl Iterator<Item = Case> {
    let size = [tile.rows * 2, tile.step * 5, tile.columns];
    Case { use_bias: true, ..Case::new(size) }.transposed()
}

#[test]
fn every_shape_and_layout() {
    let tile = FastTile { unrolled: 1, ..FastTile::small(32, 64) };
    check_tile(tile, &shapes_and_layouts());
    check_tile(tile, &batches_and_triangles());
}

/// The other tiles, the other orders of tiles, with one share in shared memory and with other patches.
/// Building a large tile's kernel takes software Vulkan seconds.
#[test]
fn every_tile() {
    let large = TILES[0];
    let ways = [
        FastTile { shares: 1, band: 1, unrolled: 1, ..large },
        FastTile { step: 8, unrolled: 2, near_across: 16, band: 2, ..large },
    ];
    for tile in TILES.into_iter().chain(ways) {
        let odd = Case { use_bias: true, gap: 3, trans_a: true, ..Case::new([300, 40, 261]) };
        check_tile(tile, &whole_tiles(tile).take(1).chain([odd]).collect::<Vec<_>>());
    }
}

/// Sums long enough to be rounded off in between, and sums in blocks of several lengths.
#[test]
fn long_and_split_sums() {
    let device = common::open();
    let cases: Vec<Case> = long_sums().into_iter().chain(Case::new([64, 4096, 64]).transposed()).collect();
    let tile = FastTile { unrolled: 1, ..FastTile::small(32, 64) };
    check(&device, &cases, F32_TOLERANCE, |gemm, _| {
        vec![fast::record(gemm, &FastPlan { tile, block_terms: 64 })]
    });
    for block_terms in [64, 128, 448, 1088] {
        let plan = FastPlan { tile, block_terms };
        for case in &cases {
            let mut program = Program::default();
            let (loaded, gemm) = load_gemm(&mut program, *case, Pass::Forward, UNWRITTEN);
            let Some(split) = Split::planned(&gemm, plan) else { continue };
            let words = split.partial_words();
            let partials = program.add_buffer("partials", words, Group::Scratch, Residence::Device);
            let mut exact = program.clone();
            exact.add_recording("exact", vec![gemm.record_tiled(Tiling::Alone { lanes: 8 })]);
            program.add_recording("split", split.record(None, partials).to_vec());
            let loaded = [loaded];
            let exact = run(&mut CpuExecutor::load(exact).unwrap(), &loaded);
            let split = run(&mut VulkanExecutor::load(&device, program).unwrap(), &loaded);
            let error = compare(&loaded[0], &exact[0], &split[0], &format!("{case:?}"));
            assert!(error <= F32_TOLERANCE, "{case:?} in blocks of {block_terms}: error {error:e}");
        }
    }
    common::assert_silent(&device);
}

/// What a program asks for in `f32` on a GPU.
#[test]
fn a_gpu_gets_fast_kernels_when_it_wants_them() {
    let traits = Traits { precision: Precision::F32, fast_shared_memory: true, ..Traits::PLAIN };
    let device = common::open();
    let cases: Vec<Case> = shapes_and_layouts().into_iter().step_by(3).collect();
    check(&device, &cases, F32_TOLERANCE, |gemm, _| {
        let dispatch = gemm.record(&traits);
        assert!(!dispatch.kernel.exact());
        vec![dispatch]
    });
    common::assert_silent(&device);
}

/// An element that is wrong by little shows, as does one that was not written or one too many.
#[test]
fn faults_show() {
    let mut program = Program::default();
    let (loaded, _) = load_gemm(&mut program, Case::new([4, 4, 4]), Pass::Forward, UNWRITTEN);
    let mut exact = vec![1.0f32.to_bits(); 16];
    exact.extend([UNWRITTEN.to_bits(); 5]);
    let spoiled = |at: usize, value: f32| {
        let mut words = exact.clone();
        words[at] = value.to_bits();
        std::panic::catch_unwind(|| compare(&loaded, &exact, &words, "spoiled")).ok()
    };
    assert!(spoiled(3, 1.00001).is_some_and(|error| error > F32_TOLERANCE));
    assert_eq!(spoiled(3, UNWRITTEN), None);
    assert_eq!(spoiled(17, 1.0), None);
}
