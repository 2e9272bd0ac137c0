//! Kernels outside the contract beside products and attention: fused cross-entropy, packed factors.

#[path = "common/case.rs"]
mod case;
mod common;
#[path = "common/halves.rs"]
mod halves;

use std::sync::Arc;

use hlx::cpu::CpuExecutor;
use hlx::exact::random_u32;
use hlx::ops::pack::{pack, packed_words};
use hlx::ops::{Recorder, cross_entropy};
use hlx::precision::Precision;
use hlx::recording::{Factor, Traits};
use hlx::vulkan::{Device, VulkanExecutor};

use case::Case;
use halves::{GRADIENT_SCALE, half_at, to_half};

fn fast(device: &Arc<Device>) -> Traits {
    Traits { precision: Precision::F32, fast_shared_memory: true, ..device.traits() }
}

#[test]
fn the_fused_cross_entropy_is_the_exact_one_within_rounding() {
    let device = common::open();
    for (rows, vocab_size) in [(1, 1024), (5, 1028), (3, 5000)] {
        let scale = 0.37 / rows as f32;
        let build = |traits: Traits, fused: bool| {
            let mut case = Case::new(Factor::F16, false);
            let logits = case.full(rows * vocab_size, 5.0);
            let target = |row: usize| match row {
                2 => cross_entropy::IGNORE,
                _ => random_u32(1, 2, 0, row as u32) % vocab_size as u32,
            };
            let targets = case.add((0..rows).map(target).collect());
            let losses = case.output("losses", rows);
            let gradient = case.output("gradient", rows * vocab_size);
            let mut r = Recorder::new(traits, None);
            if fused {
                cross_entropy::fused(&mut r, logits, targets, losses, gradient.into(), scale);
            } else {
                cross_entropy::forward(&mut r, logits, targets, losses, gradient);
                cross_entropy::backward(&mut r, targets, gradient, scale);
            }
            case.program.add_recording("case", r.dispatches);
            case
        };
        let case = build(CpuExecutor::TRAITS, false);
        let wanted = case.run(&mut CpuExecutor::load(case.program.clone()).unwrap());
        let case = build(fast(&device), true);
        let run = || case.run(&mut VulkanExecutor::load(&device, case.program.clone()).unwrap());
        let got = run();
        for (i, output) in case.outputs.iter().enumerate() {
            let distance = common::distance(&case.numbers(i, &got[i]), &case.numbers(i, &wanted[i]));
            let what = output.what;
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
        let mut case = Case::new(Factor::F16, false);
        let numbers = numbers(count);
        let input = case.add(numbers.clone());
        let outputs = ["bf16", "f16", "f16 gradients"].map(|what| case.output(what, packed_words(count)));
        let mut r = Recorder::new(fast(&device), None);
        pack(&mut r, Factor::Bf16, true, input, outputs[0]);
        pack(&mut r, Factor::F16, false, input, outputs[1]);
        pack(&mut r, Factor::F16, true, input, outputs[2]);
        case.program.add_recording("case", r.dispatches);
        let mut executor = VulkanExecutor::load(&device, case.program.clone()).unwrap();
        let got = case.run(&mut executor);
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
