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
    /// The host reaches into buffers that it sees, instead of through the staging buffer.
    direct: bool,
    device: Arc<Device>,
}

impl Transfer {
    /// Makes ready to copy into and out of `buffers`, directly where the host sees them if `direct`.
    /// There is a staging buffer only if the host cannot reach all of them itself.
    pub fn new<'a>(
        device: &Arc<Device>,
        buffers: impl Iterator<Item = (&'a Buffer, usize)>,
        direct: bool,
    ) -> Result<Self> {
        let words = buffers.filter(|(b, _)| !(direct && b.host_reads())).map(|(_, words)| words).max();
        let staging = match words {
            Some(words) => Some(Buffer::new(device, "staging", words.min(STAGING_WORDS), Place::Readback)?),
            None => None,
        };
        let timeline = Timeline::new(device)?;
        let pool = CommandPool::new(device)?;
        let commands = pool.record(|_| {})?;
        Ok(Transfer { timeline, pool, commands, staging, direct, device: Arc::clone(device) })
    }

    /// Copies `words` into a buffer from word `offset` on.
    pub fn write(&mut self, buffer: &Buffer, offset: usize, words: &[u32]) -> Result<()> {
        if self.direct && buffer.host_writes() {
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
        if self.direct && buffer.host_reads() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vulkan::{Kind, Selection, devices};

    /// Software Vulkan shows all its memory to the host, so the way through the staging buffer, which
    /// cards need, is taken here on purpose.
    #[test]
    fn what_goes_through_the_staging_buffer_comes_back() {
        let install = "this test needs software Vulkan and the Vulkan validation layer \
                       (Debian and Ubuntu: apt install mesa-vulkan-drivers vulkan-validationlayers)";
        let all = devices().unwrap_or_else(|error| panic!("{error}; {install}"));
        let software = all.iter().find(|d| d.kind == Kind::Cpu).unwrap_or_else(|| panic!("{install}"));
        let device = Device::open(&Selection::Index(software.index), true)
            .unwrap_or_else(|error| panic!("{error}; {install}"));

        let length = 2 * STAGING_WORDS + 1000;
        let buffer = Buffer::new(&device, "long", length, Place::Device).unwrap();
        let mut transfer = Transfer::new(&device, [(&buffer, length)].into_iter(), false).unwrap();
        transfer.clear([&buffer].into_iter()).unwrap();
        let words: Vec<u32> = (0..length as u32 - 300).map(|i| i.wrapping_mul(2_654_435_761)).collect();
        transfer.write(&buffer, 200, &words).unwrap();

        let mut back = vec![1; length];
        transfer.read(&buffer, 0, &mut back).unwrap();
        assert!(
            back[..200] == [0; 200] && back[200..length - 100] == words && back[length - 100..] == [0; 100]
        );
        let mut part = vec![1; 50];
        transfer.read(&buffer, STAGING_WORDS + 180, &mut part).unwrap();
        assert_eq!(part, words[STAGING_WORDS - 20..STAGING_WORDS + 30]);
        drop((transfer, buffer));
        assert_eq!(device.validation_messages(), Vec::<String>::new());
    }
}
