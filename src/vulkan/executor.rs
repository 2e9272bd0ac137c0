//! The executor: a program loaded on a device, its command buffers recorded once and replayed.

use std::sync::Arc;

use super::check::check;
use super::descriptors::{DescriptorSets, copy_offset};
use super::device::Device;
use super::memory::{Buffer, Place};
use super::record::{CommandPool, PlantedFault, Recorder};
use super::replay::Replay;
use super::selection::Selection;
use super::timeline::Timeline;
use super::transfer::Transfer;
use crate::error::{Error, Result};
use crate::format;
use crate::recording::{
    BufferId, BufferSpec, Executor, Program, RING_SLOTS, RecordingId, Residence, Ticket, View, align_words,
};

/// Runs a program on a Vulkan device. The fields are dropped in this order: the timelines first, which
/// wait for the device, then what it was using.
pub struct VulkanExecutor {
    timeline: Timeline,
    transfer: Transfer,
    /// One a recording.
    replays: Vec<Replay>,
    pub(super) pool: CommandPool,
    pub(super) sets: DescriptorSets,
    /// One a program buffer; ring buffers hold all their copies one after the other.
    buffers: Vec<Buffer>,
    rings: Vec<Ring>,
    /// The last submit that used each copy of each buffer; 0 if none has.
    last_use: Vec<[u64; RING_SLOTS]>,
    pub(super) program: Program,
    pub(super) device: Arc<Device>,
}

/// Where a recording stands in its ring.
struct Ring {
    /// Submits made so far; the next one takes slot `submits % RING_SLOTS`.
    submits: usize,
    /// The submit that each slot was last used for; 0 if for none.
    tickets: [u64; RING_SLOTS],
    /// Upload and readback buffers that the recording binds, ascending.
    buffers: Vec<BufferId>,
}

impl Ring {
    fn new(program: &Program, recording: RecordingId) -> Self {
        Ring { submits: 0, tickets: [0; RING_SLOTS], buffers: program.ring_buffers(recording) }
    }
}

impl VulkanExecutor {
    /// Opens a device for one program. See [`Device::open`] and [`VulkanExecutor::load`].
    pub fn new(selection: &Selection, validation: bool, program: Program) -> Result<Self> {
        Self::load(&Device::open(selection, validation)?, program)
    }

    /// Loads a program on an open device: all its memory is allocated and zero-filled, all its kernels
    /// are built and all its command buffers recorded when this returns.
    ///
    /// # Errors
    /// [`Error::Device`] if the program goes past a limit of the device, its memory does not suffice,
    /// or its driver fails.
    pub fn load(device: &Arc<Device>, program: Program) -> Result<Self> {
        Self::load_planted(device, program, None)
    }

    /// Loads a program with a synchronization mistake, for the tests of the tests.
    #[doc(hidden)]
    pub fn load_with_fault(device: &Arc<Device>, program: Program, fault: PlantedFault) -> Result<Self> {
        Self::load_planted(device, program, Some(fault))
    }

    fn load_planted(device: &Arc<Device>, program: Program, fault: Option<PlantedFault>) -> Result<Self> {
        check(&program, device.info())?;
        let buffers = allocate(device, &program)?;
        let variants = program.recordings.iter().flat_map(|r| &r.dispatches);
        let variants = variants.map(|d| (d.kernel, d.specialization.clone()));
        device.pipelines().build(&device.raw, variants)?;
        let sets = DescriptorSets::new(device, &program, &buffers)?;
        let pool = CommandPool::new(device)?;
        let recorder = Recorder { device, program: &program, sets: &sets, fault };
        let recordings = || (0..program.recordings.len()).map(RecordingId);
        let replays = recordings().map(|id| Replay::new(&recorder, &pool, id)).collect::<Result<_>>()?;
        let device_buffers =
            program.buffers.iter().zip(&buffers).filter(|(s, _)| s.residence == Residence::Device);
        let transfer =
            Transfer::new(device, device_buffers.map(|(spec, buffer)| (buffer, spec.words)), true)?;
        let rings = recordings().map(|id| Ring::new(&program, id)).collect();
        let mut executor = VulkanExecutor {
            timeline: Timeline::new(device)?,
            transfer,
            replays,
            pool,
            sets,
            last_use: vec![[0; RING_SLOTS]; buffers.len()],
            buffers,
            rings,
            program,
            device: Arc::clone(device),
        };
        executor.clear_everything()?;
        Ok(executor)
    }

    /// The device that the program is loaded on.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The program, as it was loaded.
    pub fn program(&self) -> &Program {
        &self.program
    }

    pub(super) fn timeline(&mut self) -> &mut Timeline {
        &mut self.timeline
    }

