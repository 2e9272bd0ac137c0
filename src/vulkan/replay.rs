//! The command buffers of one recording, and its first runs, whose times decide where it is cut.

use std::time::{Duration, Instant};

use ash::vk;

use super::cuts::{Cost, Piece, cut, first_layers, layers, next_layers};
use super::record::{CommandPool, Recorder};
use super::timeline::Timeline;
use crate::error::Result;
use crate::recording::{RING_SLOTS, RecordingId};

/// Runs that are made dispatch by dispatch, a long one in parts. The last is the one that counts: the first
/// also pays for what the driver puts off until a kernel is used.
const TIMED_RUNS: u32 = 2;

/// A recording, recorded.
pub(super) struct Replay {
    recording: RecordingId,
    /// For each ring slot, what is submitted, in this order.
    slots: [Vec<vk::CommandBuffer>; RING_SLOTS],
    timed_runs_left: u32,
    /// For each dispatch, how many of its layers a timed run begins with.
    first_layers: Vec<u32>,
}

impl Replay {
    /// Records a recording for every ring slot, in one piece.
    pub fn new(recorder: &Recorder<'_>, pool: &CommandPool, recording: RecordingId) -> Result<Self> {
        let dispatches = &recorder.program.recordings[recording.0].dispatches;
        let first_layers = dispatches.iter().map(first_layers).collect();
        let mut replay = Replay { recording, slots: Default::default(), timed_runs_left: 0, first_layers };
        let times = vec![Duration::ZERO; dispatches.len()];
        replay.record(recorder, pool, &times, Duration::MAX)?;
        // A planted mistake is in what was recorded now.
        if recorder.fault.is_none() {
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
        let longest = recorder.device.longest_submit();
        let dispatches = &recorder.program.recordings[self.recording.0].dispatches;
        let commands = pool.record(|_| {})?;
        let mut times = Vec::with_capacity(dispatches.len());
        let mut number = 0;
        for (dispatch, layers) in dispatches.iter().map(|dispatch| layers(dispatch.groups)).enumerate() {
            let (mut done, mut time, mut next) = (0, Duration::ZERO, self.first_layers[dispatch]);
            while done < layers {
                let piece = Piece { dispatch, layers: done..done + next.min(layers - done) };
                pool.record_again(commands, vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT, |commands| {
                    recorder.part(commands, self.recording, std::slice::from_ref(&piece), slot);
                })?;
                let start = Instant::now();
                number = timeline.submit(commands)?;
                timeline.wait(number)?;
                let took = start.elapsed();
                let count = piece.layers.end - done;
                (done, time) = (piece.layers.end, time + took);
                next = next_layers(count, took, longest);
            }
            // By the mean of this run's layers, so that the next run needs no more submits than it must.
            self.first_layers[dispatch] = next_layers(layers, time, longest).min(layers);
            times.push(time);
        }
        pool.free(commands);
        self.timed_runs_left -= 1;
        if self.timed_runs_left == 0 && times.iter().sum::<Duration>() > longest {
            self.record(recorder, pool, &times, longest)?;
            self.warn_of_long_layers(recorder, &times, longest);
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
        let recording = &recorder.program.recordings[self.recording.0];
        let groups = recording.dispatches.iter().map(|dispatch| dispatch.groups);
        let costs = times.iter().zip(groups).map(|(&time, groups)| Cost { time, layers: layers(groups) });
        let submits = cut(&costs.collect::<Vec<_>>(), longest);
        for (slot, parts) in self.slots.iter_mut().enumerate() {
            parts.drain(..).for_each(|commands| pool.free(commands));
            for pieces in &submits {
                let record = |commands| recorder.part(commands, self.recording, pieces, slot);
                parts.push(pool.record(record)?);
            }
        }
        if submits.len() > 1 {
            let name = &recording.name;
            let total = times.iter().sum::<Duration>().as_secs_f64();
            tracing::info!(
                "{name} takes {total:.2} s: it is handed to the device in {} parts",
                submits.len()
            );
        }
        Ok(())
    }

    fn warn_of_long_layers(&self, recorder: &Recorder<'_>, times: &[Duration], longest: Duration) {
        let dispatches = &recorder.program.recordings[self.recording.0].dispatches;
        let layer = |i: usize| times[i] / layers(dispatches[i].groups);
        let Some(i) = (0..times.len()).max_by_key(|&i| layer(i)).filter(|&i| layer(i) > longest) else {
            return;
        };
        tracing::warn!(
            "the smallest part of kernel {} keeps {} busy for {:.2} s: a desktop that waits for it may reset \
             it; lower --batch-size",
            dispatches[i].kernel.name(),
            recorder.device.info().name,
            layer(i).as_secs_f64()
        );
    }
}
