//! Holds a Vulkan device to the CPU's bits in every exact function, by the probe that admits devices.
//!
//! Runs on software Vulkan, or on the device named by `HLX_TEST_DEVICE`. Over every input on demand:
//! `cargo test --release --test exact_probe -- --ignored --nocapture`.

mod common;

use hlx::ops::exact_probe::{FUNCTIONS, compare, first_difference, probe};
use hlx::recording::{Executor, Group, Program, Residence};
use hlx::vulkan::VulkanExecutor;
use rayon::prelude::*;

#[test]
fn the_device_gives_the_cpus_bits() {
    let device = common::open();
    let difference = first_difference(1 << 20, |program| VulkanExecutor::load(&device, program)).unwrap();
    assert_eq!(difference.map(|d| d.to_string()), None);
    common::assert_silent(&device);
}

/// Each function over its whole domain, block by block.
#[test]
#[ignore = "takes half an hour: every input of every function"]
fn the_device_gives_the_cpus_bits_for_every_input() {
    const BLOCK: usize = 1 << 22;
    let device = common::open_unwatched();
    let mut program = Program::default();
    let input = program.add_buffer("input", BLOCK, Group::Scratch, Residence::Device);
    let output = program.add_buffer("output", BLOCK, Group::Scratch, Residence::Device);
    let recordings: Vec<_> = (0..FUNCTIONS.len())
        .map(|f| program.add_recording(FUNCTIONS[f].name, vec![probe(f, input, output)]))
        .collect();
    let mut executor = VulkanExecutor::load(&device, program).unwrap();
    let mut words = vec![0; BLOCK];
    for (f, function) in FUNCTIONS.iter().enumerate() {
        for range in function.domain {
            for first in range.clone().step_by(BLOCK) {
                // A last block that is not full ends in repetitions of the range's end.
                words.par_iter_mut().enumerate().for_each(|(i, word)| {
                    *word = first.saturating_add(i as u32).min(*range.end());
                });
                executor.write(input, &words).unwrap();
                executor.submit(recordings[f], &[]).unwrap();
                let difference = compare(f, &words, &executor.read(output).unwrap());
                assert_eq!(difference.map(|d| d.to_string()), None);
            }
        }
        println!("{}: all equal", function.name);
    }
}
