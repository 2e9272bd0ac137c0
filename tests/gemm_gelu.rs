//! Products on matrix units that go into GELU, or into its gradient, are close to the exact operations one
//! after the other. On a device without matrix units that hlx has kernels for, nothing can be said.

mod common;
#[path = "common/halves.rs"]
mod halves;

use hlx::cpu::CpuExecutor;
use hlx::exact::fill_normal;
use hlx::ops::gemm::{After, Gemm, Pass, units};
use hlx::ops::pack::packed_words;
use hlx::ops::tensor::Tensor;
use hlx::ops::{Recorder, column_sum, gelu};
use hlx::precision::Precision;
use hlx::recording::{Executor, Factor, Group, Program, RecordingId, Residence, Traits, View};
use hlx::vulkan::VulkanExecutor;

use halves::{GRADIENT_SCALE, from_half, half_at, to_half};

/// Stands in outputs beforehand: a NaN in every format.
const UNWRITTEN: u32 = 0x7fff_7fff;

/// The same operations with tensors in 16 bits of a format, or in 32 with the same numbers.
struct Case {
    program: Program,
    words: Vec<(View, Vec<u32>)>,
    outputs: Vec<(&'static str, Tensor, bool)>,
    factor: Factor,
    narrow: bool,
}

impl Case {
    fn add(&mut self, words: Vec<u32>) -> View {
        let name = format!("buffer {}", self.words.len());
        let view = self.program.add_buffer(&name, words.len(), Group::Scratch, Residence::Device);
        self.words.push((view, words));
        view
    }

    fn full(&mut self, len: usize, std_dev: f64) -> View {
        let values = self.normal(len, std_dev);
        self.add(values.into_iter().map(f32::to_bits).collect())
    }

    fn normal(&self, len: usize, std_dev: f64) -> Vec<f32> {
        let mut values = vec![0.0; len];
        fill_normal(&mut values, std_dev, 3, self.words.len() as u32, 0);
        values
    }

    fn tensor(&mut self, len: usize, std_dev: f64, gradient: bool) -> Tensor {
        let scale = if gradient && self.factor == Factor::F16 { GRADIENT_SCALE } else { 1.0 };
        let values = self.normal(len, std_dev);
        let held: Vec<u32> = values.iter().map(|x| to_half(x * scale, self.factor)).collect();
        if self.narrow {
            return Tensor::narrow(self.add(held.chunks(2).map(|two| two[0] | two[1] << 16).collect()), len);
        }
        self.add(held.into_iter().map(|half| (from_half(half, self.factor) / scale).to_bits()).collect())
            .into()
    }

    fn output(&mut self, what: &'static str, len: usize, gradient: bool) -> Tensor {
        let words = if self.narrow { packed_words(len) } else { len };
        let view = self.add(vec![UNWRITTEN; words]);
        let tensor = if self.narrow { Tensor::narrow(view, len) } else { view.into() };
        self.outputs.push((what, tensor, gradient));
        tensor
    }

