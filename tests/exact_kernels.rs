//! Every exact kernel gives, on the Vulkan device, the bits of its CPU twin: over a grid of shapes
//! with ones, primes and sizes past a tile's edge, in each way the kernel can be laid out.

mod common;

use std::sync::Arc;

use hlx::cpu::CpuExecutor;
use hlx::exact::{fill_normal, random_u32};
use hlx::ops::dropout::Dropout;
use hlx::ops::layernorm::LayerNorm;
use hlx::ops::softmax::AttentionShape;
use hlx::ops::{
    Recorder, accumulate, adam, column_sum, cross_entropy, embedding, gelu, reduce, residual, softmax,
};
use hlx::recording::{Executor, Group, Program, Residence, Traits, View};
use hlx::vulkan::{Device, VulkanExecutor};

/// A word no kernel may leave in a buffer it is to fill: a NaN with a telling payload.
const POISON: u32 = 0x7FC0_DEAD;

/// What a buffer holds before the run.
enum Fill {
    /// Normal numbers of this standard deviation, with zeros, and values about the snapping limit, between.
    Normal(f64),
    /// Positive numbers: variances, second moments.
    Positive(f64),
    /// Whole numbers below a limit.
    Below(u32),
    Words(Vec<u32>),
    /// An output, every word of which must be written.
    Output,
    /// A buffer that the kernels may leave in part unwritten.
    Scratch,
}

/// A program under construction together with what its buffers hold.
struct Case {
    program: Program,
    fills: Vec<(View, Fill)>,
}

impl Case {
    fn add(&mut self, words: usize, fill: Fill) -> View {
        let name = format!("buffer {}", self.fills.len());
        let view = self.program.add_buffer(&name, words, Group::Scratch, Residence::Device);
        self.fills.push((view, fill));
        view
    }
}

fn words_of(fill: &Fill, words: usize, seed: u64) -> Vec<u32> {
    let normal = |std_dev: f64| {
        let mut values = vec![0.0f32; words];
        fill_normal(&mut values, std_dev, seed, 0, 0);
        values
    };
    match fill {
        Fill::Normal(std_dev) => {
            let sprinkle = |(i, x): (usize, f32)| match random_u32(seed, 1, 0, i as u32) % 29 {
                0 => 0.0,
                1 => x.signum() * 2f32.powi(-50),
                2 => x * 1e-12,
                _ => x,
            };
            normal(*std_dev)
                .into_iter()
                .enumerate()
                .map(sprinkle)
                .map(hlx::exact::snap)
                .map(f32::to_bits)
                .collect()
        }
        Fill::Positive(std_dev) => {
            normal(*std_dev).into_iter().map(|x| hlx::exact::snap(x.abs()).to_bits()).collect()
        }
        Fill::Below(limit) => (0..words).map(|i| random_u32(seed, 2, 0, i as u32) % limit).collect(),
        Fill::Words(given) => given.clone(),
        Fill::Output | Fill::Scratch => vec![POISON; words],
    }
}

/// Every buffer after one run.
fn run(executor: &mut dyn Executor, fills: &[(View, Fill)]) -> Vec<Vec<u32>> {
    for (k, (view, fill)) in fills.iter().enumerate() {
        executor.write(*view, &words_of(fill, view.words, 77 + k as u64)).unwrap();
    }
    executor.submit(hlx::recording::RecordingId(0), &[]).unwrap();
    executor.wait_idle().unwrap();
    fills.iter().map(|(view, _)| executor.read(*view).unwrap()).collect()
}

/// The grid three workgroups wide, as a grid past the height that kernels use before they use x.
fn wide_grid(dispatch: &mut hlx::recording::Dispatch) {
    let [x, y, z] = dispatch.groups;
    assert_eq!((x, z), (1, 1), "these cases are small");
    dispatch.groups = [y.min(3), y.div_ceil(3), 1];
}

