//! Holds the fast product to the plain one, bit for bit, over shapes, layouts, batches and triangles.

use super::problem::{Causal, Layout, Problem};
use super::twin::{Operands, multiply, multiply_with};
use crate::exact::{K_BLOCK, snap};

/// The contract itself: one element after the other, in the order that every kernel must keep.
pub fn plain_product(problem: &Problem, operands: Operands<'_>) {
    let Problem { m, k, n, a, b, c, .. } = *problem;
    for z in 0..problem.batches {
        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let mut total = 0.0;
            for first in (0..k).step_by(K_BLOCK) {
                let mut sum = 0.0;
                for p in first..k.min(first + K_BLOCK) {
                    let at_a = if a.trans { p * a.ld + i } else { i * a.ld + p };
                    let at_b = if b.trans { j * b.ld + p } else { p * b.ld + j };
                    sum += operands.a[problem.start(a, z) + at_a] * operands.b[problem.start(b, z) + at_b];
                }
                total += sum;
            }
            if problem.use_bias {
                total += operands.bias[j];
            }
            operands.c[problem.start(c, z) + i * c.ld + j] = snap(total);
        }
    }
}

/// A product to try: sizes, and how its operands lie in memory.
#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    k: usize,
    n: usize,
    trans_a: bool,
    trans_b: bool,
    use_bias: bool,
    /// Elements left unused at the end of each stored row.
    gap: usize,
    outer: usize,
    inner: usize,
    /// The inner batches' results lie side by side in the rows, as attention heads do.
    side_by_side: bool,
    causal: Causal,
}

const ONE: Case = Case {
    m: 1,
    k: 1,
    n: 1,
    trans_a: false,
    trans_b: false,
    use_bias: false,
    gap: 0,
    outer: 1,
    inner: 1,
    side_by_side: false,
    causal: Causal::None,
};

impl Case {
    fn problem(&self) -> Problem {
        let Case { m, k, n, gap, outer, inner, .. } = *self;
        let stacked = |rows: usize, columns: usize, trans: bool| {
            let (rows, columns) = if trans { (columns, rows) } else { (rows, columns) };
            let ld = columns + gap;
            Layout { first: gap, ld, inner: rows * ld + gap, outer: inner * (rows * ld + gap) + gap, trans }
        };
        let mut c = stacked(m, n, false);
        if self.side_by_side {
            let ld = inner * (n + gap);
            c = Layout { first: 2 * gap, ld, inner: n + gap, outer: m * ld, trans: false };
        }
        let (a, b) = (stacked(m, k, self.trans_a), stacked(k, n, self.trans_b));
        let (use_bias, causal) = (self.use_bias, self.causal);
        Problem { m, k, n, use_bias, a, b, c, batch_inner: inner, batches: outer * inner, causal }
    }
}

/// Numbers in (-1, 1), some zero, some so small that their products must be snapped.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..len)
        .map(|_| {
            let x = (draw() >> 8) as f32 / (1 << 23) as f32 - 1.0;
            match draw() % 16 {
                0 => 0.0,
                1 => x * 2.0_f32.powi(-28),
                _ => x,
            }
        })
        .collect()
}

/// Stores the zeros of a causal factor.
fn clear_triangle(problem: &Problem, a: &mut [f32]) {
    for z in 0..problem.batches {
        for (i, p) in (0..problem.m).flat_map(|i| (0..problem.k).map(move |p| (i, p))) {
            if !problem.terms(i..i + 1).contains(&p) {
                let at = if problem.a.trans { p * problem.a.ld + i } else { i * problem.a.ld + p };
                a[problem.start(problem.a, z) + at] = 0.0;
            }
        }
    }
}

const UNTOUCHED: f32 = 12345.0;

