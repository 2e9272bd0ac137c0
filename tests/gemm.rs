//! The four product kernels give, on the Vulkan device, the bits of their CPU twin: over sizes, layouts,
//! batches and triangles, with every tile. (The twin's own tests hold it to the plain loops.)

mod common;

use std::sync::Arc;

use hlx::cpu::CpuExecutor;
use hlx::exact::{fill_normal, random_u32};
use hlx::ops::gemm::{Causal, Gemm, Layout, Matrix, Pass, Problem, Split, Tiling};
use hlx::recording::{Dispatch, Executor, Group, Program, RecordingId, Residence, View};
use hlx::vulkan::{Device, VulkanExecutor};

/// What the results' buffers hold before a run: a number that no product here gives.
const UNTOUCHED: f32 = 12345.0;

/// A product to try: sizes, and how its operands lie in memory.
#[derive(Clone, Copy, Debug)]
struct Case {
    sizes: [usize; 3],
    trans_a: bool,
    trans_b: bool,
    use_bias: bool,
    /// Elements left unused before the first row and at the end of each.
    gap: usize,
    /// Outer and inner batches.
    batches: [usize; 2],
    /// The inner batches' results lie side by side in the rows, as attention heads do.
    side_by_side: bool,
    causal: Causal,
}

impl Case {
    fn new(sizes: [usize; 3]) -> Case {
        Case {
            sizes,
            trans_a: false,
            trans_b: false,
            use_bias: false,
            gap: 0,
            batches: [1, 1],
            side_by_side: false,
            causal: Causal::None,
        }
    }

    /// The same case in all four ways to transpose.
    fn transposed(self) -> impl Iterator<Item = Case> {
        let ways = [(false, false), (true, false), (false, true), (true, true)];
        ways.into_iter().map(move |(trans_a, trans_b)| Case { trans_a, trans_b, ..self })
    }

    fn layout(&self, rows: usize, columns: usize, trans: bool) -> Layout {
        let (rows, columns) = if trans { (columns, rows) } else { (rows, columns) };
        let ld = columns + self.gap;
        let inner = rows * ld + self.gap;
        Layout { first: self.gap, ld, inner, outer: self.batches[1] * inner, trans }
    }

    fn problem(&self) -> Problem {
        let ([m, k, n], [outer, inner]) = (self.sizes, self.batches);
        let mut c = self.layout(m, n, false);
        if self.side_by_side {
            let ld = inner * (n + self.gap);
            c = Layout { first: self.gap, ld, inner: n + self.gap, outer: m * ld, trans: false };
        }
        let (a, b) = (self.layout(m, k, self.trans_a), self.layout(k, n, self.trans_b));
        let (use_bias, causal) = (self.use_bias, self.causal);
        Problem { m, k, n, use_bias, a, b, c, batch_inner: inner, batches: outer * inner, causal }
    }
}

/// Where element (i, j) of batch `z` of an operand stands.
fn element(problem: &Problem, layout: Layout, z: usize, i: usize, j: usize) -> usize {
    problem.start(layout, z) + if layout.trans { j * layout.ld + i } else { i * layout.ld + j }
}

/// Numbers about 1, with zeros and numbers whose products must be snapped between; zeros where a
/// triangle of A has them.
fn operand(len: usize, seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; len];
    fill_normal(&mut values, 1.0, seed, 0, 0);
    for (i, x) in values.iter_mut().enumerate() {
        match random_u32(seed, 1, 0, i as u32) % 17 {
            0 => *x = 0.0,
            1 => *x *= 2.0_f32.powi(-28),
            _ => {}
        }
    }
    values
}

fn causal_operand(problem: &Problem, len: usize) -> Vec<f32> {
    let mut a = operand(len, 1);
    for z in 0..problem.batches {
        for (i, p) in (0..problem.m).flat_map(|i| (0..problem.k).map(move |p| (i, p))) {
            if !problem.terms(i..i + 1).contains(&p) {
                a[element(problem, problem.a, z, i, p)] = 0.0;
            }
        }
    }
    a
}

/// One case's buffers, and what stands in them before the run.
struct Loaded {
    case: Case,
    problem: Problem,
    inputs: Vec<(View, Vec<f32>)>,
    c: View,
}

/// Adds a case to a program.
fn load(program: &mut Program, case: Case, pass: Pass, tiling: Tiling) -> (Loaded, Dispatch) {
    let (loaded, gemm) = load_gemm(program, case, pass);
    (loaded, gemm.record_tiled(tiling))
}

fn load_gemm(program: &mut Program, case: Case, pass: Pass) -> (Loaded, Gemm) {
    let problem = case.problem();
    let mut inputs = Vec::new();
    let mut add = |what: &str, values: Vec<f32>| {
        let name = format!("{what} {}", program.buffers.len());
        let view = program.add_buffer(&name, values.len(), Group::Scratch, Residence::Device);
        inputs.push((view, values));
        view
    };
    let a = add("a", causal_operand(&problem, problem.extent(problem.a, problem.stored_a())));
    let b = add("b", operand(problem.extent(problem.b, problem.stored_b()), 2));
    let bias = add("bias", operand(problem.n, 3));
    let c = add("c", vec![UNTOUCHED; problem.extent(problem.c, (problem.m, problem.n)) + 5]);
    let matrix = |view, layout| Matrix { view, layout };
    let (a, b, c_matrix) = (matrix(a, problem.a), matrix(b, problem.b), matrix(c, problem.c));
    let gemm = Gemm {
        bias: problem.use_bias.then_some(bias),
        batch_outer: case.batches[0],
        batch_inner: case.batches[1],
        causal: case.causal,
        ..Gemm::new(pass, case.sizes, a, b, c_matrix)
    };
    (Loaded { case, problem, inputs, c }, gemm)
}