/// Runs a case on the CPU twins and on the device, laid out for CPU-type devices and for GPUs.
fn check(device: &Arc<Device>, what: &str, build: impl Fn(&mut Case, &mut Recorder)) {
    let make = |fast_shared_memory: bool| {
        let mut case = Case { program: Program::default(), fills: Vec::new() };
        let mut recorder = Recorder::new(Traits { fast_shared_memory, ..device.traits() }, None);
        build(&mut case, &mut recorder);
        case.program.add_recording("case", recorder.dispatches);
        case
    };
    let case = make(false);
    let mut cpu = CpuExecutor::load(case.program).unwrap();
    let expected = run(&mut cpu, &case.fills);
    for ((_, fill), words) in case.fills.iter().zip(&expected) {
        assert!(!matches!(fill, Fill::Output) || !words.contains(&POISON), "{what}: the twin left a hole");
    }
    for (fast_shared_memory, wide) in [(false, false), (true, false), (true, true)] {
        let mut case = make(fast_shared_memory);
        if wide {
            case.program.recordings[0].dispatches.iter_mut().for_each(wide_grid);
        }
        let mut vulkan = VulkanExecutor::load(device, case.program).unwrap();
        let actual = run(&mut vulkan, &case.fills);
        for (k, (expected, actual)) in expected.iter().zip(&actual).enumerate() {
            if let Some(i) = (0..expected.len()).find(|&i| expected[i] != actual[i]) {
                panic!(
                    "{what} (shared memory: {fast_shared_memory}, wide grid: {wide}): \
                     buffer {k}, element {i} of {}: CPU {:e} \
                     ({:08x}), device {:e} ({:08x})",
                    expected.len(),
                    f32::from_bits(expected[i]),
                    expected[i],
                    f32::from_bits(actual[i]),
                    actual[i]
                );
            }
        }
    }
}

const SIZES: [usize; 9] = [1, 2, 31, 32, 33, 40, 127, 192, 300];

#[test]
fn elementwise_kernels() {
    let device = common::open();
    for n in [1, 3, 4, 63, 64, 65, 255, 257, 520, 1031, 40_000] {
        check(&device, &format!("gelu, {n}"), |case, r| {
            let input = case.add(n, Fill::Normal(3.0));
            let output = case.add(n, Fill::Output);
            let gradient = case.add(n, Fill::Normal(1.0));
            gelu::forward(r, input, output);
            gelu::backward(r, input, gradient);
        });
        check(&device, &format!("residual and accumulate, {n}"), |case, r| {
            let (a, b) = (case.add(n, Fill::Normal(1.0)), case.add(n, Fill::Normal(1.0)));
            let output = case.add(n, Fill::Output);
            residual::add(r, a, b, output);
            accumulate::add(r, output, b);
        });
        check(&device, &format!("dropout, {n}"), |case, r| {
            let input = case.add(n, Fill::Normal(1.0));
            let step = case.add(2, Fill::Words(vec![123_456, 7]));
            let output = case.add(n, Fill::Output);
            Dropout { seed: 0x1234_5678_9ABC_DEF0, purpose: 5, probability: 0.3 }
                .apply(r, input, step, output);
        });
    }
    common::assert_silent(&device);
}

#[test]
fn layernorm_kernels() {
    let device = common::open();
    for rows in [1, 7, 65, 130, 1100] {
        for d_model in SIZES {
            check(&device, &format!("layernorm, {rows}x{d_model}"), |case, r| {
                let n = rows * d_model;
                let input = case.add(n, Fill::Normal(2.0));
                let output = case.add(n, Fill::Output);
                let gamma = case.add(d_model, Fill::Normal(1.0));
                let beta = case.add(d_model, Fill::Normal(1.0));
                let stats = case.add(2 * rows, Fill::Output);
                let norm = LayerNorm { d_model, eps: 1e-5, gamma, beta, stats };
                norm.forward(r, input, output);
                let d_output = case.add(n, Fill::Normal(0.1));
                let d_input = case.add(n, Fill::Normal(0.1));
                let (d_gamma, d_beta) = (case.add(d_model, Fill::Output), case.add(d_model, Fill::Output));
                let partials = case.add(2 * 64 * d_model, Fill::Output);
                norm.backward(r, input, d_output, d_input, rows % 2 == 1, d_gamma, d_beta, partials);
            });
        }
    }
    common::assert_silent(&device);
}

#[test]
fn sums() {
    let device = common::open();
    for n in [1, 31, 33, 40, 4095, 4096, 4097, 4104, 70_000, 70_001] {
        for square in [false, true] {
            check(&device, &format!("sum of {n}, squares: {square}"), |case, r| {
                let input = case.add(n, Fill::Normal(1.0));
                let scratch = case.add(reduce::scratch_words(n), Fill::Scratch);
                let output = case.add(1, Fill::Output);
                reduce::sum(r, input, square, scratch, output);
            });
        }
    }
    for rows in [1, 63, 64, 65, 200, 2100] {
        for columns in SIZES {
            check(&device, &format!("column sum, {rows}x{columns}"), |case, r| {
                let input = case.add(rows * columns, Fill::Normal(1.0));
                let output = case.add(columns, Fill::Output);
                let partials = case.add(64 * columns, Fill::Output);
                column_sum::column_sum(r, input.into(), output, partials);
            });
        }
    }
    common::assert_silent(&device);
}

