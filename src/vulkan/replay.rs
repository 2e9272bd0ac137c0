//! The command buffers of one recording, and its first runs, whose times decide where it is cut.

use std::time::{Duration, Instant};

use ash::vk;

use super::cuts::cut;
use super::record::{CommandPool, Recorder};
use super::timeline::Timeline;
use crate::error::Result;
use crate::recording::{RING_SLOTS, RecordingId};

/// Runs that are made dispatch by dispatch. The last is the one that counts: the first also pays for what
/// the driver puts off until a kernel is used.
const TIMED_RUNS: u32 = 2;

/// A recording, recorded.
pub(super) struct Replay {
    recording: RecordingId,
    /// For each ring slot, what is submitted, in this order.
    slots: [Vec<vk::CommandBuffer>; RING_SLOTS],
    timed_runs_left: u32,
}

impl Replay {
    /// Records a recording for every ring slot, in one piece.
    pub fn new(recorder: &Recorder<'_>, pool: &CommandPool, recording: RecordingId) -> Result<Self> {
        let count = recorder.program.recordings[recording.0].dispatches.len();
        let mut replay = Replay { recording, slots: Default::default(), timed_runs_left: 0 };
        replay.record(recorder, pool, &vec![Duration::ZERO; count], Duration::MAX)?;
        // What is one dispatch at most cannot be cut. A planted mistake is in what was recorded now.
        if count > 1 && recorder.fault.is_none() {
            replay.timed_runs_left = TIMED_RUNS;
        }
        Ok(replay)
    }

    /// Starts one run of what `slot` holds, and returns the number of its last submit. The first runs are
    /// waited for.
    pub fn submit(
        &mut self,
        recorder: &Recorder<'_>,
        pool: &CommandPool,
        timeline: &mut Timeline,
        slot: usize,
    ) -> Result<u64> {
        if self.timed_runs_left > 0 {
            return self.run_timed(recorder, pool, timeline, slot);
        }
        let mut number = 0;
        for &commands in &self.slots[slot] {
            number = timeline.submit(commands)?;
        }
        Ok(number)
    }

    /// Runs dispatch by dispatch. After the last such run, the recording is cut if it has to be.
    fn run_timed(
        &mut self,
        recorder: &Recorder<'_>,
        pool: &CommandPool,
        timeline: &mut Timeline,
        slot: usize,
    ) -> Result<u64> {
        let count = recorder.program.recordings[self.recording.0].dispatches.len();
        let commands = pool.record(|_| {})?;
        let usage = vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT;
        let mut times = Vec::with_capacity(count);
        let mut number = 0;
        for i in 0..count {
            pool.record_again(commands, usage, |commands| {
                recorder.part(commands, self.recording, i..i + 1, slot);
            })?;
            let start = Instant::now();
            number = timeline.submit(commands)?;
            timeline.wait(number)?;
            times.push(start.elapsed());
        }
        pool.free(commands);
        self.timed_runs_left -= 1;
        let longest = recorder.device.longest_submit();
        if self.timed_runs_left == 0 && times.iter().sum::<Duration>() > longest {
            self.record(recorder, pool, &times, longest)?;
            self.warn_of_long_dispatches(recorder, &times, longest);
        }
        Ok(number)
    }

    /// Records every slot anew. The caller makes sure that none is in use.
    fn record(
        &mut self,
        recorder: &Recorder<'_>,
        pool: &CommandPool,
        times: &[Duration],
        longest: Duration,
    ) -> Result<()> {
        let cuts = cut(times, longest);
        for (slot, parts) in self.slots.iter_mut().enumerate() {
            parts.drain(..).for_each(|commands| pool.free(commands));
            for range in &cuts {
                let record = |commands| recorder.part(commands, self.recording, range.clone(), slot);
                parts.push(pool.record(record)?);
            }
        }
        if cuts.len() > 1 {
            let name = &recorder.program.recordings[self.recording.0].name;
            let total = times.iter().sum::<Duration>().as_secs_f64();
            tracing::info!("{name} takes {total:.2} s: it is handed to the device in {} parts", cuts.len());
        }
        Ok(())
    }

    fn warn_of_long_dispatches(&self, recorder: &Recorder<'_>, times: &[Duration], longest: Duration) {
        let dispatches = &recorder.program.recordings[self.recording.0].dispatches;
        let Some(i) = (0..times.len()).max_by_key(|&i| times[i]).filter(|&i| times[i] > longest) else {
            return;
        };
        tracing::warn!(
            "kernel {} alone keeps {} busy for {:.2} s: a desktop that waits for it may reset it; lower \
             --batch-size",
            dispatches[i].kernel.name(),
            recorder.device.info().name,
            times[i].as_secs_f64()
        );
    }
}
