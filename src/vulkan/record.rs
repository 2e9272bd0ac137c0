//! Command buffers: where they come from, and how a recording becomes one.

use std::ops::Range;
use std::sync::Arc;

use ash::vk;

use super::barriers::{Touch, barriers_before};
use super::cuts::{Piece, axis, layers};
use super::descriptors::DescriptorSets;
use super::device::Device;
use super::failure::failed;
use super::pipelines::Variant;
use crate::error::Result;
use crate::recording::{Dispatch, Program, RecordingId};

/// A mistake to be made on purpose, so that a test sees synchronization validation catch it.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedFault {
    NoBarriersBetweenDispatches,
    NoBarrierBetweenSubmits,
}

/// Command buffers, freed together when dropped.
pub(super) struct CommandPool {
    raw: vk::CommandPool,
    device: Arc<Device>,
}

impl CommandPool {
    pub fn new(device: &Arc<Device>) -> Result<Self> {
        let info = vk::CommandPoolCreateInfo::default()
            .queue_family_index(device.queue_family())
            .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER);
        let raw = unsafe { device.raw.create_command_pool(&info, None) }
            .map_err(failed("create a command pool"))?;
        Ok(CommandPool { raw, device: Arc::clone(device) })
    }

    /// Allocates one command buffer and records `work` into it. It may be submitted any number of
    /// times, one at a time.
    pub fn record(&self, work: impl FnOnce(vk::CommandBuffer)) -> Result<vk::CommandBuffer> {
        let info = vk::CommandBufferAllocateInfo::default().command_pool(self.raw).command_buffer_count(1);
        let commands = unsafe { self.device.raw.allocate_command_buffers(&info) }
            .map_err(failed("allocate a command buffer"))?[0];
        self.record_again(commands, vk::CommandBufferUsageFlags::empty(), work)?;
        Ok(commands)
    }

    /// Records anew into a command buffer of this pool that is not in use.
    pub fn record_again(
        &self,
        commands: vk::CommandBuffer,
        usage: vk::CommandBufferUsageFlags,
        work: impl FnOnce(vk::CommandBuffer),
    ) -> Result<()> {
        let begin = vk::CommandBufferBeginInfo::default().flags(usage);
        unsafe { self.device.raw.begin_command_buffer(commands, &begin) }
            .map_err(failed("begin a command buffer"))?;
        work(commands);
        unsafe { self.device.raw.end_command_buffer(commands) }.map_err(failed("record a command buffer"))
    }

    /// Frees a command buffer of this pool that is not in use.
    pub fn free(&self, commands: vk::CommandBuffer) {
        unsafe { self.device.raw.free_command_buffers(self.raw, &[commands]) };
    }
}

impl Drop for CommandPool {
    fn drop(&mut self) {
        // SAFETY: the owner has waited for everything it submitted from this pool.
        unsafe { self.device.raw.destroy_command_pool(self.raw, None) };
    }
}

/// What dispatches and copies before this point wrote is seen by dispatches after it, and what they
/// read may be overwritten.
pub(super) fn barrier_before_dispatches(device: &ash::Device, commands: vk::CommandBuffer) {
    use vk::{AccessFlags as Access, PipelineStageFlags as Stage};
    let barrier = vk::MemoryBarrier::default()
        .src_access_mask(Access::SHADER_WRITE | Access::TRANSFER_WRITE)
        .dst_access_mask(Access::SHADER_READ | Access::SHADER_WRITE);
    barrier_between(
        device,
        commands,
        Stage::COMPUTE_SHADER | Stage::TRANSFER,
        Stage::COMPUTE_SHADER,
        barrier,
    );
}

/// The same between two dispatches.
fn barrier_between_dispatches(device: &ash::Device, commands: vk::CommandBuffer) {
    use vk::{AccessFlags as Access, PipelineStageFlags as Stage};
    let barrier = vk::MemoryBarrier::default()
        .src_access_mask(Access::SHADER_WRITE)
        .dst_access_mask(Access::SHADER_READ | Access::SHADER_WRITE);
    barrier_between(device, commands, Stage::COMPUTE_SHADER, Stage::COMPUTE_SHADER, barrier);
}

/// The same before copies and fills.
pub(super) fn barrier_before_copies(device: &ash::Device, commands: vk::CommandBuffer) {
    use vk::{AccessFlags as Access, PipelineStageFlags as Stage};
    let barrier = vk::MemoryBarrier::default()
        .src_access_mask(Access::SHADER_WRITE | Access::TRANSFER_WRITE)
        .dst_access_mask(Access::TRANSFER_READ | Access::TRANSFER_WRITE);
    barrier_between(device, commands, Stage::COMPUTE_SHADER | Stage::TRANSFER, Stage::TRANSFER, barrier);
}

/// What was written before this point is seen by the host once it has waited for the submit.
pub(super) fn barrier_before_host(device: &ash::Device, commands: vk::CommandBuffer) {
    use vk::{AccessFlags as Access, PipelineStageFlags as Stage};
    let barrier = vk::MemoryBarrier::default()
        .src_access_mask(Access::SHADER_WRITE | Access::TRANSFER_WRITE)
        .dst_access_mask(Access::HOST_READ);
    barrier_between(device, commands, Stage::COMPUTE_SHADER | Stage::TRANSFER, Stage::HOST, barrier);
}

