//! The trial of fast products and of fused attention: those that a program of some precision asks for, held
//! to the exact ones before anything is trusted to a device.
//!
//! What admission is to the exact kernels, to the bit, this is to the products outside the contract, within a
//! tolerance.

use super::Recorder;
use super::gemm::halves::{self, HalvesPlan, HalvesTile};
use super::gemm::{Causal, Gemm, Matrix, Pass};
use super::trial_attention::{self, Inputs, Outcome};
use crate::error::Result;
use crate::exact::fill_normal;
use crate::precision::Precision;
use crate::recording::{Executor, Factor, Group, Program, RecordingId, Residence, Traits, View};

/// A product whose result is too far from the exact one.
#[derive(Clone, Debug, PartialEq)]
pub struct Departure {
    /// The kernels that computed it.
    pub kernels: Vec<&'static str>,
    /// What it is: sizes, layouts, triangle.
    pub product: String,
    /// The norm of the difference, of the exact result's; NaN if an element was not written.
    pub error: f64,
    /// What it may be.
    pub tolerance: f64,
}

impl std::fmt::Display for Departure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Departure { kernels, product, error, tolerance } = self;
        let kernels = kernels.join(" and ");
        if error.is_nan() {
            return write!(f, "{kernels} left elements of {product} unwritten or not a number");
        }
        write!(f, "the result of {product} by {kernels} is {error:.1e} off, and {tolerance:.0e} is allowed")
    }
}

/// What the norm of a difference may be on a device of these traits, of the exact result's norm.
pub fn tolerance(traits: &Traits) -> f64 {
    match (traits.precision, traits.matrix_units.map(|units| units.factor)) {
        (Precision::Mixed, Some(Factor::Bf16)) => 5e-3,
        (Precision::Mixed, Some(Factor::F16)) => 1e-3,
        _ => 1e-6,
    }
}

/// A product to be tried.
#[derive(Clone, Copy, Debug)]
struct Case {
    sizes: [usize; 3],
    transposed: [bool; 2],
    causal: Causal,
    batches: usize,
    bias: bool,
    /// By this tile, where split factors are wanted: else by whatever a program takes.
    tile: Option<HalvesTile>,
}

impl Case {
    const fn new(sizes: [usize; 3], transposed: [bool; 2]) -> Case {
        Case { sizes, transposed, causal: Causal::None, batches: 1, bias: false, tile: None }
    }

    fn name(&self) -> String {
        let [m, k, n] = self.sizes;
        let letter = |transposed| if transposed { 'T' } else { 'N' };
        let layout: String = self.transposed.map(letter).iter().collect();
        let triangle =
            if self.causal == Causal::None { String::new() } else { format!(", {:?}", self.causal) };
        format!("{m} x {k} x {n} ({layout}{triangle}, batch {})", self.batches)
    }

    /// Adds the product to a program. Gives what it is given, and its result.
    fn record(self, program: &mut Program, r: &mut Recorder, number: usize) -> (Inputs, View) {
        let [m, k, n] = self.sizes;
        let mut add = |name: &str, words| {
            program.add_buffer(&format!("{name} {number}"), words, Group::Scratch, Residence::Device)
        };
        let [a, b] = [("a", m * k), ("b", k * n)].map(|(name, one)| add(name, one * self.batches));
        let (bias, c) = (add("bias", n), add("c", m * n * self.batches));
        let mut inputs = vec![(c, vec![f32::NAN.to_bits(); c.words])];
        for view in [a, b, bias] {
            let mut values = vec![0.0; view.words];
            fill_normal(&mut values, 1.0, 1, view.buffer.0, 0);
            if view == a {
                clear_triangle(&mut values, self);
            }
            inputs.push((view, values.iter().map(|x| x.to_bits()).collect()));
        }
        let matrix = |view, [rows, columns]: [usize; 2], transposed| {
            let stored =
                if transposed { Matrix::new(view, rows).transposed() } else { Matrix::new(view, columns) };
            stored.batched(0, rows * columns)
        };
        let a = matrix(a, [m, k], self.transposed[0]);
        let b = matrix(b, [k, n], self.transposed[1]);
        let gemm = Gemm {
            bias: self.bias.then_some(bias),
            batch_inner: self.batches,
            causal: self.causal,
            ..Gemm::new(Pass::Forward, self.sizes, a, b, matrix(c, [m, n], false))
        };
        match (self.tile, halves::wanted(&r.traits)) {
            // Sums in blocks too, where they are long.
            (Some(tile), Some(units)) => {
                r.multiply_split(&gemm, units, &HalvesPlan { tile, block_terms: 512 });
            }
            _ => r.multiply(&gemm),
        }
        (inputs, c)
    }
}