#[test]
fn softmax_kernels() {
    let device = common::open();
    for (batch, n_head, context, d_head) in
        [(1, 1, 1, 1), (2, 3, 5, 7), (1, 2, 31, 8), (2, 1, 33, 32), (1, 3, 97, 13), (1, 1, 257, 64)]
            .into_iter()
            .chain([(1, 1, 32, 8), (2, 3, 96, 32), (1, 2, 64, 13), (3, 1, 160, 64)])
    {
        let shape = AttentionShape { batch, context, n_head, d_head };
        check(&device, &format!("softmax, {shape:?}"), |case, r| {
            let scores = case.add(shape.score_words(), Fill::Normal(4.0));
            let probs = case.add(shape.score_words(), Fill::Output);
            softmax::forward(r, shape, scores, probs);
            let n = batch * context * n_head * d_head;
            let (output, d_output) = (case.add(n, Fill::Normal(1.0)), case.add(n, Fill::Normal(1.0)));
            let gradient = case.add(shape.score_words(), Fill::Normal(1.0));
            softmax::backward(r, shape, probs, output, d_output, gradient);
        });
    }
    common::assert_silent(&device);
}

#[test]
fn cross_entropy_kernels() {
    let device = common::open();
    for rows in [1, 9, 70] {
        // A row of the last is too long for one invocation of a software driver, one before it is not.
        for vocab in [2, 31, 65, 1000, 16_384, 30_001] {
            check(&device, &format!("cross-entropy, {rows}x{vocab}"), |case, r| {
                let logits = case.add(rows * vocab, Fill::Normal(5.0));
                let mut tokens = words_of(&Fill::Below(vocab as u32), rows, 3);
                tokens[rows / 2] = cross_entropy::IGNORE;
                let targets = case.add(rows, Fill::Words(tokens));
                let losses = case.add(rows, Fill::Output);
                let probs = case.add(rows * vocab, Fill::Output);
                cross_entropy::forward(r, logits, targets, losses, probs);
                cross_entropy::backward(r, targets, probs, 1.0 / rows as f32);
            });
        }
    }
    common::assert_silent(&device);
}

#[test]
fn embedding_kernels() {
    let device = common::open();
    for (batch, context, vocab, d_model) in [(1, 1, 1, 1), (3, 5, 7, 33), (2, 64, 65, 128), (5, 17, 300, 12)]
    {
        check(
            &device,
            &format!("embedding, {batch}x{context}, {vocab} tokens, {d_model} wide"),
            |case, r| {
                let n = batch * context;
                let tokens = words_of(&Fill::Below(vocab as u32), n, 9);
                let (mut order, mut starts) = (vec![0; n], vec![0; vocab + 1]);
                hlx::data::sort_positions(&tokens, vocab, &mut order, &mut starts);
                let tokens = case.add(n, Fill::Words(tokens));
                let wte = case.add(vocab * d_model, Fill::Normal(1.0));
                let wpe = case.add(context * d_model, Fill::Normal(1.0));
                let output = case.add(n * d_model, Fill::Output);
                embedding::forward(r, context, d_model, tokens, wte, wpe, output);
                let (order, starts) =
                    (case.add(n, Fill::Words(order)), case.add(vocab + 1, Fill::Words(starts)));
                let d_wte = case.add(vocab * d_model, Fill::Normal(0.1));
                let d_wpe = case.add(context * d_model, Fill::Output);
                embedding::backward(r, context, d_model, output, order, starts, d_wte, d_wpe);
            },
        );
    }
    common::assert_silent(&device);
}