fn barrier_between(
    device: &ash::Device,
    commands: vk::CommandBuffer,
    from: vk::PipelineStageFlags,
    to: vk::PipelineStageFlags,
    barrier: vk::MemoryBarrier<'_>,
) {
    unsafe {
        device.cmd_pipeline_barrier(commands, from, to, vk::DependencyFlags::empty(), &[barrier], &[], &[]);
    }
}

/// Writes a program's dispatches into command buffers.
pub(super) struct Recorder<'a> {
    pub device: &'a Device,
    pub program: &'a Program,
    pub sets: &'a DescriptorSets,
    pub fault: Option<PlantedFault>,
}

impl Recorder<'_> {
    /// Writes consecutive pieces of a recording for a ring slot: ordered after everything submitted before
    /// them, their results visible to the host. So a recording may be cut into command buffers anywhere.
    pub fn part(&self, commands: vk::CommandBuffer, recording: RecordingId, pieces: &[Piece], slot: usize) {
        if self.fault != Some(PlantedFault::NoBarrierBetweenSubmits) {
            barrier_before_dispatches(&self.device.raw, commands);
        }
        self.pieces(commands, recording, pieces, slot);
        barrier_before_host(&self.device.raw, commands);
    }

    /// Writes some whole dispatches of a recording, with the barriers needed among them.
    pub fn dispatches(
        &self,
        commands: vk::CommandBuffer,
        recording: RecordingId,
        range: Range<usize>,
        slot: usize,
    ) {
        let dispatches = &self.program.recordings[recording.0].dispatches;
        let whole = |dispatch: usize| Piece { dispatch, layers: 0..layers(dispatches[dispatch].groups) };
        self.pieces(commands, recording, &range.map(whole).collect::<Vec<_>>(), slot);
    }

    fn pieces(&self, commands: vk::CommandBuffer, recording: RecordingId, pieces: &[Piece], slot: usize) {
        let dispatches = &self.program.recordings[recording.0].dispatches;
        let barriers = barriers_before(pieces.iter().map(|piece| touches(&dispatches[piece.dispatch])));
        let mut bound = Bound::default();
        for (piece, barrier) in pieces.iter().zip(barriers) {
            if barrier && self.fault != Some(PlantedFault::NoBarriersBetweenDispatches) {
                barrier_between_dispatches(&self.device.raw, commands);
            }
            self.piece(commands, &dispatches[piece.dispatch], &piece.layers, slot, &mut bound);
        }
    }

    fn piece(
        &self,
        commands: vk::CommandBuffer,
        dispatch: &Dispatch,
        piece: &Range<u32>,
        slot: usize,
        bound: &mut Bound,
    ) {
        let variant: Variant = (dispatch.kernel, dispatch.specialization.clone());
        let (pipeline, layout) = {
            let pipelines = self.device.pipelines();
            (pipelines.pipeline(&variant), pipelines.layout(dispatch.kernel).pipeline)
        };
        let set = self.sets.get(self.program, dispatch, slot);
        let raw = &self.device.raw;
        let point = vk::PipelineBindPoint::COMPUTE;
        // SAFETY: `check` has held the dispatch against the kernel's interface and the device's limits.
        unsafe {
            if bound.pipeline != pipeline {
                raw.cmd_bind_pipeline(commands, point, pipeline);
                bound.pipeline = pipeline;
            }
            // A set stays bound as long as the layout does not change with it.
            if bound.set != set {
                raw.cmd_bind_descriptor_sets(commands, point, layout, 0, &[set], &[]);
                bound.set = set;
            }
            if !dispatch.push.is_empty() {
                raw.cmd_push_constants(commands, layout, vk::ShaderStageFlags::COMPUTE, 0, &dispatch.push);
            }
            for (offset, address) in self.sets.addresses(self.program, dispatch, slot) {
                let bytes = address.to_ne_bytes();
                raw.cmd_push_constants(commands, layout, vk::ShaderStageFlags::COMPUTE, offset, &bytes);
            }
            let (mut first, mut count) = ([0; 3], dispatch.groups);
            if piece.len() < layers(count) as usize {
                let axis = axis(count);
                (first[axis], count[axis]) = (piece.start, piece.end - piece.start);
                raw.cmd_dispatch_base(commands, first[0], first[1], first[2], count[0], count[1], count[2]);
            } else {
                raw.cmd_dispatch(commands, count[0], count[1], count[2]);
            }
        }
    }
}

/// What a command buffer has bound so far.
#[derive(Default)]
struct Bound {
    pipeline: vk::Pipeline,
    set: vk::DescriptorSet,
}

fn touches(dispatch: &Dispatch) -> Vec<Touch> {
    let bindings = dispatch.kernel.bindings();
    dispatch
        .views
        .iter()
        .zip(bindings)
        .map(|(&view, binding)| Touch { view, access: binding.access })
        .collect()
}