/// Products as a step has them: many tiles and few, past a tile's edge, long sums, triangles. Numbers are
/// chosen so that every size of tile is taken by one of them. Of split factors, every tile in all layouts.
fn cases(tried: &Traits) -> Vec<Case> {
    let plain = |transposed| Case::new([2048, 64, 2048], transposed);
    let square = |sizes, transposed, causal| Case { causal, batches: 3, ..Case::new(sizes, transposed) };
    let splits = halves::wanted(tried).is_some();
    let split = halves::TILES.iter().filter(|_| splits).flat_map(|&tile| {
        [
            Case { bias: true, ..Case::new([256, 64, 256], [false, false]) },
            Case { bias: true, ..Case::new([200, 72, 136], [false, true]) },
            Case::new([136, 1032, 200], [true, false]),
        ]
        .map(|case| Case { tile: Some(tile), ..case })
    });
    let cases = vec![
        Case { bias: true, ..plain([false, false]) },
        plain([false, true]),
        plain([true, false]),
        Case { bias: true, ..Case::new([68, 260, 72], [false, false]) },
        Case { bias: true, ..Case::new([13, 31, 67], [false, true]) },
        Case::new([64, 4096, 192], [true, false]),
        Case { bias: true, ..Case::new([1030, 264, 1032], [false, false]) },
        square([100, 24, 100], [false, true], Causal::LowerOutput),
        square([100, 100, 24], [false, false], Causal::LowerA),
        square([100, 100, 24], [true, false], Causal::UpperA),
    ];
    cases.into_iter().chain(split).collect()
}

/// A result, and what is to be known of it.
struct Tried {
    outcome: Outcome,
    /// As messages name it.
    name: String,
    kernels: Vec<&'static str>,
    /// The product that it is of, if it is not of attention.
    product: Option<Case>,
}

/// The cases as a program: their factors, and a result each.
struct Trial {
    program: Program,
    inputs: Inputs,
    results: Vec<Tried>,
    recording: RecordingId,
}

impl Trial {
    /// The cases that a program of the traits `tried` takes fast kernels for, by the kernels of `traits`.
    fn new(traits: Traits, tried: &Traits) -> Trial {
        let mut program = Program::default();
        let room = program.add_buffer("room", 1, Group::Scratch, Residence::Device);
        let (mut inputs, mut results) = (Vec::new(), Vec::new());
        let mut r = Recorder::new(traits, Some(room.buffer));
        for (number, case) in cases(tried).into_iter().enumerate() {
            let before = r.dispatches.len();
            let (given, result) = case.record(&mut program, &mut r, number);
            inputs.extend(given);
            let (name, kernels) = (case.name(), kernels_from(before, &r));
            results.push(Tried { outcome: Outcome::plain(result), name, kernels, product: Some(case) });
        }
        let attention = trial_attention::cases().into_iter().filter(|case| case.is_fused(tried));
        for (number, case) in attention.enumerate() {
            let before = r.dispatches.len();
            let (given, outcomes) = case.record(&mut program, &mut r, number);
            inputs.extend(given);
            let kernels = kernels_from(before, &r);
            let tried =
                |outcome| Tried { outcome, name: case.name(), kernels: kernels.clone(), product: None };
            results.extend(outcomes.map(tried));
        }
        let recording = r.finish(&mut program, "trial");
        Trial { program, inputs, results, recording }
    }

