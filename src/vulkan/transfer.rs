//! Copies between the host and device memory, in chunks through one staging buffer, and zero-filling.

use std::sync::Arc;

use ash::vk;

use super::device::Device;
use super::memory::{Buffer, Place};
use super::record::{CommandPool, barrier_before_copies, barrier_before_host};
use super::timeline::Timeline;
use crate::error::Result;

/// The longest staging buffer: 64 MiB.
const STAGING_WORDS: usize = 16 << 20;

/// Copies, one at a time, each waited for. The caller makes sure that no dispatch is under way.
pub(super) struct Transfer {
    timeline: Timeline,
    pool: CommandPool,
    commands: vk::CommandBuffer,
    staging: Option<Buffer>,
    device: Arc<Device>,
}

impl Transfer {
    /// Makes ready to copy into and out of `buffers`. There is a staging buffer only if the host
    /// cannot reach all of them itself.
    pub fn new<'a>(device: &Arc<Device>, buffers: impl Iterator<Item = (&'a Buffer, usize)>) -> Result<Self> {
        let words = buffers.filter(|(b, _)| !b.host_reads()).map(|(_, words)| words).max();
        let staging = match words {
            Some(words) => Some(Buffer::new(device, "staging", words.min(STAGING_WORDS), Place::Readback)?),
            None => None,
        };
        let timeline = Timeline::new(device)?;
        let pool = CommandPool::new(device)?;
        let commands = pool.record(|_| {})?;
        Ok(Transfer { timeline, pool, commands, staging, device: Arc::clone(device) })
    }

    /// Copies `words` into a buffer from word `offset` on.
    pub fn write(&mut self, buffer: &Buffer, offset: usize, words: &[u32]) -> Result<()> {
        if buffer.host_writes() {
            buffer.host_write(offset, words);
            return Ok(());
        }
        for (i, chunk) in words.chunks(STAGING_WORDS).enumerate() {
            let staging = self.staging_buffer();
            staging.host_write(0, chunk);
            let region = region(0, offset + i * STAGING_WORDS, chunk.len());
            let (from, to) = (staging.raw, buffer.raw);
            self.copy(from, to, region)?;
        }
        Ok(())
    }

    /// Copies out of a buffer from word `offset` on.
    pub fn read(&mut self, buffer: &Buffer, offset: usize, words: &mut [u32]) -> Result<()> {
        if buffer.host_reads() {
            buffer.host_read(offset, words);
            return Ok(());
        }
        for (i, chunk) in words.chunks_mut(STAGING_WORDS).enumerate() {
            let region = region(offset + i * STAGING_WORDS, 0, chunk.len());
            let staging = self.staging_buffer().raw;
            self.copy(buffer.raw, staging, region)?;
            self.staging_buffer().host_read(0, chunk);
        }
        Ok(())
    }

    /// Fills whole buffers with zeros.
    pub fn clear<'a>(&mut self, buffers: impl Iterator<Item = &'a Buffer>) -> Result<()> {
        let device = Arc::clone(&self.device);
        self.run(|commands| {
            for buffer in buffers {
                unsafe { device.raw.cmd_fill_buffer(commands, buffer.raw, 0, vk::WHOLE_SIZE, 0) };
            }
        })
    }

    fn staging_buffer(&self) -> &Buffer {
        self.staging.as_ref().expect("there is a staging buffer for what the host cannot reach")
    }

    fn copy(&mut self, from: vk::Buffer, to: vk::Buffer, region: vk::BufferCopy) -> Result<()> {
        let device = Arc::clone(&self.device);
        self.run(|commands| unsafe { device.raw.cmd_copy_buffer(commands, from, to, &[region]) })
    }

    fn run(&mut self, work: impl FnOnce(vk::CommandBuffer)) -> Result<()> {
        let raw = &self.device.raw;
        self.pool.record_again(self.commands, vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT, |commands| {
            barrier_before_copies(raw, commands);
            work(commands);
            barrier_before_host(raw, commands);
        })?;
        self.timeline.submit(self.commands)?;
        self.timeline.wait_all()
    }
}

fn region(from: usize, to: usize, words: usize) -> vk::BufferCopy {
    vk::BufferCopy { src_offset: from as u64 * 4, dst_offset: to as u64 * 4, size: words as u64 * 4 }
}
