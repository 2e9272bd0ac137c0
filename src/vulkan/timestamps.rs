//! How long dispatches take, by the device's own clock.

use std::ops::Range;
use std::sync::Arc;

use ash::vk;
use ash::vk::PipelineStageFlags as Stage;

use super::device::Device;
use super::executor::VulkanExecutor;
use super::failure::failed;
use super::record::{Recorder, barrier_before_copies, barrier_before_dispatches, barrier_before_host};
use crate::error::{Error, Result};
use crate::recording::{RecordingId, View};

/// The ring slot whose copies of the upload buffers are used.
const SLOT: usize = 0;

/// Dispatches that one submit times: few enough that no desktop takes the device for hanging.
const TIMED_TOGETHER: usize = 16;

/// Times of repeated runs of the same dispatches.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// Each run's time in milliseconds, ascending.
    pub runs_ms: Vec<f64>,
}

impl Timing {
    fn new(mut runs_ms: Vec<f64>) -> Self {
        assert!(!runs_ms.is_empty(), "at least one run");
        runs_ms.sort_by(f64::total_cmp);
        Timing { runs_ms }
    }

    /// The median: the mean of the middle two, if there is an even number of runs.
    pub fn median_ms(&self) -> f64 {
        let half = self.runs_ms.len() / 2;
        if self.runs_ms.len().is_multiple_of(2) {
            (self.runs_ms[half - 1] + self.runs_ms[half]) / 2.0
        } else {
            self.runs_ms[half]
        }
    }

    /// The fastest run.
    pub fn min_ms(&self) -> f64 {
        self.runs_ms[0]
    }
}

impl VulkanExecutor {
    /// Runs a recording `runs` times, after one run that is not counted, and gives the times the
    /// device took. Upload buffers keep what the first ring slot holds.
    ///
    /// # Errors
    /// [`Error::Device`] if the device has no clock or fails.
    pub fn time(&mut self, recording: RecordingId, runs: usize) -> Result<Timing> {
        let count = self.program().recordings[recording.0].dispatches.len();
        self.time_range(recording, 0..count, runs)
    }

    /// The same for some dispatches of a recording only.
    pub fn time_range(&mut self, recording: RecordingId, range: Range<usize>, runs: usize) -> Result<Timing> {
        let timed = self.timed(1, |commands, queries| {
            barrier_before_dispatches(&self.device.raw, commands);
            queries.mark(commands, Stage::COMPUTE_SHADER, 0);
            self.recorder().dispatches(commands, recording, range, SLOT);
            queries.mark(commands, Stage::COMPUTE_SHADER, 1);
        })?;
        let spans = self.run_timed(vec![timed], runs)?;
        Ok(Timing::new(spans.into_iter().map(|run| run[0]).collect()))
    }

    /// The median time of each dispatch of a recording in milliseconds, each waiting for the one before it:
    /// what runs side by side in a step runs alone here. Every run is one of the whole recording, so that
    /// what works in place has the operands of a step. Upload buffers keep what the first ring slot holds.
    ///
    /// # Errors
    /// [`Error::Device`] if the device has no clock or fails.
    pub fn time_each(&mut self, recording: RecordingId, runs: usize) -> Result<Vec<f64>> {
        let count = self.program().recordings[recording.0].dispatches.len();
        let parts = (0..count).step_by(TIMED_TOGETHER).map(|first| {
            let range = first..(first + TIMED_TOGETHER).min(count);
            self.timed(range.len(), |commands, queries| {
                for (mark, place) in range.clone().enumerate() {
                    barrier_before_dispatches(&self.device.raw, commands);
                    queries.mark(commands, Stage::COMPUTE_SHADER, mark);
                    self.recorder().dispatches(commands, recording, place..place + 1, SLOT);
                }
                queries.mark(commands, Stage::COMPUTE_SHADER, range.len());
            })
        });
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let spans = self.run_timed(parts, runs)?;
        let of_dispatch = |i: usize| spans.iter().map(|run| run[i]).collect();
        Ok((0..count).map(|i| Timing::new(of_dispatch(i)).median_ms()).collect())
    }

    /// Times the driver's copy of one buffer's words into another's, as [`VulkanExecutor::time`] does.
    ///
    /// # Errors
    /// [`Error::Device`] if the device has no clock or fails.
    pub fn time_copy(&mut self, from: View, to: View, runs: usize) -> Result<Timing> {
        assert!(from.words == to.words && !from.overlaps(&to), "a copy between words of equal number");
        let [source, target] = [from, to].map(|view| self.buffer(view.buffer).raw);
        let bytes = |words: usize| words as u64 * 4;
        let region = vk::BufferCopy::default()
            .src_offset(bytes(from.offset))
            .dst_offset(bytes(to.offset))
            .size(bytes(from.words));
        let timed = self.timed(1, |commands, queries| {
            barrier_before_copies(&self.device.raw, commands);
            queries.mark(commands, Stage::TRANSFER, 0);
            // SAFETY: both views lie in their buffers and do not overlap.
            unsafe { self.device.raw.cmd_copy_buffer(commands, source, target, &[region]) };
            queries.mark(commands, Stage::TRANSFER, 1);
        })?;
        let spans = self.run_timed(vec![timed], runs)?;
        Ok(Timing::new(spans.into_iter().map(|run| run[0]).collect()))
    }

