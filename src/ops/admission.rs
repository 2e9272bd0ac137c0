//! Admission: every kernel that a training step is made of, run once on small inputs before anything is
//! trusted to a device, and compared bit by bit with its CPU twin.
//!
//! All of it is one recording over one buffer, so that it costs a device one copy in, one run and one copy
//! out. What each kernel writes lies in words of its own, so the first word that differs names the kernel.

use super::dropout::Dropout;
use super::exact_probe::{FUNCTIONS, probe, sample};
use super::gemm::fast::FastTile;
use super::gemm::{Gemm, Matrix, Pass, Split, Tiling};
use super::layernorm::LayerNorm;
use super::softmax::AttentionShape;
use super::{
    Recorder, accumulate, adam, column_sum, cross_entropy, embedding, gelu, reduce, residual, softmax,
};
use crate::error::Result;
use crate::exact::{fill_normal, random_u32, snap};
use crate::kernels::{self, Element, Kernel};
use crate::recording::{
    BufferId, Dispatch, Executor, Group, Program, RecordingId, Residence, Traits, View, align_words,
};

/// Stands in outputs beforehand: a NaN that no kernel may leave there.
const UNWRITTEN: u32 = 0x7fc0_dead;

/// Inputs of each function of the exact arithmetic.
const INPUTS_PER_FUNCTION: usize = 1024;

/// Where a device's result is not its CPU twin's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The kernel, with the function that it was to apply if it can apply several.
    pub kernel: String,
    /// The name of the binding that was written.
    pub output: &'static str,
    pub element: usize,
    /// Both as bits.
    pub wanted: u32,
    pub got: u32,
    pub type_: Element,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = |bits: u32| match self.type_ {
            Element::F32 => format!("{:e} (0x{bits:08x})", f32::from_bits(bits)),
            Element::U32 => format!("0x{bits:08x}"),
        };
        write!(
            f,
            "kernel {} gives {}[{}] = {}, and the exact contract wants {}",
            self.kernel,
            self.output,
            self.element,
            value(self.got),
            value(self.wanted)
        )
    }
}

/// Runs every kernel on the executors that `reference` and `device` make, the latter as recorded for a
/// device of these traits, and returns the first difference.
///
/// # Errors
/// Whatever the executors report.
pub fn first_difference<R: Executor, D: Executor>(
    traits: Traits,
    reference: impl FnOnce(Program) -> Result<R>,
    device: impl FnOnce(Program) -> Result<D>,
) -> Result<Option<Difference>> {
    let cases = Cases::all(traits);
    let got = cases.run(&mut device(cases.program())?)?;
    let wanted = cases.run(&mut reference(cases.program())?)?;
    Ok(cases.compare(&wanted, &got))
}

/// The dispatches, and what their one buffer holds before them.
struct Cases {
    recorder: Recorder,
    words: Vec<u32>,
}

impl Cases {
    fn all(traits: Traits) -> Cases {
        let mut cases = Cases { recorder: Recorder::new(traits, None), words: Vec::new() };
        cases.functions();
        cases.elementwise(1031);
        cases.norms(45);
        cases.sums();
        cases.attention(37, 6);
        cases.loss();
        cases.embeddings(33);
        cases.update(1001);
        cases.products();
        if traits.wants_eights() {
            cases.elementwise(1032);
            cases.norms(64);
            cases.attention(64, 8);
            cases.embeddings(32);
            cases.update(1000);
        }
        cases
    }

    fn program(&self) -> Program {
        let mut program = Program::default();
        program.add_buffer("admission", self.words.len(), Group::Scratch, Residence::Device);
        program.add_recording("admission", self.recorder.dispatches.clone());
        program
    }

    fn all_words(&self) -> View {
        View { buffer: BufferId(0), offset: 0, words: self.words.len() }
    }

    fn run(&self, executor: &mut impl Executor) -> Result<Vec<u32>> {
        executor.write(self.all_words(), &self.words)?;
        executor.submit(RecordingId(0), &[])?;
        executor.read(self.all_words())
    }

