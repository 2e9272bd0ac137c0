//! Buffers in device memory and in memory that the host sees.

use std::sync::Arc;

use ash::vk;
use gpu_allocator::vulkan::{Allocation, AllocationCreateDesc, AllocationScheme};
use gpu_allocator::{AllocationError, AllocationSizes, MemoryLocation};

use super::device::Device;
use super::failure::failed;
use super::simulation::FaultPoint;
use crate::error::{Error, Result};
use crate::format;

/// Memory is asked from the driver in blocks that grow from 8 to 64 MiB; larger buffers get their own.
pub(super) fn block_sizes() -> AllocationSizes {
    const MIB: u64 = 1 << 20;
    AllocationSizes::new(8 * MIB, 8 * MIB)
        .with_max_device_memblock_size(64 * MIB)
        .with_max_host_memblock_size(64 * MIB)
}

/// Where a buffer's memory should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Fast for the device; the host may not see it.
    Device,
    /// Written by the host, read by the device.
    Upload,
    /// Written by the device, read by the host.
    Readback,
}

impl Place {
    fn location(self) -> MemoryLocation {
        match self {
            Place::Device => MemoryLocation::GpuOnly,
            Place::Upload => MemoryLocation::CpuToGpu,
            Place::Readback => MemoryLocation::GpuToCpu,
        }
    }
}

/// A Vulkan buffer with its memory. Freed when dropped; the device must be done with it by then.
pub(super) struct Buffer {
    pub raw: vk::Buffer,
    /// `None` only while it is being freed, or if allocating it failed.
    allocation: Option<Allocation>,
    words: usize,
    device: Arc<Device>,
}

impl Buffer {
    /// Allocates a buffer of `words` 32-bit words, for kernels and for copies.
    pub fn new(device: &Arc<Device>, name: &str, words: usize, place: Place) -> Result<Self> {
        use vk::BufferUsageFlags as Usage;
        let mut usage = Usage::STORAGE_BUFFER | Usage::TRANSFER_SRC | Usage::TRANSFER_DST;
        if device.info().addresses {
            usage |= Usage::SHADER_DEVICE_ADDRESS;
        }
        let info = vk::BufferCreateInfo::default()
            .size(words as u64 * 4)
            .usage(usage)
            .sharing_mode(vk::SharingMode::EXCLUSIVE);
        let raw = unsafe { device.raw.create_buffer(&info, None) }
            .map_err(failed(&format!("create buffer {name} of {}", format::bytes(words as u64 * 4))))?;
        device.name(raw, name);
        let mut buffer = Buffer { raw, allocation: None, words, device: Arc::clone(device) };
        buffer.allocate(name, place)?;
        Ok(buffer)
    }

    fn allocate(&mut self, name: &str, place: Place) -> Result<()> {
        match self.device.meet(FaultPoint::Allocate) {
            Ok(()) => {}
            Err(vk::Result::ERROR_OUT_OF_DEVICE_MEMORY) => {
                return Err(out_of_memory(name, self.words, &AllocationError::OutOfMemory));
            }
            Err(other) => return Err(failed(&format!("allocate memory for buffer {name}"))(other)),
        }
        let requirements = unsafe { self.device.raw.get_buffer_memory_requirements(self.raw) };
        let allocation = self.device.with_allocator(|allocator| {
            allocator.allocate(&AllocationCreateDesc {
                name,
                requirements,
                location: place.location(),
                linear: true,
                allocation_scheme: AllocationScheme::GpuAllocatorManaged,
            })
        });
        let allocation = allocation.map_err(|error| out_of_memory(name, self.words, &error))?;
        // SAFETY: the memory was allocated for this buffer and is bound once.
        let bound =
            unsafe { self.device.raw.bind_buffer_memory(self.raw, allocation.memory(), allocation.offset()) };
        self.allocation = Some(allocation);
        bound.map_err(failed(&format!("bind memory to buffer {name}")))
    }

    /// Where kernels find its first word, on a device that tells them.
    pub fn address(&self) -> Option<vk::DeviceAddress> {
        let info = vk::BufferDeviceAddressInfo::default().buffer(self.raw);
        // SAFETY: the device was opened, and the buffer made, for the question.
        let ask = || unsafe { self.device.raw.get_buffer_device_address(&info) };
        self.device.info().addresses.then(ask)
    }

    /// True if the host can write into it at once.
    pub fn host_writes(&self) -> bool {
        self.mapped().is_some()
    }

    /// True if the host can read from it at once and fast: memory that is mapped but not cached, as
    /// a card's own memory is, reads at a crawl.
    pub fn host_reads(&self) -> bool {
        let cached = |a: &Allocation| a.memory_properties().contains(vk::MemoryPropertyFlags::HOST_CACHED);
        self.mapped().is_some() && self.allocation.as_ref().is_some_and(cached)
    }

    /// Writes into mapped memory from word `offset` on. The device must not be using these words.
    pub fn host_write(&self, offset: usize, words: &[u32]) {
        let mapped = self.mapped().expect("the buffer is mapped");
        assert!(offset + words.len() <= self.words, "writing past the end of a buffer");
        // SAFETY: the range lies inside the mapping, which is aligned to 4 bytes at the least.
        unsafe { std::ptr::copy_nonoverlapping(words.as_ptr(), mapped.add(offset), words.len()) };
    }

    /// Reads `words.len()` words of mapped memory from word `offset` on. The device must not be
    /// writing these words.
    pub fn host_read(&self, offset: usize, words: &mut [u32]) {
        let mapped = self.mapped().expect("the buffer is mapped");
        assert!(offset + words.len() <= self.words, "reading past the end of a buffer");
        // SAFETY: the range lies inside the mapping, which is aligned to 4 bytes at the least.
        unsafe {
            std::ptr::copy_nonoverlapping(mapped.add(offset).cast_const(), words.as_mut_ptr(), words.len())
        };
    }

    /// Fills mapped memory with zeros.
    pub fn host_clear(&self) {
        let mapped = self.mapped().expect("the buffer is mapped");
        // SAFETY: the mapping is at least `words` long.
        unsafe { std::ptr::write_bytes(mapped, 0, self.words) };
    }

    /// The mapped words. Only coherent memory is used: the allocator asks for it wherever the host is
    /// to see the memory, and device-local memory that happens to be mapped is checked here.
    fn mapped(&self) -> Option<*mut u32> {
        let allocation = self.allocation.as_ref()?;
        let coherent = allocation.memory_properties().contains(vk::MemoryPropertyFlags::HOST_COHERENT);
        allocation.mapped_ptr().filter(|_| coherent).map(|mapped| mapped.as_ptr().cast())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the owner has waited for the device before dropping it.
        unsafe { self.device.raw.destroy_buffer(self.raw, None) };
        if let Some(allocation) = self.allocation.take()
            && let Err(error) = self.device.with_allocator(|allocator| allocator.free(allocation))
        {
            tracing::error!("device memory was not freed: {error}");
        }
    }
}

fn out_of_memory(name: &str, words: usize, error: &AllocationError) -> Error {
    let size = format::bytes(words as u64 * 4);
    let why = match error {
        AllocationError::OutOfMemory => String::new(),
        other => format!(" ({other})"),
    };
    Error::Device(format!("there is no memory left on the device for buffer {name} of {size}{why}"))
}