/// Compares a product computed by `multiply` with the plain one, what lies between its rows included.
fn check(case: Case, multiply: impl Fn(&Problem, Operands<'_>)) {
    let problem = case.problem();
    let mut a = numbers(problem.extent(problem.a, problem.stored_a()), 1);
    clear_triangle(&problem, &mut a);
    let b = numbers(problem.extent(problem.b, problem.stored_b()), 2);
    let bias = numbers(problem.n, 3);
    let mut c = vec![UNTOUCHED; problem.extent(problem.c, (problem.m, problem.n)) + 5];
    let mut expected = c.clone();
    multiply(&problem, Operands { a: &a, b: &b, c: &mut c, bias: &bias });
    plain_product(&problem, Operands { a: &a, b: &b, c: &mut expected, bias: &bias });
    if case.causal == Causal::LowerOutput {
        for z in 0..problem.batches {
            for (i, j) in (0..problem.m).flat_map(|i| (i + 1..problem.n).map(move |j| (i, j))) {
                let at = problem.start(problem.c, z) + i * problem.c.ld + j;
                (c[at], expected[at]) = (0.0, 0.0);
            }
        }
    }
    for (at, (got, want)) in c.iter().zip(&expected).enumerate() {
        assert!(got.to_bits() == want.to_bits(), "{case:?}: element {at} is {got:e}, not {want:e}");
    }
}

#[test]
fn every_shape_and_layout() {
    const SIZES: [(usize, usize, usize); 12] = [
        (1, 1, 1),
        (1, 257, 65),
        (7, 13, 31),
        (8, 16, 32),
        (9, 255, 33),
        (13, 256, 17),
        (16, 257, 64),
        (31, 513, 47),
        (97, 3, 101),
        (128, 64, 1),
        (150, 300, 70),
        (5, 2100, 19),
    ];
    for (m, k, n) in SIZES {
        for bits in 0..16 {
            let case = Case {
                m,
                k,
                n,
                trans_a: bits & 1 != 0,
                trans_b: bits & 2 != 0,
                use_bias: bits & 4 != 0,
                gap: if bits & 8 != 0 { 3 } else { 0 },
                ..ONE
            };
            check(case, multiply);
        }
    }
}

#[test]
fn every_way_to_batch() {
    for (m, k, n) in [(3, 5, 2), (64, 32, 64), (33, 40, 70)] {
        for (outer, inner) in [(1, 1), (1, 5), (4, 1), (3, 4)] {
            for bits in 0..16 {
                let case = Case {
                    m,
                    k,
                    n,
                    trans_a: bits & 1 != 0,
                    trans_b: bits & 2 != 0,
                    use_bias: bits & 1 != 0,
                    gap: if bits & 4 != 0 { 2 } else { 0 },
                    outer,
                    inner,
                    side_by_side: bits & 8 != 0,
                    ..ONE
                };
                check(case, multiply);
            }
        }
    }
}

#[test]
fn every_triangle() {
    for t in [1, 7, 8, 31, 64, 100, 300] {
        for causal in [Causal::LowerOutput, Causal::LowerA, Causal::UpperA] {
            for bits in 0..8 {
                let (m, k, n) = if causal == Causal::LowerOutput { (t, 40, t) } else { (t, t, 40) };
                let (trans_a, trans_b) = (bits & 1 != 0, bits & 2 != 0);
                let case =
                    Case { m, k, n, trans_a, trans_b, inner: 3, side_by_side: bits & 4 != 0, causal, ..ONE };
                check(case, multiply);
            }
        }
    }
}

#[test]
fn more_columns_than_are_packed_at_once() {
    check(Case { m: 3, k: 300, n: 7001, use_bias: true, ..ONE }, multiply);
    check(Case { m: 40, k: 2100, n: 1100, trans_b: true, use_bias: true, ..ONE }, multiply);
}

/// Vectors of 1 and 4 floats, plain and as the compiler makes them, against the machine's own.
#[test]
fn every_vector_width() {
    for bits in 0..8 {
        let (trans_a, trans_b, use_bias) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
        let case = Case { m: 45, k: 530, n: 75, trans_a, trans_b, use_bias, gap: 1, ..ONE };
        check(case, |problem, operands| multiply_with(pulp::Scalar, problem, operands));
        check(case, |problem, operands| multiply_with(pulp::Scalar128b, problem, operands));
        check(case, |problem, operands| multiply_with(pulp::Scalar256b, problem, operands));
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            check(case, |problem, operands| multiply_with(simd, problem, operands));
        }
    }
}

#[test]
fn any_number_of_threads() {
    let case = Case { m: 200, k: 600, n: 150, inner: 2, use_bias: true, trans_a: true, ..ONE };
    for threads in [1, 3, 8] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(|| check(case, multiply));
    }
}
