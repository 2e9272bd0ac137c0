//! Holds a Vulkan device to the CPU's bits in every exact function, by the probe that admits devices.
//!
//! Runs on software Vulkan, or on the device named by `HLX_TEST_DEVICE`. Over every input on demand:
//! `cargo test --release --test exact_probe -- --ignored --nocapture`.

use std::sync::Arc;

use hlx::ops::exact_probe::{FUNCTIONS, compare, first_difference, probe};
use hlx::recording::{Executor, Group, Program, Residence};
use hlx::vulkan::{Device, Kind, Selection, VulkanExecutor, devices};

const INSTALL: &str = "this test needs software Vulkan and the Vulkan validation layer \
                       (Debian and Ubuntu: apt install mesa-vulkan-drivers vulkan-validationlayers)";

fn open(validation: bool) -> Arc<Device> {
    let selection = match std::env::var("HLX_TEST_DEVICE") {
        Ok(name) => name.parse().unwrap(),
        Err(_) => {
            let all = devices().unwrap_or_else(|error| panic!("{error}; {INSTALL}"));
            let software = all.iter().find(|d| d.kind == Kind::Cpu);
            Selection::Index(software.unwrap_or_else(|| panic!("{INSTALL}")).index)
        }
    };
    Device::open(&selection, validation).unwrap_or_else(|error| panic!("{error}; {INSTALL}"))
}

#[test]
fn the_device_gives_the_cpus_bits() {
    let device = open(true);
    let difference = first_difference(|program| VulkanExecutor::load(&device, program)).unwrap();
    assert_eq!(difference.map(|d| d.to_string()), None);
    assert_eq!(device.validation_messages(), Vec::<String>::new());
}

/// Each function over its whole domain, in blocks of 2^24 inputs.
#[test]
#[ignore = "takes minutes: every input of every function"]
fn the_device_gives_the_cpus_bits_for_every_input() {
    const BLOCK: usize = 1 << 24;
    let device = open(false);
    let mut program = Program::default();
    let input = program.add_buffer("input", BLOCK, Group::Scratch, Residence::Device);
    let output = program.add_buffer("output", BLOCK, Group::Scratch, Residence::Device);
    let recordings: Vec<_> = (0..FUNCTIONS.len())
        .map(|f| program.add_recording(FUNCTIONS[f].name, vec![probe(f, input, output)]))
        .collect();
    let mut executor = VulkanExecutor::load(&device, program).unwrap();
    for (f, function) in FUNCTIONS.iter().enumerate() {
        let mut inputs = 0u64;
        for range in function.domain {
            let mut all = range.clone();
            loop {
                // A last block that is not full ends in repetitions of the range's end.
                let mut words: Vec<u32> = all.by_ref().take(BLOCK).collect();
                if words.is_empty() {
                    break;
                }
                inputs += words.len() as u64;
                words.resize(BLOCK, *range.end());
                executor.write(input, &words).unwrap();
                executor.submit(recordings[f], &[]).unwrap();
                let difference = compare(f, &words, &executor.read(output).unwrap());
                assert_eq!(difference.map(|d| d.to_string()), None);
            }
        }
        println!("{:20} {inputs} inputs, all equal", function.name);
    }
}