    /// The first written word in which two runs differ, in the order of the dispatches.
    fn compare(&self, wanted: &[u32], got: &[u32]) -> Option<Difference> {
        self.recorder.dispatches.iter().find_map(|dispatch| {
            let bindings = dispatch.kernel.bindings().iter().zip(&dispatch.views);
            bindings.filter(|(binding, _)| binding.access.writes()).find_map(|(binding, view)| {
                let words = view.offset..view.offset + view.words;
                let (wanted, got) = (&wanted[words.clone()], &got[words]);
                let element = (0..wanted.len()).find(|&i| wanted[i] != got[i])?;
                Some(Difference {
                    kernel: label(dispatch),
                    output: binding.name,
                    element,
                    wanted: wanted[element],
                    got: got[element],
                    type_: binding.element,
                })
            })
        })
    }

    fn add(&mut self, words: Vec<u32>) -> View {
        let offset = self.words.len();
        let view = View { buffer: BufferId(0), offset, words: words.len() };
        self.words.extend(words);
        self.words.resize(align_words(self.words.len()), UNWRITTEN);
        view
    }

    fn output(&mut self, words: usize) -> View {
        self.add(vec![UNWRITTEN; words])
    }

    /// Normal numbers, each input a stream of its own.
    fn normal(&mut self, words: usize, std_dev: f64) -> View {
        let mut values = vec![0.0f32; words];
        fill_normal(&mut values, std_dev, 1, 0, self.words.len() as u64);
        self.add(values.into_iter().map(|x| snap(x).to_bits()).collect())
    }

    /// Their absolute values, as variances are.
    fn positive(&mut self, words: usize, std_dev: f64) -> View {
        let view = self.normal(words, std_dev);
        self.words[view.offset..].iter_mut().take(words).for_each(|word| *word &= 0x7fff_ffff);
        view
    }

    fn functions(&mut self) {
        for function in 0..FUNCTIONS.len() {
            let input = self.add(sample(function, INPUTS_PER_FUNCTION));
            let output = self.output(INPUTS_PER_FUNCTION);
            self.recorder.add(probe(function, input, output));
        }
    }

    fn elementwise(&mut self, n: usize) {
        let (input, gradient) = (self.normal(n, 3.0), self.normal(n, 1.0));
        let (activated, summed) = (self.output(n), self.output(n));
        gelu::forward(&mut self.recorder, input, activated);
        gelu::backward(&mut self.recorder, input, gradient);
        residual::add(&mut self.recorder, input, activated, summed);
        let sum = self.normal(n, 1.0);
        accumulate::add(&mut self.recorder, input, sum);
        let step_number = self.add(vec![123_456, 7]);
        let dropped = self.output(n);
        let dropout = Dropout { seed: 0x1234_5678_9abc_def0, purpose: 5, probability: 0.3 };
        dropout.apply(&mut self.recorder, input, step_number, dropped);
    }

    fn norms(&mut self, d_model: usize) {
        const ROWS: usize = 67;
        let (gamma, beta) = (self.normal(d_model, 1.0), self.normal(d_model, 1.0));
        let stats = self.output(2 * ROWS);
        let (input, output) = (self.normal(ROWS * d_model, 2.0), self.output(ROWS * d_model));
        let norm = LayerNorm { d_model, eps: 1e-5, gamma, beta, stats };
        norm.forward(&mut self.recorder, input, output);
        let (d_output, d_input) = (self.normal(ROWS * d_model, 0.1), self.normal(ROWS * d_model, 0.1));
        let (d_gamma, d_beta) = (self.output(d_model), self.output(d_model));
        let partials = self.output(2 * column_sum::COLUMN_LANES * d_model);
        norm.backward(&mut self.recorder, input, d_output, d_input, true, d_gamma, d_beta, partials);
    }

    fn sums(&mut self) {
        let input = self.normal(9000, 1.0);
        for square in [false, true] {
            let (scratch, output) = (self.output(reduce::scratch_words(input.words)), self.output(1));
            reduce::sum(&mut self.recorder, input, square, scratch, output);
        }
        for columns in [36, 40] {
            let (output, partials) = (self.output(columns), self.output(column_sum::COLUMN_LANES * columns));
            let matrix = input.part(0, 130 * columns);
            column_sum::column_sum(&mut self.recorder, matrix.into(), output, partials);
        }
    }

