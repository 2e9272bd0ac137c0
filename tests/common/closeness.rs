//! Holds products outside the exact contract to the exact ones.

#![allow(dead_code)] // each test binary uses a part

use std::sync::Arc;

use hlx::cpu::CpuExecutor;
use hlx::ops::gemm::{Gemm, Pass, Tiling};
use hlx::recording::{Dispatch, Group, Program, Residence, View};
use hlx::vulkan::{Device, VulkanExecutor};

use super::products::{Case, Loaded, element, load_gemm, run};

/// What the results' buffers hold before a run.
pub const UNWRITTEN: f32 = f32::NAN;

/// A case's words that belong to its result, and are wanted.
fn wanted_words(loaded: &Loaded, words: usize) -> Vec<bool> {
    let problem = &loaded.problem;
    let mut wanted = vec![false; words];
    for z in 0..problem.batches {
        for (i, j) in (0..problem.m).flat_map(|i| (0..problem.n).map(move |j| (i, j))) {
            wanted[element(problem, problem.c, z, i, j)] = !problem.unwanted(i..i + 1, j);
        }
    }
    wanted
}

/// Holds one result to the exact one; returns the error.
pub fn compare(loaded: &Loaded, exact: &[u32], fast: &[u32], what: &str) -> f64 {
    let wanted = wanted_words(loaded, exact.len());
    let (mut difference, mut size) = (0.0, 0.0);
    for at in 0..exact.len() {
        let [exact, fast] = [exact[at], fast[at]].map(f32::from_bits);
        if wanted[at] {
            assert!(!fast.is_nan(), "{what}: element {at} was not written");
            difference += (f64::from(fast) - f64::from(exact)).powi(2);
            size += f64::from(exact).powi(2);
        } else if exact.is_nan() {
            assert!(fast.is_nan(), "{what}: word {at} is outside the result, and was written");
        }
    }
    (difference / size.max(f64::MIN_POSITIVE)).sqrt()
}

/// Runs the cases as `record` records them, on the device, twice, and holds them to the CPU's exact products.
/// `record` is lent room for partial sums.
pub fn check(
    device: &Arc<Device>,
    cases: &[Case],
    tolerance: f64,
    record: impl Fn(&Gemm, View) -> Vec<Dispatch>,
) {
    let mut program = Program::default();
    let (loaded, products): (Vec<_>, Vec<_>) =
        cases.iter().map(|case| load_gemm(&mut program, *case, Pass::Forward, UNWRITTEN)).unzip();
    let room = program.add_buffer("room", 1 << 20, Group::Scratch, Residence::Device);
    let result = |on_device: bool| {
        let mut program = program.clone();
        match on_device {
            true => {
                program.add_recording("fast", products.iter().flat_map(|gemm| record(gemm, room)).collect());
                let mut executor = VulkanExecutor::load(device, program).unwrap();
                let first = run(&mut executor, &loaded);
                assert!(run(&mut executor, &loaded) == first, "two runs differ");
                first
            }
            false => {
                let exact =
                    products.iter().map(|gemm| gemm.record_tiled(Tiling::Alone { lanes: 8 })).collect();
                program.add_recording("exact", exact);
                run(&mut CpuExecutor::load(program).unwrap(), &loaded)
            }
        }
    };
    let (exact, fast) = (result(false), result(true));
    let mut worst: f64 = 0.0;
    for (loaded, (exact, fast)) in loaded.iter().zip(exact.iter().zip(&fast)) {
        let error = compare(loaded, exact, fast, &format!("{:?}", loaded.case));
        assert!(error <= tolerance, "{:?}: error {error:e}", loaded.case);
        worst = worst.max(error);
    }
    println!("{} products, largest error {worst:.1e}", cases.len());
}
