//! Runs a program on the CPU: every dispatch is a call of its kernel's twin, one after the other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::twins::{self, split};
use crate::error::{Error, Result};
use crate::recording::{
    BufferId, BufferSpec, Dispatch, Executor, Program, RING_SLOTS, RecordingId, Residence, Ticket, Traits,
    View,
};

/// What one kernel has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelTime {
    /// Dispatches run.
    pub calls: u64,
    /// Time they took together.
    pub total: Duration,
}

/// Runs a program with the twins. `submit` returns when the run is finished.
pub struct CpuExecutor {
    program: Program,
    recordings: Vec<Prepared>,
    /// One a buffer of the program. A ring buffer's is empty but while a recording runs that binds it.
    buffers: Vec<Vec<u32>>,
    submits: u64,
    profile: BTreeMap<&'static str, KernelTime>,
    /// What each dispatch of the last submit took.
    last_times: Vec<Duration>,
}

/// A recording made ready to run.
struct Prepared {
    calls: Vec<Call>,
    slots: Vec<Slot>,
    /// Submits made so far; the next one takes slot `submits % RING_SLOTS`.
    submits: usize,
}

/// A dispatch whose views name buffers by their place in `buffers`, so that a run looks at no others.
struct Call {
    dispatch: Dispatch,
    buffers: Vec<BufferId>,
}

/// One ring slot: the submit it was last used for, 0 for none, and its copies of the ring buffers.
struct Slot {
    ticket: u64,
    copies: Vec<(BufferId, Vec<u32>)>,
}

impl CpuExecutor {
    /// What recordings may know of the CPU; the twins do not care.
    pub const TRAITS: Traits = Traits::PLAIN;

    /// Allocates and zero-fills all of a program's memory and checks all of its dispatches.
    ///
    /// # Errors
    /// [`Error::Device`] if the memory does not suffice, or if a dispatch's views overlap where one is
    /// written, or reach past their buffers.
    pub fn load(program: Program) -> Result<CpuExecutor> {
        let mut buffers = program.buffers.iter().map(allocate).collect::<Result<Vec<_>>>()?;
        for dispatch in program.recordings.iter().flat_map(|recording| &recording.dispatches) {
            split(&mut buffers, dispatch)?;
        }
        let recordings = (0..program.recordings.len())
            .map(|recording| prepare(&program, RecordingId(recording)))
            .collect::<Result<Vec<_>>>()?;
        for (buffer, spec) in buffers.iter_mut().zip(&program.buffers) {
            if spec.residence != Residence::Device {
                *buffer = Vec::new();
            }
        }
        Ok(CpuExecutor {
            program,
            recordings,
            buffers,
            submits: 0,
            profile: BTreeMap::new(),
            last_times: Vec::new(),
        })
    }

    /// The program, as it was loaded.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Calls and time of each kernel since loading, the costliest first.
    pub fn profile(&self) -> Vec<(&'static str, KernelTime)> {
        let mut kernels: Vec<_> = self.profile.iter().map(|(name, time)| (*name, *time)).collect();
        kernels.sort_by_key(|(_, time)| std::cmp::Reverse(time.total));
        kernels
    }

    /// What each dispatch of the last submit took.
    pub fn last_times(&self) -> &[Duration] {
        &self.last_times
    }

    fn device_buffer(&mut self, view: View) -> &mut [u32] {
        let spec = self.program.spec(view.buffer);
        assert_eq!(spec.residence, Residence::Device, "{} is not in device memory", spec.name);
        assert!(view.offset + view.words <= spec.words, "past the end of {}", spec.name);
        &mut self.buffers[view.buffer.0 as usize][view.offset..][..view.words]
    }

    /// Puts a slot's copies of the ring buffers in their buffers' places, or back.
    fn swap_copies(&mut self, recording: usize, slot: usize) {
        for (buffer, copy) in &mut self.recordings[recording].slots[slot].copies {
            std::mem::swap(copy, &mut self.buffers[buffer.0 as usize]);
        }
    }

    /// Copies what the host gives into a slot's copies of the upload buffers.
    fn upload(&mut self, recording: usize, slot: usize, uploads: &[(BufferId, &[u32])]) {
        let name = &self.program.recordings[recording].name;
        for (buffer, copy) in &mut self.recordings[recording].slots[slot].copies {
            let spec = self.program.spec(*buffer);
            if spec.residence == Residence::Upload {
                let given = uploads.iter().find(|(id, _)| id == buffer);
                let (_, words) = given.unwrap_or_else(|| panic!("{name}: nothing given for {}", spec.name));
                assert_eq!(words.len(), spec.words, "{name}: words for {}", spec.name);
                copy.copy_from_slice(words);
            }
        }
    }
}

/// Where the time went, for whoever looks: `RUST_LOG=hlx::cpu=debug`.
impl Drop for CpuExecutor {
    fn drop(&mut self) {
        let all: Duration = self.profile.values().map(|time| time.total).sum();
        for (name, KernelTime { calls, total }) in self.profile() {
            let (total_ms, percent) =
                (total.as_secs_f64() * 1e3, total.as_secs_f64() / all.as_secs_f64() * 100.0);
            tracing::debug!("{name}: {calls} calls, {total_ms:.1} ms, {percent:.1} %");
        }
    }
}