    fn attention(&mut self, context: usize, d_head: usize) {
        let shape = AttentionShape { batch: 2, context, n_head: 2, d_head };
        let (scores, probs) = (self.normal(shape.score_words(), 4.0), self.output(shape.score_words()));
        softmax::forward(&mut self.recorder, shape, scores, probs);
        let n = shape.batch * shape.context * shape.n_head * shape.d_head;
        let (output, d_output) = (self.normal(n, 1.0), self.normal(n, 1.0));
        let gradient = self.normal(shape.score_words(), 1.0);
        softmax::backward(&mut self.recorder, shape, probs, output, d_output, gradient);
    }

    fn loss(&mut self) {
        let (rows, vocab_size) = (21, 65);
        let logits = self.normal(rows * vocab_size, 5.0);
        let target = |row: u32| if row == 7 { cross_entropy::IGNORE } else { row * 13 % vocab_size as u32 };
        let targets = self.add((0..rows as u32).map(target).collect());
        let (losses, probs) = (self.output(rows), self.output(rows * vocab_size));
        cross_entropy::forward(&mut self.recorder, logits, targets, losses, probs);
        let gradient = self.positive(rows * vocab_size, 0.3);
        cross_entropy::backward(&mut self.recorder, targets, gradient, 1.0 / rows as f32);
    }

    fn embeddings(&mut self, d_model: usize) {
        let (batch, context, vocab_size) = (3, 17, 29);
        let n = batch * context;
        let tokens: Vec<u32> = (0..n as u32).map(|i| random_u32(1, 2, 0, i) % vocab_size as u32).collect();
        let (order, starts) = sorted_positions(&tokens, vocab_size);
        let (tokens, order, starts) = (self.add(tokens), self.add(order), self.add(starts));
        let (wte, wpe) = (self.normal(vocab_size * d_model, 1.0), self.normal(context * d_model, 1.0));
        let output = self.output(n * d_model);
        embedding::forward(&mut self.recorder, context, d_model, tokens, wte, wpe, output);
        let d_output = self.normal(n * d_model, 0.1);
        let (d_wte, d_wpe) = (self.normal(vocab_size * d_model, 0.1), self.output(context * d_model));
        embedding::backward(&mut self.recorder, context, d_model, d_output, order, starts, d_wte, d_wpe);
    }

