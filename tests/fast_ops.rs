//! Kernels outside the contract beside products and attention: fused cross-entropy, packed factors.

mod common;
#[path = "common/halves.rs"]
mod halves;

use std::sync::Arc;

use hlx::cpu::CpuExecutor;
use hlx::exact::{fill_normal, random_u32};
use hlx::ops::pack::{pack, packed_words};
use hlx::ops::{Recorder, cross_entropy};
use hlx::precision::Precision;
use hlx::recording::{Executor, Factor, Group, Program, RecordingId, Residence, Traits, View};
use hlx::vulkan::{Device, VulkanExecutor};

use halves::{GRADIENT_SCALE, half_at, to_half};

/// Stands in outputs beforehand: a NaN that no kernel may leave there.
const UNWRITTEN: u32 = 0x7fc0_dead;

/// A program of one recording: its buffers' words beforehand, and its outputs afterwards.
struct Case {
    program: Program,
    words: Vec<(View, Vec<u32>)>,
}

impl Case {
    fn new() -> Case {
        Case { program: Program::default(), words: Vec::new() }
    }

    fn add(&mut self, words: Vec<u32>) -> View {
        let name = format!("buffer {}", self.words.len());
        let view = self.program.add_buffer(&name, words.len(), Group::Scratch, Residence::Device);
        self.words.push((view, words));
        view
    }

    fn output(&mut self, words: usize) -> View {
        self.add(vec![UNWRITTEN; words])
    }

    fn normal(&mut self, words: usize, std_dev: f64) -> View {
        let mut values = vec![0.0f32; words];
        fill_normal(&mut values, std_dev, 3, 0, 0);
        self.add(values.into_iter().map(f32::to_bits).collect())
    }

    fn run(&self, executor: &mut dyn Executor, outputs: &[View]) -> Vec<Vec<u32>> {
        for (view, words) in &self.words {
            executor.write(*view, words).unwrap();
        }
        executor.submit(RecordingId(0), &[]).unwrap();
        outputs.iter().map(|view| executor.read(*view).unwrap()).collect()
    }
}

fn fast(device: &Arc<Device>) -> Traits {
    Traits { precision: Precision::F32, fast_shared_memory: true, ..device.traits() }
}

fn floats(words: &[u32]) -> Vec<f64> {
    words.iter().map(|&word| f64::from(f32::from_bits(word))).collect()
}

/// The norm of the difference, of the norm of what is wanted; NaN if anything is.
fn distance(got: &[u32], wanted: &[u32]) -> f64 {
    let (got, wanted) = (floats(got), floats(wanted));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(&wanted).map(|(x, y)| x - y)) / norm(&mut wanted.iter().copied())
}

#[test]
fn the_fused_cross_entropy_is_the_exact_one_within_rounding() {
    let device = common::open();
    for (rows, vocab_size) in [(1, 1024), (5, 1028), (3, 5000)] {
        let scale = 0.37 / rows as f32;
        let build = |traits: Traits, fused: bool| {
            let mut case = Case::new();
            let logits = case.normal(rows * vocab_size, 5.0);
            let target = |row: usize| match row {
                2 => cross_entropy::IGNORE,
                _ => random_u32(1, 2, 0, row as u32) % vocab_size as u32,
            };
            let targets = case.add((0..rows).map(target).collect());
            let (losses, gradient) = (case.output(rows), case.output(rows * vocab_size));
            let mut r = Recorder::new(traits, None);
            if fused {
                cross_entropy::fused(&mut r, logits, targets, losses, gradient.into(), scale);
            } else {
                cross_entropy::forward(&mut r, logits, targets, losses, gradient);
                cross_entropy::backward(&mut r, targets, gradient, scale);
            }
            case.program.add_recording("case", r.dispatches);
            (case, [losses, gradient])
        };
        let (case, outputs) = build(CpuExecutor::TRAITS, false);
        let wanted = case.run(&mut CpuExecutor::load(case.program.clone()).unwrap(), &outputs);
        let (case, outputs) = build(fast(&device), true);
        let run = || {
            let mut executor = VulkanExecutor::load(&device, case.program.clone()).unwrap();
            case.run(&mut executor, &outputs)
        };
        let got = run();
        for (what, got, wanted) in [("losses", &got[0], &wanted[0]), ("gradient", &got[1], &wanted[1])] {
            let distance = distance(got, wanted);
            assert!(distance <= 1e-6, "{rows} x {vocab_size}: {what} {distance:e} from the exact ones");
        }
        assert_eq!(run(), got, "the same bits in every run");
    }
    common::assert_silent(&device);
}

/// bfloat16 to nearest even, in the simplest way: of both neighbours the nearer, of two as near the even one.
fn bfloat16(x: f32) -> u32 {
    let below = x.to_bits() >> 16;
    if !x.is_finite() {
        return if x.is_nan() { below | 0x40 } else { below };
    }
    let value = |bits: u32| f64::from(f32::from_bits(bits << 16));
    // Past the largest finite number lies what would be the next power of two.
    let above =
        if below & 0x7fff == 0x7f7f { f64::from(x).signum() * 2f64.powi(128) } else { value(below + 1) };
    let (down, up) = (f64::from(x).abs() - value(below).abs(), above.abs() - f64::from(x).abs());
    if down < up || (down == up && below.is_multiple_of(2)) { below } else { below + 1 }
}

/// Ordinary numbers, and those where rounding has its corners.
fn numbers(count: usize) -> Vec<u32> {
    let corners =
        [0, 0x8000_0000, 0x3f80_8000, 0x3f81_8000, 0x7f7f_ffff, 0x7f80_0000, 0xff80_0000, 0x7fff_ffff];
    let random = (0..count as u32).map(|i| {
        let word = random_u32(9, 1, 0, i);
        // Subnormal numbers are flushed by some devices.
        if word & 0x7f80_0000 == 0 { word | 0x0080_0000 } else { word }
    });
    corners.into_iter().chain(random).take(count).collect()
}

#[test]
fn packing_rounds_to_nearest_even() {
    let device = common::open();
    for count in [1, 2, 7, 8, 9, 4099] {
        let mut case = Case::new();
        let numbers = numbers(count);
        let input = case.add(numbers.clone());
        let outputs = [(); 3].map(|()| case.output(packed_words(count)));
        let mut r = Recorder::new(fast(&device), None);
        pack(&mut r, Factor::Bf16, true, input, outputs[0]);
        pack(&mut r, Factor::F16, false, input, outputs[1]);
        pack(&mut r, Factor::F16, true, input, outputs[2]);
        case.program.add_recording("case", r.dispatches);
        let mut executor = VulkanExecutor::load(&device, case.program.clone()).unwrap();
        let got = case.run(&mut executor, &outputs);
        for (i, &number) in numbers.iter().enumerate() {
            let x = f32::from_bits(number);
            let what = format!("element {i} of {count}: {number:08x}");
            assert_eq!(half_at(&got[0], i), bfloat16(x), "{what}");
            for (got, scale) in [(&got[1], 1.0), (&got[2], GRADIENT_SCALE)] {
                let (half, scaled) = (half_at(got, i), x * scale);
                let held = if x.is_finite() { scaled.clamp(-65_504.0, 65_504.0) } else { scaled };
                let tiny = held.abs() < 2.0_f32.powi(-14); // Subnormal: some devices flush it.
                let flushed = tiny && half & 0x7fff == 0;
                let right =
                    if x.is_nan() { half & 0x7fff > 0x7c00 } else { half == to_half(held, Factor::F16) };
                assert!(right || flushed, "{what}, f16: {half:04x}");
            }
        }
    }
    common::assert_silent(&device);
}
