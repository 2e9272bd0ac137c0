//! Causal attention on random data: a reference in f64, the exact kernels, and the fused ones.

#![allow(dead_code)] // each test binary uses a part

use hlx::cpu::CpuExecutor;
use hlx::exact::{dropout_threshold, fill_normal, random_u32};
use hlx::ops::Recorder;
use hlx::ops::attention::{AttentionByProducts, BackwardViews, ForwardViews, FusedAttention, ProductViews};
use hlx::ops::dropout::Dropout;
use hlx::ops::pack::{pack_on_host, packed_words, unpack_on_host};
use hlx::ops::softmax::AttentionShape;
use hlx::recording::{Dispatch, Executor, Factor, Group, Program, RecordingId, Residence, Traits, View};

/// NaNs that no kernel may leave in what it is to write, as one float and as two of any 16-bit type.
pub const POISON: u32 = 0x7fc1_ffc1;

/// The micro-batch's number.
pub const STEP: [u32; 2] = [5, 0];

/// A case: its shape, whether probabilities are dropped, and its random numbers.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub batch: usize,
    pub n_head: usize,
    pub context: usize,
    pub d_head: usize,
    pub dropout: Option<f64>,
    pub seed: u64,
    /// Standard deviation of the heads' gradient.
    pub d_size: f64,
}

/// What attention gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// `[B,T,C]`
    pub heads: Vec<f64>,
    /// `[B,T,3C]`
    pub d_qkv: Vec<f64>,
}

impl Case {
    pub fn shape(&self) -> AttentionShape {
        let Case { batch, n_head, context, d_head, .. } = *self;
        AttentionShape { batch, context, n_head, d_head }
    }

    fn d_model(&self) -> usize {
        self.n_head * self.d_head
    }

    pub fn heads_words(&self) -> usize {
        self.batch * self.context * self.d_model()
    }

    pub fn dropout(&self) -> Option<Dropout> {
        self.dropout.map(|probability| Dropout { seed: self.seed, purpose: 4, probability })
    }

    /// qkv `[B,T,3C]` and d_heads `[B,T,C]`.
    pub fn inputs(&self) -> (Vec<f32>, Vec<f32>) {
        let (mut qkv, mut d_heads) = (vec![0.0; 3 * self.heads_words()], vec![0.0; self.heads_words()]);
        fill_normal(&mut qkv, 1.0, self.seed, 1, 0);
        fill_normal(&mut d_heads, self.d_size, self.seed, 2, 0);
        // Every factor's type holds these as they are: only the kernels' own rounding is measured.
        let short = |x: &mut f32| *x = f32::from_bits(x.to_bits() & 0xffff_0000);
        qkv.iter_mut().chain(&mut d_heads).for_each(short);
        (qkv, d_heads)
    }

    /// The sums as they are defined, in f64.
    pub fn reference(&self) -> Outcome {
        let (qkv, d_heads) = self.inputs();
        let (t, d, c) = (self.context, self.d_head, self.d_model());
        let mut outcome =
            Outcome { heads: vec![0.0; self.heads_words()], d_qkv: vec![0.0; 3 * self.heads_words()] };
        for matrix in 0..self.batch * self.n_head {
            let (b, h) = (matrix / self.n_head, matrix % self.n_head);
            let head_at = |i: usize| (b * t + i) * c + h * d;
            let at = |which: usize, i: usize| (b * t + i) * 3 * c + which * c + h * d;
            let row = |start: usize| &qkv[start..start + d];
            for i in 0..t {
                let d_out = &d_heads[head_at(i)..head_at(i) + d];
                let scale = 1.0 / (d as f64).sqrt();
                let scores: Vec<f64> = (0..=i).map(|j| dot(row(at(0, i)), row(at(1, j))) * scale).collect();
                let largest = scores.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
                let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                let probs: Vec<f64> = scores.iter().map(|s| (s - largest).exp() / sum).collect();
                let factors: Vec<f64> = (0..=i).map(|j| self.factor((matrix * t + i) * t + j)).collect();
                let d_probs: Vec<f64> = (0..=i).map(|j| factors[j] * dot(d_out, row(at(2, j)))).collect();
                let delta: f64 = probs.iter().zip(&d_probs).map(|(p, dp)| p * dp).sum();
                for j in 0..=i {
                    let ds = probs[j] * (d_probs[j] - delta) * scale;
                    for k in 0..d {
                        outcome.heads[head_at(i) + k] += probs[j] * factors[j] * f64::from(qkv[at(2, j) + k]);
                        outcome.d_qkv[at(0, i) + k] += ds * f64::from(qkv[at(1, j) + k]);
                        outcome.d_qkv[at(1, j) + k] += ds * f64::from(qkv[at(0, i) + k]);
                        outcome.d_qkv[at(2, j) + k] += probs[j] * factors[j] * f64::from(d_out[k]);
                    }
                }
            }
        }
        outcome
    }