    fn update(&mut self, n: usize) {
        let (params, grads) = (self.normal(n, 0.02), self.normal(n, 0.01));
        let (m, v) = (self.normal(n, 0.001), self.positive(n, 1e-6));
        let schedule = self.add(adam::schedule_words(17, 1e-3, 0.9, 0.99, 0.1).to_vec());
        let (sum_of_squares, loss_sum) = (self.positive(1, 2.0), self.positive(1, 100.0));
        let (factor, results) = (self.output(1), self.output(3));
        let spoiled = [self.output(1), self.add(vec![adam::NONE_SPOILED])];
        let r = &mut self.recorder;
        adam::clip_factor(r, 0.5, 1.0 / 768.0, sum_of_squares, loss_sum, factor, results, spoiled[0]);
        let adam = adam::AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, decay_params: 320 };
        adam.update(r, params, grads, m, v, schedule, factor, spoiled[1]);
    }

    /// Products as a step has them: operands plain and transposed, past a tile's edge and past a block of
    /// terms. Of rows that may not be moved by fours and of large tiles, the same code otherwise, fewer will
    /// do: building a kernel takes most of the time.
    fn products(&mut self) {
        const WIDE: [usize; 3] = [68, 260, 72];
        const NARROW: [usize; 3] = [13, 31, 67];
        let alone = Tiling::alone(&self.recorder.traits);
        let fast = alone.is_none();
        let small = alone.unwrap_or(Tiling::Shared(FastTile::small(32, 32)));
        self.product(Pass::Forward, WIDE, [false, false], small);
        self.product(Pass::Forward, WIDE, [false, true], small);
        self.product(Pass::Backward, WIDE, [false, true], small);
        self.product(Pass::Backward, WIDE, [true, false], small);
        self.product(Pass::Forward, NARROW, [false, false], small);
        if fast {
            let large = Tiling::Shared(FastTile { shares: 1, ..FastTile::large(64, 128) });
            self.product(Pass::Forward, WIDE, [false, false], large);
            self.product(Pass::Backward, WIDE, [true, false], large);
        }
        self.product_in_blocks(WIDE, small);
        if self.recorder.traits.addresses
            && let Some(Tiling::Alone { lanes }) = alone
        {
            let [large, small] = [64, 32].map(|rows| Tiling::Addressed { lanes, rows });
            let two_tiles = 2 * 4 * lanes as usize;
            self.product(Pass::Forward, [64, 260, two_tiles], [false, false], large);
            self.product(Pass::Backward, [64, 260, two_tiles], [true, false], large);
            self.product(Pass::Backward, [32, 64, two_tiles], [false, true], small);
        }
    }

    fn product_in_blocks(&mut self, [m, k, n]: [usize; 3], tiling: Tiling) {
        let (a, b, c) = (self.normal(m * k, 1.0), self.normal(k * n, 1.0), self.output(m * n));
        let (a, b, c) = (Matrix::new(a, k), Matrix::new(b, n), Matrix::new(c, n));
        let gemm = Gemm { bias: Some(self.normal(n, 1.0)), ..Gemm::new(Pass::Forward, [m, k, n], a, b, c) };
        let split = Split::any(&gemm).expect("more than one block of terms");
        let partials = self.output(split.partial_words());
        split.record(Some(tiling), partials).into_iter().for_each(|dispatch| self.recorder.add(dispatch));
    }

    fn product(&mut self, pass: Pass, [m, k, n]: [usize; 3], transposed: [bool; 2], tiling: Tiling) {
        let (a, b, c) = (self.normal(m * k, 1.0), self.normal(k * n, 1.0), self.output(m * n));
        let a = if transposed[0] { Matrix::new(a, m).transposed() } else { Matrix::new(a, k) };
        let b = if transposed[1] { Matrix::new(b, k).transposed() } else { Matrix::new(b, n) };
        let bias = (pass == Pass::Forward).then(|| self.normal(n, 1.0));
        let gemm = Gemm { bias, ..Gemm::new(pass, [m, k, n], a, b, Matrix::new(c, n)) };
        self.recorder.add(gemm.record_tiled(tiling));
    }
}

/// The positions sorted by token, and where each token's run begins: what the embedding's gradient needs.
fn sorted_positions(tokens: &[u32], vocab_size: usize) -> (Vec<u32>, Vec<u32>) {
    let mut order: Vec<u32> = (0..tokens.len() as u32).collect();
    order.sort_by_key(|&position| tokens[position as usize]);
    let start = |token: u32| tokens.iter().filter(|&&other| other < token).count() as u32;
    (order, (0..=vocab_size as u32).map(start).collect())
}

/// The kernel's name, and the function's where a kernel applies several.
fn label(dispatch: &Dispatch) -> String {
    let name = dispatch.kernel.name();
    if dispatch.kernel != Kernel::ExactProbe {
        return name.to_owned();
    }
    let function = kernels::exact_probe::Push::from_bytes(&dispatch.push).function;
    format!("{name} ({})", FUNCTIONS[function as usize].name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exact_kernel_of_either_kind_of_device_is_probed() {
        let probed = |fast_shared_memory| {
            let cases = Cases::all(Traits { fast_shared_memory, addresses: true, ..Traits::PLAIN });
            cases.recorder.dispatches.iter().map(|dispatch| dispatch.kernel).collect::<Vec<Kernel>>()
        };
        let both = [probed(false), probed(true)].concat();
        for kernel in Kernel::ALL.iter().filter(|kernel| kernel.exact()) {
            assert!(both.contains(kernel), "{} is not probed", kernel.name());
        }
    }

    #[test]
    fn positions_are_sorted_by_token() {
        let (order, starts) = sorted_positions(&[2, 0, 2, 3, 0], 5);
        assert_eq!(order, [1, 4, 0, 2, 3]);
        assert_eq!(starts, [0, 2, 2, 4, 5, 5]);
    }
}