    fn run(&self, executor: &mut impl Executor) -> Result<Vec<Vec<f32>>> {
        for (view, words) in &self.inputs {
            executor.write(*view, words)?;
        }
        executor.submit(self.recording, &[])?;
        let read = |tried: &Tried| Ok(tried.outcome.numbers(&executor.read(tried.outcome.view)?));
        self.results.iter().map(read).collect()
    }
}

/// The kernels of what was recorded after the first `before` dispatches.
fn kernels_from(before: usize, r: &Recorder) -> Vec<&'static str> {
    r.dispatches[before..].iter().map(|dispatch| dispatch.kernel.name()).collect()
}

/// Writes the zeros that a triangular factor has.
fn clear_triangle(a: &mut [f32], case: Case) {
    let [m, k, _] = case.sizes;
    let trans = case.transposed[0];
    let columns = if trans { m } else { k };
    for (at, x) in a.iter_mut().enumerate() {
        let (line, place) = (at % (m * k) / columns, at % columns);
        let (row, term) = if trans { (place, line) } else { (line, place) };
        let zero = match case.causal {
            Causal::LowerA => term > row,
            Causal::UpperA => term < row,
            _ => false,
        };
        if zero {
            *x = 0.0;
        }
    }
}

/// The norm of the difference of two results, of the exact one's norm. What a causal result has above its
/// diagonal does not count.
fn error(case: Option<Case>, exact: &[f32], fast: &[f32]) -> f64 {
    let counts = |at: usize| {
        case.is_none_or(|case| {
            let [m, _, n] = case.sizes;
            case.causal != Causal::LowerOutput || at % n <= at / n % m
        })
    };
    let (mut difference, mut size) = (0.0, 0.0);
    for at in (0..exact.len()).filter(|&at| counts(at)) {
        let [exact, fast] = [exact[at], fast[at]].map(f64::from);
        difference += (fast - exact) * (fast - exact);
        size += exact * exact;
    }
    libm::sqrt(difference / size)
}

/// Runs the products and the attention that a program of these traits would take on the executor that
/// `device` makes, and their exact counterparts on the one that `reference` makes; returns the first that
/// departs too far.
///
/// # Errors
/// Whatever the executors report.
pub fn first_departure<R: Executor, D: Executor>(
    traits: Traits,
    reference: impl FnOnce(Program) -> Result<R>,
    device: impl FnOnce(Program) -> Result<D>,
) -> Result<Option<Departure>> {
    let (fast, exact) = (Trial::new(traits, &traits), Trial::new(Traits::PLAIN, &traits));
    let got = fast.run(&mut device(fast.program.clone())?)?;
    let wanted = exact.run(&mut reference(exact.program.clone())?)?;
    let mut results = fast.results.iter().zip(wanted.iter().zip(&got));
    Ok(results.find_map(|(tried, (wanted, got))| {
        let error = error(tried.product, wanted, got);
        let tolerance = tolerance(&traits);
        let departs = error.is_nan() || error > tolerance;
        departs.then(|| Departure {
            kernels: tried.kernels.clone(),
            product: tried.name.clone(),
            error,
            tolerance,
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::MatrixUnits;

    /// Where units are used for split factors, every tile of theirs is tried in every layout.
    #[test]
    fn every_tile_of_split_factors_is_tried() {
        let units = MatrixUnits::usual(Factor::F16);
        let traits = Traits { precision: Precision::F32, fast_shared_memory: true, ..Traits::PLAIN };
        let tried = |half_units| {
            let traits = Traits { half_units, ..traits };
            let results = Trial::new(traits, &traits).results;
            // Others may be faster by split factors too.
            let named = results.iter().filter(|tried| tried.product.is_some_and(|case| case.tile.is_some()));
            named.filter(|tried| tried.kernels.contains(&"gemm_halves")).count()
        };
        assert_eq!([tried(None), tried(Some(units))], [0, 3 * halves::TILES.len()]);
    }
}