    pub(super) fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.0 as usize]
    }

    fn clear_everything(&mut self) -> Result<()> {
        let ring_buffers = self.program.buffers.iter().zip(&self.buffers);
        ring_buffers.filter(|(s, _)| s.residence != Residence::Device).for_each(|(_, b)| b.host_clear());
        self.clear()
    }

    fn assert_device_view(&self, view: View) {
        let spec = self.program.spec(view.buffer);
        assert_eq!(spec.residence, Residence::Device, "{} is not in device memory", spec.name);
        assert!(view.offset + view.words <= spec.words, "past the end of {}", spec.name);
    }

    /// Copies what the host gives into a slot's copies of the upload buffers.
    fn upload(&self, recording: RecordingId, slot: usize, uploads: &[(BufferId, &[u32])]) {
        let name = &self.program.recordings[recording.0].name;
        for (buffer, words) in uploads {
            let spec = self.program.spec(*buffer);
            assert_eq!(spec.residence, Residence::Upload, "{name}: {} is not for uploads", spec.name);
            assert_eq!(words.len(), spec.words, "{name}: words for {}", spec.name);
            let offset = copy_offset(&self.program, *buffer, slot);
            self.buffers[buffer.0 as usize].host_write(offset, words);
        }
        for buffer in &self.rings[recording.0].buffers {
            let spec = self.program.spec(*buffer);
            let given = uploads.iter().any(|(id, _)| id == buffer);
            assert!(given || spec.residence != Residence::Upload, "{name}: nothing given for {}", spec.name);
        }
    }

    /// The recording and slot of a submit whose results are still there.
    fn find(&self, ticket: Ticket) -> Option<(usize, usize)> {
        self.rings.iter().enumerate().find_map(|(recording, ring)| {
            ring.tickets.iter().position(|&t| t == ticket.0 && t != 0).map(|slot| (recording, slot))
        })
    }
}

impl Executor for VulkanExecutor {
    fn write(&mut self, view: View, words: &[u32]) -> Result<()> {
        self.assert_device_view(view);
        assert_eq!(words.len(), view.words, "words for {}", self.program.spec(view.buffer).name);
        self.timeline.wait_all()?;
        self.transfer.write(&self.buffers[view.buffer.0 as usize], view.offset, words)
    }

    fn read(&mut self, view: View) -> Result<Vec<u32>> {
        self.assert_device_view(view);
        self.timeline.wait_all()?;
        let mut words = vec![0; view.words];
        self.transfer.read(&self.buffers[view.buffer.0 as usize], view.offset, &mut words)?;
        Ok(words)
    }

    fn submit(&mut self, recording: RecordingId, uploads: &[(BufferId, &[u32])]) -> Result<Ticket> {
        let ring = &self.rings[recording.0];
        let slot = ring.submits % RING_SLOTS;
        // The slot's command buffer must be done, and whatever recording used its ring copies last.
        let copies = ring.buffers.iter().chain(uploads.iter().map(|(buffer, _)| buffer));
        let last = copies.map(|buffer| self.last_use[buffer.0 as usize][slot]).max();
        let busy = ring.tickets[slot].max(last.unwrap_or(0));
        self.timeline.wait(busy)?;
        self.upload(recording, slot, uploads);
        let recorder =
            Recorder { device: &self.device, program: &self.program, sets: &self.sets, fault: None };
        let ticket = self.replays[recording.0].submit(&recorder, &self.pool, &mut self.timeline, slot)?;
        let ring = &mut self.rings[recording.0];
        ring.submits += 1;
        ring.tickets[slot] = ticket;
        for buffer in &ring.buffers {
            self.last_use[buffer.0 as usize][slot] = ticket;
        }
        Ok(Ticket(ticket))
    }

    fn fetch(&mut self, ticket: Ticket, buffer: BufferId) -> Result<Vec<u32>> {
        let spec = self.program.spec(buffer);
        assert_eq!(spec.residence, Residence::Readback, "{} is not for reading back", spec.name);
        let (recording, slot) = self.find(ticket).expect("the submit is among its recording's last");
        let name = &self.program.recordings[recording].name;
        assert!(self.rings[recording].buffers.contains(&buffer), "{name} does not touch {}", spec.name);
        let last = self.last_use[buffer.0 as usize][slot];
        assert_eq!(last, ticket.0, "{} was used again since that submit of {name}", spec.name);
        let mut words = vec![0; spec.words];
        self.timeline.wait(ticket.0)?;
        let offset = copy_offset(&self.program, buffer, slot);
        self.buffers[buffer.0 as usize].host_read(offset, &mut words);
        Ok(words)
    }

    fn is_synchronous(&self) -> bool {
        false
    }

    fn wait_idle(&mut self) -> Result<()> {
        self.timeline.wait_all()
    }

    fn clear(&mut self) -> Result<()> {
        self.timeline.wait_all()?;
        let device = |(spec, _): &(&BufferSpec, &Buffer)| spec.residence == Residence::Device;
        let buffers = self.program.buffers.iter().zip(&self.buffers).filter(device);
        self.transfer.clear(buffers.map(|(_, buffer)| buffer))
    }
}

/// Allocates every buffer of a program, or says what it would take.
fn allocate(device: &Arc<Device>, program: &Program) -> Result<Vec<Buffer>> {
    let allocate = |spec: &BufferSpec| {
        let (place, copies) = match spec.residence {
            Residence::Device => (Place::Device, 1),
            Residence::Upload => (Place::Upload, RING_SLOTS),
            Residence::Readback => (Place::Readback, RING_SLOTS),
        };
        Buffer::new(device, &spec.name, align_words(spec.words) * copies, place)
    };
    let budget = device.memory_budget_bytes();
    program.buffers.iter().map(allocate).collect::<Result<_>>().map_err(|error| {
        let total = program.bytes_by_group().values().sum();
        Error::Device(format!(
            "{error}. The program takes {} in all, and {} had {} free: lower --batch-size, --context or the \
             model's size, end what else uses the device, or use --device cpu",
            format::bytes(total),
            device.info().name,
            format::bytes(budget)
        ))
    })
}
