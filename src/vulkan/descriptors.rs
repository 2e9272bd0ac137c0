//! Descriptor sets: which range of which buffer each dispatch binds, for each ring slot, written once.

use std::collections::HashMap;
use std::sync::Arc;

use ash::vk;

use super::device::Device;
use super::failure::failed;
use super::memory::Buffer;
use crate::error::Result;
use crate::kernels::Kernel;
use crate::recording::{BufferId, Dispatch, Program, RING_SLOTS, Residence, align_words};

/// A range of a Vulkan buffer, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Range {
    buffer: BufferId,
    offset: usize,
    words: usize,
}

/// What tells two sets apart.
type Key = (Kernel, Vec<Range>);

/// The first word of ring copy `slot` in the Vulkan buffer that holds all copies.
pub(super) fn copy_offset(program: &Program, buffer: BufferId, slot: usize) -> usize {
    let spec = program.spec(buffer);
    if spec.residence == Residence::Device { 0 } else { slot * align_words(spec.words) }
}

fn key(program: &Program, dispatch: &Dispatch, slot: usize) -> Key {
    let range = |view: &crate::recording::View| Range {
        buffer: view.buffer,
        offset: copy_offset(program, view.buffer, slot) + view.offset,
        words: view.words,
    };
    (dispatch.kernel, dispatch.views.iter().map(range).collect())
}

/// The descriptor sets of a program. Dispatches that bind the same ranges to the same kernel share one,
/// and so do the ring slots of a dispatch that binds no ring buffer.
pub(super) struct DescriptorSets {
    pool: vk::DescriptorPool,
    sets: HashMap<Key, vk::DescriptorSet>,
    device: Arc<Device>,
}

impl DescriptorSets {
    /// Allocates from a pool of exactly the size needed. The program's kernels must have been built.
    pub fn new(device: &Arc<Device>, program: &Program, buffers: &[Buffer]) -> Result<Self> {
        let dispatches = || program.recordings.iter().flat_map(|r| &r.dispatches);
        let mut keys: Vec<Key> =
            dispatches().flat_map(|d| (0..RING_SLOTS).map(|slot| key(program, d, slot))).collect();
        let mut seen = std::collections::HashSet::new();
        keys.retain(|key| seen.insert(key.clone()));

        let mut sets = DescriptorSets {
            pool: vk::DescriptorPool::null(),
            sets: HashMap::new(),
            device: Arc::clone(device),
        };
        if !keys.is_empty() {
            sets.allocate(keys)?;
            sets.write(buffers);
        }
        Ok(sets)
    }

    /// The set of a dispatch in a ring slot.
    pub fn get(&self, program: &Program, dispatch: &Dispatch, slot: usize) -> vk::DescriptorSet {
        self.sets[&key(program, dispatch, slot)]
    }

    fn allocate(&mut self, keys: Vec<Key>) -> Result<()> {
        let descriptors: usize = keys.iter().map(|(_, ranges)| ranges.len()).sum();
        let sizes = [vk::DescriptorPoolSize::default()
            .ty(vk::DescriptorType::STORAGE_BUFFER)
            .descriptor_count(descriptors.max(1) as u32)];
        let info = vk::DescriptorPoolCreateInfo::default().max_sets(keys.len() as u32).pool_sizes(&sizes);
        self.pool = unsafe { self.device.raw.create_descriptor_pool(&info, None) }
            .map_err(failed("create a descriptor pool"))?;

        let layouts: Vec<_> = {
            let pipelines = self.device.pipelines();
            keys.iter().map(|(kernel, _)| pipelines.layout(*kernel).set).collect()
        };
        let info = vk::DescriptorSetAllocateInfo::default().descriptor_pool(self.pool).set_layouts(&layouts);
        let allocated = unsafe { self.device.raw.allocate_descriptor_sets(&info) }
            .map_err(failed("allocate descriptor sets"))?;
        self.sets = keys.into_iter().zip(allocated).collect();
        Ok(())
    }

    fn write(&self, buffers: &[Buffer]) {
        for ((_, ranges), &set) in &self.sets {
            let infos: Vec<_> = ranges
                .iter()
                .map(|range| {
                    vk::DescriptorBufferInfo::default()
                        .buffer(buffers[range.buffer.0 as usize].raw)
                        .offset(range.offset as u64 * 4)
                        .range(range.words as u64 * 4)
                })
                .collect();
            let writes: Vec<_> = infos
                .iter()
                .enumerate()
                .map(|(binding, info)| {
                    vk::WriteDescriptorSet::default()
                        .dst_set(set)
                        .dst_binding(binding as u32)
                        .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                        .buffer_info(std::slice::from_ref(info))
                })
                .collect();
            // SAFETY: the ranges lie inside their buffers (`check`), which outlive the sets.
            unsafe { self.device.raw.update_descriptor_sets(&writes, &[]) };
        }
    }
}

impl Drop for DescriptorSets {
    fn drop(&mut self) {
        // SAFETY: the executor has waited for its submits; a null pool is ignored.
        unsafe { self.device.raw.destroy_descriptor_pool(self.pool, None) };
    }
}