    /// What dropout multiplies a probability by.
    fn factor(&self, index: usize) -> f64 {
        let Some(Dropout { seed, purpose, probability }) = self.dropout() else { return 1.0 };
        let word = random_u32(seed, purpose, STEP[0].into(), index as u32);
        if word < dropout_threshold(probability) { 0.0 } else { 1.0 / (1.0 - probability) }
    }

    /// The exact kernels' twins.
    pub fn exact(&self) -> Outcome {
        let mut program = Program::default();
        let mut built = Built::new(&mut program, self, None);
        let mut square = |name: &str| built.add(&mut program, name, self.shape().score_words());
        let [probs, scores] = [square("probs"), square("scores")];
        let dropped = Some([square("dropped"), square("d_scores")]);
        let Built { qkv, step_number, heads, d_heads, d_qkv, .. } = built;
        let views = ProductViews { qkv, step_number, probs, heads, scores, dropped };
        let attention = AttentionByProducts { shape: self.shape(), dropout: self.dropout() };
        let mut r = Recorder::new(Traits::PLAIN, None);
        attention.forward(&mut r, &views);
        attention.backward(&mut r, &views, d_heads, d_qkv);
        let recording = program.add_recording("attention", r.dispatches);
        built.run(&mut CpuExecutor::load(program).unwrap(), recording)
    }

    /// The fused kernels that are taken, or `None` if these traits have none for the shape.
    pub fn fused(&self, traits: &Traits) -> Option<FusedAttention> {
        FusedAttention::any(self.shape(), self.dropout(), traits).map(FusedAttention::packed)
    }
}

/// What these kernels give for these cases: one program, because drivers build kernels on all cores for it.
pub fn outcomes(
    jobs: &[(Case, FusedAttention)],
    traits: &Traits,
    load: impl FnOnce(Program) -> Box<dyn Executor>,
) -> Vec<Outcome> {
    let mut program = Program::default();
    let mut add = |(case, fused): &(Case, FusedAttention)| {
        let mut built = Built::new(&mut program, case, fused.packing());
        let rows = case.shape().rows();
        let [lse, delta] = ["lse", "delta"].map(|name| built.add(&mut program, name, rows));
        let dispatches = built.record(fused, *traits, lse, delta);
        (built, program.add_recording(&format!("attention {}", program.recordings.len()), dispatches))
    };
    let all: Vec<_> = jobs.iter().map(&mut add).collect();
    let mut executor = load(program);
    all.iter().map(|(built, recording)| built.run(&mut *executor, *recording)).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}

/// A case within a program.
pub struct Built {
    case: Case,
    qkv: View,
    heads: View,
    d_heads: View,
    d_qkv: View,
    step_number: View,
    /// What the kernels write: poisoned before they run.
    written: Vec<View>,
    /// How tensors are packed, if they are.
    packing: Option<Factor>,
}