/// The results of all cases after one run.
fn run(executor: &mut dyn Executor, cases: &[Loaded]) -> Vec<Vec<u32>> {
    for (view, values) in cases.iter().flat_map(|loaded| &loaded.inputs) {
        executor.write(*view, bytemuck::cast_slice(values)).unwrap();
    }
    executor.submit(RecordingId(0), &[]).unwrap();
    let results = cases.iter().map(|loaded| {
        let Loaded { problem, c, .. } = loaded;
        let mut words = executor.read(*c).unwrap();
        for z in 0..problem.batches {
            for (i, j) in (0..problem.m).flat_map(|i| (0..problem.n).map(move |j| (i, j))) {
                if problem.unwanted(i..i + 1, j) {
                    words[element(problem, problem.c, z, i, j)] = 0;
                }
            }
        }
        words
    });
    results.collect()
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
    let device = common::open();
    check(&device, cases, Pass::Forward, tiling);
    let gradients: Vec<Case> = cases.iter().map(|case| Case { use_bias: false, ..*case }).collect();
    check(&device, &gradients, Pass::Backward, tiling);
    common::assert_silent(&device);
}

/// Sizes about the edges of tiles, of the unrolled loops and of K_BLOCK; rows that start at quads and rows
/// that do not.
fn shapes_and_layouts() -> Vec<Case> {
    const SIZES: [[usize; 3]; 11] = [
        [1, 1, 1],
        [7, 5, 3],
        [8, 64, 64],
        [64, 256, 64],
        [65, 257, 63],
        [72, 255, 68],
        [131, 513, 130],
        [128, 16, 132],
        [3, 40, 257],
        [200, 17, 1],
        [1, 600, 100],
    ];
    let case = |(i, sizes): (usize, &[usize; 3])| Case {
        use_bias: i % 2 == 0,
        gap: [0, 4, 0, 3][i % 4],
        ..Case::new(*sizes)
    };
    SIZES.iter().enumerate().map(case).flat_map(Case::transposed).collect()
}

/// Batches and triangles as attention has them, and plain batches.
fn batches_and_triangles() -> Vec<Case> {
    let mut cases = Vec::new();
    for (t, d, gap) in [(1, 4, 0), (33, 20, 0), (64, 16, 4), (100, 8, 1), (300, 4, 0)] {
        for (causal, sizes) in [
            (Causal::None, [t, d, t]),
            (Causal::LowerOutput, [t, d, t]),
            (Causal::LowerA, [t, t, d]),
            (Causal::UpperA, [t, t, d]),
        ] {
            let batches = if t == 300 { [1, 2] } else { [2, 3] };
            let side_by_side = sizes[2] == d;
            let trans_b = causal == Causal::LowerOutput;
            let trans_a = causal == Causal::UpperA;
            cases.push(Case { batches, side_by_side, trans_a, trans_b, causal, gap, ..Case::new(sizes) });
        }
    }
    cases
}

#[test]
fn one_invocation_a_tile() {
    check_both_passes(&shapes_and_layouts(), Tiling::Alone);
    check_both_passes(&batches_and_triangles(), Tiling::Alone);
}

#[test]
fn small_shared_tiles() {
    let tiling = Tiling::Shared { row_quads: 1, column_quads: 1 };
    check_both_passes(&shapes_and_layouts(), tiling);
    check_both_passes(&batches_and_triangles(), tiling);
}

#[test]
fn large_shared_tiles() {
    let tiling = Tiling::Shared { row_quads: 2, column_quads: 2 };
    check_both_passes(&shapes_and_layouts(), tiling);
    check_both_passes(&batches_and_triangles(), tiling);
}

#[test]
fn oblong_shared_tiles() {
    let device = common::open();
    for (row_quads, column_quads) in [(1, 2), (2, 1)] {
        check(&device, &shapes_and_layouts(), Pass::Forward, Tiling::Shared { row_quads, column_quads });
    }
    common::assert_silent(&device);
}

/// Long sums, whole blocks and a last short one; few rows and columns, as gradients of weights have.
fn long_sums() -> Vec<Case> {
    const SIZES: [[usize; 3]; 6] =
        [[65, 768, 128], [128, 769, 36], [1, 257, 1], [30, 512, 70], [8, 1000, 64], [129, 2048, 65]];
    let case = |(i, sizes): (usize, &[usize; 3])| Case {
        use_bias: i % 2 == 0,
        gap: [0, 4, 3][i % 3],
        ..Case::new(*sizes)
    };
    SIZES.iter().enumerate().map(case).flat_map(Case::transposed).collect()
}

/// A product in one dispatch and the same in blocks, on the CPU twins and on the device.
#[test]
fn products_in_blocks_have_the_bits_of_whole_ones() {
    let device = common::open();
    for tiling in [Tiling::Alone, Tiling::Shared { row_quads: 1, column_quads: 1 }] {
        for case in long_sums() {
            let mut program = Program::default();
            let (loaded, gemm) = load_gemm(&mut program, case, Pass::Forward);
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