impl Executor for CpuExecutor {
    fn write(&mut self, view: View, words: &[u32]) -> Result<()> {
        self.device_buffer(view).copy_from_slice(words);
        Ok(())
    }

    fn read(&mut self, view: View) -> Result<Vec<u32>> {
        Ok(self.device_buffer(view).to_vec())
    }

    fn submit(
        &mut self,
        RecordingId(recording): RecordingId,
        uploads: &[(BufferId, &[u32])],
    ) -> Result<Ticket> {
        let slot = self.recordings[recording].submits % RING_SLOTS;
        self.upload(recording, slot, uploads);
        self.swap_copies(recording, slot);
        let (calls, buffers, profile) =
            (&self.recordings[recording].calls, &mut self.buffers, &mut self.profile);
        let times = &mut self.last_times;
        times.clear();
        // Inside the thread pool, so that this thread's work is shared without handing it over each time.
        let result = rayon::scope(|_| {
            calls.iter().try_for_each(|call| call.run(buffers, profile).map(|time| times.push(time)))
        });
        self.swap_copies(recording, slot);
        result?;
        self.submits += 1;
        let prepared = &mut self.recordings[recording];
        prepared.submits += 1;
        prepared.slots[slot].ticket = self.submits;
        Ok(Ticket(self.submits))
    }

    fn fetch(&mut self, Ticket(ticket): Ticket, buffer: BufferId) -> Result<Vec<u32>> {
        let spec = self.program.spec(buffer);
        assert_eq!(spec.residence, Residence::Readback, "{} is not for reading back", spec.name);
        let slots = || self.recordings.iter().flat_map(|recording| &recording.slots);
        let slot = slots().find(|slot| slot.ticket == ticket && ticket != 0);
        let slot = slot.expect("the submit is among its recording's last");
        let copy = slot.copies.iter().find(|(id, _)| *id == buffer);
        let (_, copy) =
            copy.unwrap_or_else(|| panic!("that submit's recording does not touch {}", spec.name));
        Ok(copy.clone())
    }

    fn is_synchronous(&self) -> bool {
        true
    }

    fn wait_idle(&mut self) -> Result<()> {
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        self.buffers.iter_mut().for_each(|buffer| buffer.fill(0));
        Ok(())
    }
}

impl Call {
    fn new(dispatch: &Dispatch) -> Call {
        let mut dispatch = dispatch.clone();
        let mut buffers: Vec<BufferId> = dispatch.views.iter().map(|view| view.buffer).collect();
        buffers.sort_unstable();
        buffers.dedup();
        for view in &mut dispatch.views {
            let place = buffers.iter().position(|buffer| *buffer == view.buffer);
            view.buffer = BufferId(place.expect("every view's buffer is listed") as u32);
        }
        Call { dispatch, buffers }
    }

    fn run(
        &self,
        buffers: &mut [Vec<u32>],
        profile: &mut BTreeMap<&'static str, KernelTime>,
    ) -> Result<Duration> {
        let start = Instant::now();
        let mut bound: Vec<Vec<u32>> =
            self.buffers.iter().map(|id| std::mem::take(&mut buffers[id.0 as usize])).collect();
        let result = split(&mut bound, &self.dispatch).map(|slices| twins::run(&self.dispatch, slices));
        for (id, words) in self.buffers.iter().zip(bound) {
            buffers[id.0 as usize] = words;
        }
        let elapsed = start.elapsed();
        let time = profile.entry(self.dispatch.kernel.name()).or_default();
        time.calls += 1;
        time.total += elapsed;
        result.map(|()| elapsed)
    }
}

/// Makes one recording ready, with its own ring copies.
fn prepare(program: &Program, recording: RecordingId) -> Result<Prepared> {
    let dispatches = &program.recordings[recording.0].dispatches;
    let ring = program.ring_buffers(recording);
    let slot = || -> Result<Slot> {
        let copy = |&buffer: &BufferId| Ok((buffer, allocate(program.spec(buffer))?));
        Ok(Slot { ticket: 0, copies: ring.iter().map(copy).collect::<Result<_>>()? })
    };
    let slots = (0..RING_SLOTS).map(|_| slot()).collect::<Result<_>>()?;
    Ok(Prepared { calls: dispatches.iter().map(Call::new).collect(), slots, submits: 0 })
}

/// A buffer's words, all zero.
fn allocate(spec: &BufferSpec) -> Result<Vec<u32>> {
    let mut words = Vec::new();
    words.try_reserve_exact(spec.words).map_err(|_| {
        let bytes = spec.words as u64 * 4;
        Error::Device(format!(
            "the CPU has no memory for {} of {bytes} bytes: lower --batch-size, --context or the model's \
             size",
            spec.name
        ))
    })?;
    words.resize(spec.words, 0);
    Ok(words)
}
