//! Matrix products to try on a device: sizes, layouts, batches and triangles, with random operands.

#![allow(dead_code)] // each test binary uses a part

use hlx::exact::{fill_normal, random_u32};
use hlx::ops::gemm::{Causal, Gemm, Layout, Matrix, Pass, Problem};
use hlx::recording::{Executor, Group, Program, RecordingId, Residence, View};

/// A product to try: sizes, and how its operands lie in memory.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub sizes: [usize; 3],
    pub trans_a: bool,
    pub trans_b: bool,
    pub use_bias: bool,
    /// Elements left unused before the first row and at the end of each.
    pub gap: usize,
    /// Outer and inner batches.
    pub batches: [usize; 2],
    /// The inner batches' results lie side by side in the rows, as attention heads do.
    pub side_by_side: bool,
    pub causal: Causal,
}

impl Case {
    pub fn new(sizes: [usize; 3]) -> Case {
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
    pub fn transposed(self) -> impl Iterator<Item = Case> {
        let ways = [(false, false), (true, false), (false, true), (true, true)];
        ways.into_iter().map(move |(trans_a, trans_b)| Case { trans_a, trans_b, ..self })
    }

    pub fn layout(&self, rows: usize, columns: usize, trans: bool) -> Layout {
        let (rows, columns) = if trans { (columns, rows) } else { (rows, columns) };
        let ld = columns + self.gap;
        let inner = rows * ld + self.gap;
        Layout { first: self.gap, ld, inner, outer: self.batches[1] * inner, trans }
    }

    pub fn problem(&self) -> Problem {
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
pub fn element(problem: &Problem, layout: Layout, z: usize, i: usize, j: usize) -> usize {
    problem.start(layout, z) + if layout.trans { j * layout.ld + i } else { i * layout.ld + j }
}

/// Numbers about 1, with zeros and numbers whose products must be snapped between; zeros where a
/// triangle of A has them.
pub fn operand(len: usize, seed: u64) -> Vec<f32> {
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

pub fn causal_operand(problem: &Problem, len: usize) -> Vec<f32> {
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
pub struct Loaded {
    pub case: Case,
    pub problem: Problem,
    pub inputs: Vec<(View, Vec<f32>)>,
    pub c: View,
}

/// Adds a case to a program; its result's buffer holds `unwritten` before a run.
pub fn load_gemm(program: &mut Program, case: Case, pass: Pass, unwritten: f32) -> (Loaded, Gemm) {
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
    let c = add("c", vec![unwritten; problem.extent(problem.c, (problem.m, problem.n)) + 5]);
    let matrix = |view, layout| Matrix { view, layout, packed: false, gradient: false };
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
pub fn run(executor: &mut dyn Executor, cases: &[Loaded]) -> Vec<Vec<u32>> {
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

/// Sizes about the edges of tiles, of the unrolled loops and of K_BLOCK; rows that start at quads and rows
/// that do not.
pub fn shapes_and_layouts() -> Vec<Case> {
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
pub fn batches_and_triangles() -> Vec<Case> {
    triangles(&[(1, 4, 0), (33, 20, 0), (64, 16, 4), (100, 8, 1), (300, 4, 0)])
}

/// The same of given contexts, elements of a head, and gaps.
pub fn triangles(sizes: &[(usize, usize, usize)]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &(t, d, gap) in sizes {
        for (causal, sizes) in [
            (Causal::None, [t, d, t]),
            (Causal::LowerOutput, [t, d, t]),
            (Causal::LowerA, [t, t, d]),
            (Causal::UpperA, [t, t, d]),
        ] {
            let batches = if t >= 300 { [1, 2] } else { [2, 3] };
            let side_by_side = sizes[2] == d;
            let trans_b = causal == Causal::LowerOutput;
            let trans_a = causal == Causal::UpperA;
            cases.push(Case { batches, side_by_side, trans_a, trans_b, causal, gap, ..Case::new(sizes) });
        }
    }
    cases
}

/// Long sums, whole blocks and a last short one; few rows and columns, as gradients of weights have.
pub fn long_sums() -> Vec<Case> {
    const SIZES: [[usize; 3]; 6] =
        [[65, 768, 128], [128, 769, 36], [1, 257, 1], [30, 512, 70], [8, 1000, 64], [129, 2048, 65]];
    let case = |(i, sizes): (usize, &[usize; 3])| Case {
        use_bias: i % 2 == 0,
        gap: [0, 4, 3][i % 3],
        ..Case::new(*sizes)
    };
    SIZES.iter().enumerate().map(case).flat_map(Case::transposed).collect()
}