    fn run(&self, executor: &mut dyn Executor) -> Vec<Vec<f64>> {
        self.words.iter().for_each(|(view, words)| executor.write(*view, words).unwrap());
        executor.submit(RecordingId(0), &[]).unwrap();
        let numbers = |(_, tensor, gradient): &(&str, Tensor, bool)| {
            let words = executor.read(tensor.view).unwrap();
            if !tensor.narrow {
                return words.iter().map(|&word| f64::from(f32::from_bits(word))).collect();
            }
            let scale = if *gradient && self.factor == Factor::F16 { GRADIENT_SCALE } else { 1.0 };
            let number = |i| f64::from(from_half(half_at(&words, i), self.factor) / scale);
            (0..tensor.len).map(number).collect()
        };
        self.outputs.iter().map(numbers).collect()
    }
}

/// y = x W + b, GELU of it, and from the gradient of what a layer made of that the gradient of y.
fn record(case: &mut Case, r: &mut Recorder, [m, k, n]: [usize; 3], again: bool) {
    let (x, w) = (case.tensor(m * k, 1.0, false), case.tensor(k * n, 0.3, false));
    let (d, w2) = (case.tensor(m * k, 1e-5, true), case.tensor(n * k, 0.3, false));
    let bias = case.full(n, 1.0);
    let (pre, act) = (case.output("pre", m * n, false), case.output("act", m * n, false));
    let d_pre = case.output("d_pre", m * n, true);
    let sum = case.add(vec![UNWRITTEN; n]);
    case.outputs.push(("column sum", sum.into(), false));
    let act_again = again.then(|| case.output("act again", m * n, false));
    let forward = Gemm::new(Pass::Forward, [m, k, n], x.matrix(k), w.matrix(n), pre.matrix(n));
    let forward = Gemm { bias: Some(bias), ..forward };
    let [d, w2, d_wide] = [d.matrix(k).gradient(), w2.matrix(k).transposed(), d_pre.matrix(n).gradient()];
    let backward = Gemm::new(Pass::Backward, [m, k, n], d, w2, d_wide);
    let (pre_view, act_view) = (pre.view, act.view);
    if case.narrow {
        r.multiply(&Gemm { after: After::Gelu { act: act_view, again }, ..forward });
        let partials = case.add(vec![UNWRITTEN; units::column_sum_words(m, n)]);
        let act = act_again.map(|act| act.view);
        let after = After::GeluGradient { pre: pre_view, act, column_sum: sum, partials };
        return r.multiply(&Gemm { after, ..backward });
    }
    r.multiply(&forward);
    gelu::forward(r, pre.full(), act.full());
    r.multiply(&backward);
    gelu::backward(r, pre.full(), d_pre.full());
    let partials = case.full(column_sum::COLUMN_LANES * n, 1.0);
    column_sum::column_sum(r, d_pre, sum, partials);
    match act_again {
        Some(again) => gelu::forward(r, pre.full(), again.full()),
        None => {
            // What is kept of y is GELU's derivative there.
            let derivative = case.add(vec![1f32.to_bits(); m * n]);
            gelu::backward(r, pre.full(), derivative);
            case.outputs[0].1 = derivative.into();
        }
    }
}

#[test]
fn gelu_in_a_product_is_gelu_after_it() {
    let device = common::open();
    let Some(units) = common::matrix_units(&device) else { return };
    let tolerance = match units.factor {
        Factor::Bf16 => 5e-3,
        Factor::F16 => 1e-3,
    };
    for (sizes, again) in [([64, 32, 64], false), ([200, 40, 72], true), ([130, 16, 8], false)] {
        let build = |narrow, traits| {
            let (program, words, outputs) = (Program::default(), Vec::new(), Vec::new());
            let mut case = Case { program, words, outputs, factor: units.factor, narrow };
            let mut r = Recorder::new(traits, None);
            record(&mut case, &mut r, sizes, again);
            case.program.add_recording("case", r.dispatches);
            case
        };
        let exact = build(false, CpuExecutor::TRAITS);
        let wanted = exact.run(&mut CpuExecutor::load(exact.program.clone()).unwrap());
        let traits = Traits { precision: Precision::Mixed, fast_shared_memory: true, ..device.traits() };
        let narrow = build(true, traits);
        let run = || narrow.run(&mut VulkanExecutor::load(&device, narrow.program.clone()).unwrap());
        let got = run();
        for (i, (what, ..)) in narrow.outputs.iter().enumerate() {
            let distance = common::distance(&got[i], &wanted[i]);
            assert!(distance <= tolerance, "{sizes:?}: {what} is {distance:e} from the exact one");
        }
        if again {
            assert_eq!(got[4], got[1], "GELU's result is the same when it is written again");
        }
        assert_eq!(run(), got, "{sizes:?}: the same bits in every run");
    }
    common::assert_silent(&device);
}
