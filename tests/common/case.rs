//! A program of one recording over buffers that are filled beforehand, its tensors in 32 bits or in 16.

#![allow(dead_code)] // each test binary uses a part

use hlx::exact::fill_normal;
use hlx::ops::pack::packed_words;
use hlx::ops::tensor::Tensor;
use hlx::recording::{Executor, Factor, Group, Program, RecordingId, Residence, View};

use super::halves::{GRADIENT_SCALE, from_half, half_at, to_half};

/// Stands in outputs beforehand: NaNs that no kernel may leave there, as one float and as two of any 16-bit
/// type.
pub const UNWRITTEN: u32 = 0x7fc1_ffc1;

/// What is written and looked at afterwards.
pub struct Output {
    pub what: &'static str,
    pub tensor: Tensor,
    /// Its elements are gradients.
    pub gradient: bool,
}

/// Buffers with their words, and outputs. Two cases built alike have the same numbers, whether narrow or not.
pub struct Case {
    pub program: Program,
    pub outputs: Vec<Output>,
    /// The type that numbers of tensors are held in, or rounded to.
    pub factor: Factor,
    /// Tensors are kept in 16 bits.
    pub narrow: bool,
    words: Vec<(View, Vec<u32>)>,
}

impl Case {
    pub fn new(factor: Factor, narrow: bool) -> Case {
        Case { program: Program::default(), outputs: Vec::new(), factor, narrow, words: Vec::new() }
    }

    pub fn add(&mut self, words: Vec<u32>) -> View {
        let name = format!("buffer {}", self.words.len());
        let view = self.program.add_buffer(&name, words.len(), Group::Scratch, Residence::Device);
        self.words.push((view, words));
        view
    }

    pub fn scratch(&mut self, words: usize) -> View {
        self.add(vec![UNWRITTEN; words])
    }

    /// Normal numbers in 32 bits.
    pub fn full(&mut self, len: usize, std_dev: f64) -> View {
        let values = self.normal(len, std_dev);
        self.add(values.into_iter().map(f32::to_bits).collect())
    }

    /// Normal numbers that 16 bits hold, in 16 bits or in 32.
    pub fn tensor(&mut self, len: usize, std_dev: f64, gradient: bool) -> Tensor {
        let scale = scale(self.factor, gradient);
        let halves = self.normal(len, std_dev).into_iter().map(|x| to_half(x * scale, self.factor));
        let halves: Vec<u32> = halves.collect();
        if self.narrow {
            let words = halves.chunks(2).map(|two| two[0] | two.get(1).unwrap_or(&0) << 16).collect();
            return Tensor::narrow(self.add(words), len);
        }
        let held = halves.into_iter().map(|half| (from_half(half, self.factor) / scale).to_bits());
        self.add(held.collect()).into()
    }

    /// An output in 32 bits.
    pub fn output(&mut self, what: &'static str, len: usize) -> View {
        let view = self.scratch(len);
        self.outputs.push(Output { what, tensor: view.into(), gradient: false });
        view
    }

    /// An output in 16 bits or in 32.
    pub fn tensor_output(&mut self, what: &'static str, len: usize, gradient: bool) -> Tensor {
        let tensor = match self.narrow {
            true => Tensor::narrow(self.scratch(packed_words(len)), len),
            false => self.scratch(len).into(),
        };
        self.outputs.push(Output { what, tensor, gradient });
        tensor
    }

    /// Fills the buffers and runs the one recording; the outputs' words.
    pub fn run(&self, executor: &mut dyn Executor) -> Vec<Vec<u32>> {
        for (view, words) in &self.words {
            executor.write(*view, words).unwrap();
        }
        executor.submit(RecordingId(0), &[]).unwrap();
        self.outputs.iter().map(|output| executor.read(output.tensor.view).unwrap()).collect()
    }

    /// The numbers that an output's words mean.
    pub fn numbers(&self, output: usize, words: &[u32]) -> Vec<f64> {
        let Output { tensor, gradient, .. } = self.outputs[output];
        if !tensor.narrow {
            return words.iter().map(|&word| f64::from(f32::from_bits(word))).collect();
        }
        let scale = scale(self.factor, gradient);
        (0..tensor.len).map(|i| f64::from(from_half(half_at(words, i), self.factor) / scale)).collect()
    }

    fn normal(&self, len: usize, std_dev: f64) -> Vec<f32> {
        let mut values = vec![0.0; len];
        fill_normal(&mut values, std_dev, 3, self.words.len() as u32, 0);
        values
    }
}

/// What numbers are multiplied by before they are rounded.
fn scale(factor: Factor, gradient: bool) -> f32 {
    if gradient && factor == Factor::F16 { GRADIENT_SCALE } else { 1.0 }
}