    /// Milliseconds from one tick of the device's clock to the next.
    pub(super) fn ms_per_tick(&self) -> Result<f64> {
        let info = self.device.info();
        if info.timestamp_period_ns == 0.0 || info.timestamp_bits == 0 {
            return Err(Error::Device(format!("{} has no clock that kernels can be timed by", info.name)));
        }
        Ok(f64::from(info.timestamp_period_ns) * 1e-6)
    }

    /// What `record` writes, with the `spans + 1` marks that it sets, ready to be run.
    fn timed(&self, spans: usize, record: impl FnOnce(vk::CommandBuffer, &Queries)) -> Result<Timed> {
        self.ms_per_tick()?;
        let queries = Queries::new(&self.device, spans + 1)?;
        let commands = self.pool.record(|commands| {
            queries.reset(commands);
            record(commands, &queries);
            barrier_before_host(&self.device.raw, commands);
        })?;
        Ok(Timed { commands, queries })
    }

    /// Runs these one after the other, all of them `runs` times after one time that is not counted, and gives
    /// each run's times between their marks.
    fn run_timed(&mut self, parts: Vec<Timed>, runs: usize) -> Result<Vec<Vec<f64>>> {
        let (ms_per_tick, bits) = (self.ms_per_tick()?, self.device.info().timestamp_bits);
        let timeline = self.timeline();
        timeline.wait_all()?;
        let mut spans_of = |part: &Timed| {
            let number = timeline.submit(part.commands)?;
            timeline.wait(number)?;
            let ticks = part.queries.ticks(part.queries.count)?;
            let span_ms = |pair: &[u64]| ticks_between(pair[0], pair[1], bits) as f64 * ms_per_tick;
            Ok(ticks.windows(2).map(span_ms).collect::<Vec<f64>>())
        };
        let mut run = || -> Result<Vec<f64>> {
            let spans = parts.iter().map(&mut spans_of).collect::<Result<Vec<_>>>()?;
            Ok(spans.concat())
        };
        let times: Result<Vec<Vec<f64>>> = (0..=runs).map(|_| run()).collect();
        self.timeline().wait_all()?;
        parts.iter().for_each(|part| self.pool.free(part.commands));
        // The first run also pays for what the driver puts off until a kernel is used.
        Ok(times?.split_off(1))
    }

    fn recorder(&self) -> Recorder<'_> {
        Recorder { device: &self.device, program: &self.program, sets: &self.sets, fault: None }
    }
}

/// Commands that set marks, and where their times are read.
struct Timed {
    commands: vk::CommandBuffer,
    queries: Queries,
}

/// Ticks from one reading of a clock of `bits` bits to a later one. It may have started again from 0.
pub(super) fn ticks_between(before: u64, after: u64, bits: u32) -> u64 {
    after.wrapping_sub(before) & u64::MAX.checked_shr(64 - bits).unwrap_or(0)
}

/// Timestamps that command buffers write.
pub(super) struct Queries {
    pub pool: vk::QueryPool,
    count: usize,
    device: Arc<Device>,
}

impl Queries {
    pub fn new(device: &Arc<Device>, count: usize) -> Result<Self> {
        let info =
            vk::QueryPoolCreateInfo::default().query_type(vk::QueryType::TIMESTAMP).query_count(count as u32);
        let pool =
            unsafe { device.raw.create_query_pool(&info, None) }.map_err(failed("create timestamps"))?;
        Ok(Queries { pool, count, device: Arc::clone(device) })
    }

    fn reset(&self, commands: vk::CommandBuffer) {
        unsafe { self.device.raw.cmd_reset_query_pool(commands, self.pool, 0, self.count as u32) };
    }

    /// Takes the time when everything before has passed `stage`.
    fn mark(&self, commands: vk::CommandBuffer, stage: Stage, index: usize) {
        assert!(index < self.count, "timestamp {index} of {}", self.count);
        unsafe { self.device.raw.cmd_write_timestamp(commands, stage, self.pool, index as u32) };
    }

    /// The first `count` ticks, after the submits that write them have finished.
    pub fn ticks(&self, count: usize) -> Result<Vec<u64>> {
        let mut ticks = vec![0_u64; count];
        if count > 0 {
            let flags = vk::QueryResultFlags::TYPE_64 | vk::QueryResultFlags::WAIT;
            unsafe { self.device.raw.get_query_pool_results(self.pool, 0, &mut ticks, flags) }
                .map_err(failed("read timestamps"))?;
        }
        Ok(ticks)
    }
}

impl Drop for Queries {
    fn drop(&mut self) {
        // SAFETY: every submit that writes these timestamps has been waited for.
        unsafe { self.device.raw.destroy_query_pool(self.pool, None) };
    }
}

#[cfg(test)]
mod tests {
    use super::{Timing, ticks_between};

    #[test]
    fn a_clock_that_starts_again_still_tells_the_time() {
        assert_eq!(ticks_between(5, 12, 64), 7);
        assert_eq!(ticks_between(u64::MAX - 1, 3, 64), 5);
        assert_eq!(ticks_between((1 << 36) - 2, 4, 36), 6);
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(Timing::new(vec![3.0, 1.0, 2.0]).median_ms(), 2.0);
        assert_eq!(Timing::new(vec![4.0, 1.0, 2.0, 3.0]).median_ms(), 2.5);
        assert_eq!(Timing::new(vec![5.0]).min_ms(), 5.0);
    }
}
