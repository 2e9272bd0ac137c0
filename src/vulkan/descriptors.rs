//! Descriptor sets: which range of which buffer each dispatch binds, for each ring slot, written once.

use std::collections::HashMap;
use std::sync::Arc;

use ash::vk;

use super::device::Device;
use super::failure::failed;
use super::memory::Buffer;
use crate::error::Result;
use crate::kernels::Kernel;
use crate::recording::{BufferId, Dispatch, Program, RING_SLOTS, Residence, View, align_words};

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

/// What a view names in a ring slot.
fn range(program: &Program, view: &View, slot: usize) -> Range {
    let offset = copy_offset(program, view.buffer, slot) + view.offset;
    Range { buffer: view.buffer, offset, words: view.words }
}

fn key(program: &Program, dispatch: &Dispatch, slot: usize) -> Key {
    (dispatch.kernel, dispatch.views.iter().map(|view| range(program, view, slot)).collect())
}

/// The descriptor sets of a program. Dispatches that bind the same ranges to the same kernel share one,
/// and so do the ring slots of a dispatch that binds no ring buffer.
pub(super) struct DescriptorSets {
    pool: vk::DescriptorPool,
    sets: HashMap<Key, vk::DescriptorSet>,
    /// Where each buffer begins, on a device that tells kernels.
    addresses: Vec<Option<vk::DeviceAddress>>,
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
            addresses: buffers.iter().map(Buffer::address).collect(),
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

    /// What a dispatch's kernel is told of addresses in a ring slot, with the offset of each push constant.
    pub fn addresses<'a>(
        &'a self,
        program: &'a Program,
        dispatch: &'a Dispatch,
        slot: usize,
    ) -> impl Iterator<Item = (u32, vk::DeviceAddress)> + 'a {
        dispatch.kernel.addresses().iter().map(move |address| {
            let range = range(program, &dispatch.views[address.binding], slot);
            let start = self.addresses[range.buffer.0 as usize].expect("`check` has seen that there are any");
            (address.offset, start + range.offset as u64 * 4)
        })
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
