//! Admission to exact training: every kernel is tried on the device before anything is trusted to it, and
//! the smallest departure is found and named.

mod common;

use std::sync::Arc;

use hlx::cpu::CpuExecutor;
use hlx::error::Result;
use hlx::ops::admission::{Difference, first_difference};
use hlx::ops::trial::first_departure;
use hlx::precision::Precision;
use hlx::recording::{BufferId, Executor, Program, RecordingId, Ticket, Traits, View};
use hlx::vulkan::{Device, DeviceInfo, Simulation, VulkanExecutor};

fn probe(device: &Arc<Device>, traits: Traits) -> Option<Difference> {
    first_difference(traits, CpuExecutor::load, |program| VulkanExecutor::load(device, program)).unwrap()
}

#[test]
fn the_device_under_test_is_admitted_with_either_kind_of_kernels() {
    let device = common::open();
    for fast_shared_memory in [false, true] {
        assert_eq!(probe(&device, Traits { fast_shared_memory, ..device.traits() }), None);
    }
    common::assert_silent(&device);
}

/// Whether or not the device is faster by them, it can be told addresses.
#[test]
fn the_device_under_test_is_admitted_with_kernels_that_load_by_address() {
    let lower: fn(&mut DeviceInfo) = |info| info.addresses = true;
    let device = common::open_simulated(Simulation { lower: Some(lower), ..Simulation::default() }).unwrap();
    assert_eq!(probe(&device, device.traits()), None);
    common::assert_silent(&device);
}

/// An executor that gets one bit of one word wrong.
struct Wrong {
    inner: CpuExecutor,
    word: usize,
    bit: u32,
}

impl Executor for Wrong {
    fn write(&mut self, view: View, words: &[u32]) -> Result<()> {
        self.inner.write(view, words)
    }

    fn read(&mut self, view: View) -> Result<Vec<u32>> {
        let mut words = self.inner.read(view)?;
        words[self.word] ^= 1 << self.bit;
        Ok(words)
    }

    fn submit(&mut self, recording: RecordingId, uploads: &[(BufferId, &[u32])]) -> Result<Ticket> {
        self.inner.submit(recording, uploads)
    }

    fn fetch(&mut self, ticket: Ticket, buffer: BufferId) -> Result<Vec<u32>> {
        self.inner.fetch(ticket, buffer)
    }

    fn is_synchronous(&self) -> bool {
        true
    }

    fn wait_idle(&mut self) -> Result<()> {
        self.inner.wait_idle()
    }

    fn clear(&mut self) -> Result<()> {
        self.inner.clear()
    }
}

/// For every kernel, the last bit of the last word of each of its outputs.
#[test]
fn one_wrong_bit_of_any_kernel_refuses_the_device_by_name() {
    let traits = CpuExecutor::TRAITS;
    let mut written: Vec<(&str, &str, View)> = Vec::new();
    let collect = |program: Program| {
        for dispatch in &program.recordings[0].dispatches {
            for (binding, &view) in dispatch.kernel.bindings().iter().zip(&dispatch.views) {
                if binding.access.writes() {
                    written.push((dispatch.kernel.name(), binding.name, view));
                }
            }
        }
        CpuExecutor::load(program)
    };
    assert_eq!(first_difference(traits, CpuExecutor::load, collect).unwrap(), None);
    for (kernel, output, view) in written {
        let word = view.offset + view.words - 1;
        let wrong = |program| Ok(Wrong { inner: CpuExecutor::load(program)?, word, bit: 0 });
        let found = first_difference(traits, CpuExecutor::load, wrong).unwrap();
        let found = found.unwrap_or_else(|| panic!("{kernel}: a wrong bit of {output} was not found"));
        assert!(found.kernel.starts_with(kernel), "{found}");
        assert_eq!((found.output, found.element), (output, view.words - 1));
        assert_eq!(found.wanted ^ found.got, 1);
    }
}

/// The fast products of a GPU, on software Vulkan: close to the exact ones, and one wrong element shows.
#[test]
fn fast_products_are_tried_against_exact_ones() {
    let device = common::open();
    let traits = Traits { precision: Precision::F32, fast_shared_memory: true, ..device.traits() };
    let load = |program| VulkanExecutor::load(&device, program);
    assert_eq!(first_departure(traits, CpuExecutor::load, load).unwrap(), None);
    let wrong = |program| Ok(Wrong { inner: CpuExecutor::load(program)?, word: 5, bit: 21 });
    let departure = first_departure(traits, wrong, load).unwrap().expect("an element is wrong");
    assert_eq!(departure.kernels[0], "gemm_fast");
    let text = departure.to_string();
    assert!(text.contains("2048 x 64 x 2048 (NN, batch 1) by gemm_fast is"), "{text}");
    common::assert_silent(&device);
}

/// Products and fused attention on matrix units, where the device has them.
#[test]
fn the_fast_kernels_of_mixed_are_near_enough() {
    let device = common::open();
    let traits = Traits { precision: Precision::Mixed, fast_shared_memory: true, ..device.traits() };
    if common::matrix_units(&device).is_none() {
        return;
    }
    let load = |program| VulkanExecutor::load(&device, program);
    let departure = first_departure(traits, CpuExecutor::load, load).unwrap();
    assert_eq!(departure.map(|departure| departure.to_string()), None);
    common::assert_silent(&device);
}