impl Built {
    pub fn new(program: &mut Program, case: &Case, packing: Option<Factor>) -> Built {
        let n = if packing.is_some() { packed_words(case.heads_words()) } else { case.heads_words() };
        let number = program.buffers.len();
        let mut add = |name: &str, words| {
            let name = format!("{name} {number}");
            program.add_buffer(&name, words, Group::Activations, Residence::Device)
        };
        let (qkv, heads, d_heads) = (add("qkv", 3 * n), add("heads", n), add("d_heads", n));
        let (d_qkv, step_number) = (add("d_qkv", 3 * n), add("step_number", 2));
        let written = vec![heads, d_qkv];
        Built { case: *case, qkv, heads, d_heads, d_qkv, step_number, written, packing }
    }

    pub fn add(&mut self, program: &mut Program, name: &str, words: usize) -> View {
        let name = format!("{name} {}", program.buffers.len());
        let view = program.add_buffer(&name, words, Group::Scratch, Residence::Device);
        self.written.push(view);
        view
    }

    /// Forward, then backward.
    pub fn record(&self, fused: &FusedAttention, traits: Traits, lse: View, delta: View) -> Vec<Dispatch> {
        let Built { qkv, heads, d_heads, d_qkv, step_number, .. } = *self;
        let mut r = Recorder::new(traits, None);
        let forward = ForwardViews { qkv, step_number, heads, lse };
        fused.forward(&mut r, &forward);
        fused.backward(&mut r, &BackwardViews { forward, d_heads, delta, d_qkv });
        r.dispatches
    }

    /// Writes the inputs.
    pub fn write(&self, executor: &mut dyn Executor) {
        let (qkv, d_heads) = self.case.inputs();
        let words = |numbers: &[f32], gradient| match self.packing {
            Some(factor) => pack_on_host(numbers, factor, gradient),
            None => numbers.iter().map(|x| x.to_bits()).collect(),
        };
        executor.write(self.qkv, &words(&qkv, false)).unwrap();
        executor.write(self.d_heads, &words(&d_heads, true)).unwrap();
        executor.write(self.step_number, &STEP).unwrap();
    }

    fn run(&self, executor: &mut dyn Executor, recording: RecordingId) -> Outcome {
        self.write(executor);
        let mut run = || {
            for view in &self.written {
                executor.write(*view, &vec![POISON; view.words]).unwrap();
            }
            executor.submit(recording, &[]).unwrap();
            let mut read = |view: View| executor.read(view).unwrap();
            (read(self.heads), read(self.d_qkv))
        };
        let first = run();
        assert!(first == run(), "{:?}: two runs gave different bits", self.case);
        let numbers = |words: Vec<u32>, gradient| {
            let numbers = match self.packing {
                Some(factor) => unpack_on_host(&words, factor, gradient),
                None => words.into_iter().map(f32::from_bits).collect(),
            };
            numbers.into_iter().map(f64::from).collect()
        };
        Outcome { heads: numbers(first.0, false), d_qkv: numbers(first.1, true) }
    }
}

impl Outcome {
    /// The outputs and each gradient by name, to be compared one by one.
    pub fn parts(&self, case: &Case) -> [(&'static str, Vec<f64>); 4] {
        let c = case.n_head * case.d_head;
        let part = |which: usize| {
            self.d_qkv.chunks(3 * c).flat_map(|row| row[which * c..][..c].iter().copied()).collect()
        };
        [("heads", self.heads.clone()), ("d_q", part(0)), ("d_k", part(1)), ("d_v", part(2))]
    }
}

/// ||x - reference|| / ||reference||; NaN if any number is. A gradient that is zero by its nature, as that of
/// a row's only score, is compared with what gradients are about: `natural`.
pub fn relative_error(x: &[f64], reference: &[f64], natural: f64) -> f64 {
    let norm = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|n| n * n).sum::<f64>().sqrt();
    let size = norm(&mut reference.iter().copied());
    let off = norm(&mut x.iter().zip(reference).map(|(x, r)| x - r));
    let usual = natural * (x.len() as f64).sqrt();
    off / if size < 1e-9 * usual { usual } else { size }
}