#[test]
fn update_kernels() {
    let device = common::open();
    for (n, decay_params, max_norm) in [(1, 0, 1.0), (64, 64, 0.0), (1000, 320, 0.5), (70_000, 65_536, 1e6)] {
        check(&device, &format!("update of {n}, clipped at {max_norm}"), |case, r| {
            let (params, grads) = (case.add(n, Fill::Normal(0.02)), case.add(n, Fill::Normal(0.01)));
            let (m, v) = (case.add(n, Fill::Normal(0.001)), case.add(n, Fill::Positive(1e-6)));
            let schedule = case.add(3, Fill::Words(adam::schedule_words(17, 1e-3, 0.9, 0.99, 0.1).to_vec()));
            let sum_of_squares = case.add(1, Fill::Positive(2.0));
            let loss_sum = case.add(1, Fill::Positive(100.0));
            let (factor, results) = (case.add(1, Fill::Output), case.add(3, Fill::Output));
            let spoiled = case.add(1, Fill::Output);
            adam::clip_factor(r, max_norm, 1.0 / 768.0, sum_of_squares, loss_sum, factor, results, spoiled);
            let update = adam::AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, decay_params };
            update.update(r, params, grads, m, v, schedule, factor, spoiled);
        });
    }
    let most = adam::LARGEST_SUM_OF_SQUARES;
    for squares in [most, most.next_up(), f32::INFINITY, f32::NAN] {
        check(&device, &format!("clipping of squares that add up to {squares:e}"), |case, r| {
            let sum_of_squares = case.add(1, Fill::Words(vec![squares.to_bits()]));
            let loss_sum = case.add(1, Fill::Positive(100.0));
            let (factor, results) = (case.add(1, Fill::Output), case.add(3, Fill::Output));
            let spoiled = case.add(1, Fill::Output);
            adam::clip_factor(r, 1.0, 1.0 / 768.0, sum_of_squares, loss_sum, factor, results, spoiled);
        });
    }
    common::assert_silent(&device);
}

/// The buffers of an update in which three elements would not be finite, in pieces of at most
/// `max_view_words`: params, grads, m, v, schedule, factor, spoiled.
fn spoiled_update(traits: Traits, factor: f32) -> Case {
    const N: usize = 1000;
    let with = |fill: Fill, seed: u64, element: usize, value: f32| {
        let mut words = words_of(&fill, N, seed);
        words[element] = value.to_bits();
        Fill::Words(words)
    };
    let mut case = Case { program: Program::default(), fills: Vec::new() };
    let params = case.add(N, with(Fill::Normal(0.02), 1, 900, f32::INFINITY));
    let grads = case.add(N, Fill::Normal(0.01));
    let m = case.add(N, with(Fill::Normal(0.001), 2, 700, f32::NAN));
    let v = case.add(N, with(Fill::Positive(1e-6), 3, 340, f32::INFINITY));
    let schedule = case.add(3, Fill::Words(adam::schedule_words(17, 1e-3, 0.9, 0.99, 0.1).to_vec()));
    let factor = case.add(1, Fill::Words(vec![factor.to_bits()]));
    let spoiled = case.add(1, Fill::Words(vec![adam::NONE_SPOILED]));
    let mut recorder = Recorder::new(traits, None);
    let update = adam::AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, decay_params: 320 };
    update.update(&mut recorder, params, grads, m, v, schedule, factor, spoiled);
    case.program.add_recording("case", recorder.dispatches);
    case
}

#[test]
fn an_update_leaves_out_and_reports_what_would_not_be_finite() {
    let device = common::open();
    for (max_view_words, factor) in [(usize::MAX, 0.5), (256, 0.5), (usize::MAX, -1.0)] {
        let case = spoiled_update(Traits { max_view_words, ..device.traits() }, factor);
        let before: Vec<Vec<u32>> =
            (77..).zip(&case.fills).map(|(seed, (view, fill))| words_of(fill, view.words, seed)).collect();
        let on_cpu = run(&mut CpuExecutor::load(case.program.clone()).unwrap(), &case.fills);
        let on_device = run(&mut VulkanExecutor::load(&device, case.program).unwrap(), &case.fills);
        assert_eq!(on_cpu, on_device, "pieces of {max_view_words}, factor {factor}");
        if factor < 0.0 {
            assert_eq!(on_cpu, before, "a negative factor stops the update");
            continue;
        }
        assert_eq!(on_cpu[6], [340], "the first element that stays as it is");
        for arena in [0, 2, 3] {
            let kept: Vec<usize> = (0..1000).filter(|&i| on_cpu[arena][i] == before[arena][i]).collect();
            assert!([340, 700, 900].iter().all(|i| kept.contains(i)), "arena {arena}: {kept:?}");
            assert!(kept.len() < 100, "arena {arena}: nearly all of it moves");
        }
    }
    common::assert_silent(&device);
}
