//! When each submit began and ended on the device, by its own clock: how busy the device is while the host
//! runs ahead.

use std::sync::Arc;

use ash::vk;

use super::device::Device;
use super::executor::VulkanExecutor;
use super::record::CommandPool;
use super::timestamps::{Queries, ticks_between};
use crate::error::Result;

/// What the device did between the first submit's beginning and the last one's end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Busy {
    /// Submits counted.
    pub submits: usize,
    /// Time in which one of them was at work. What a submit waits for inside of it counts as work.
    pub busy_ms: f64,
    /// All the time.
    pub span_ms: f64,
}

impl Busy {
    /// The part of the time in which the device worked; 1 if it never did.
    pub fn share(&self) -> f64 {
        if self.span_ms > 0.0 { self.busy_ms / self.span_ms } else { 1.0 }
    }

    /// From each submit's first and last tick, in the order of their beginning.
    fn of(marks: &[(u64, u64)], ms_per_tick: f64, clock_bits: u32) -> Busy {
        let Some(&(start, _)) = marks.first() else { return Busy { submits: 0, busy_ms: 0.0, span_ms: 0.0 } };
        let since_start = |tick| ticks_between(start, tick, clock_bits);
        let (mut busy, mut end) = (0, 0);
        for &(first, last) in marks {
            let (first, last) = (since_start(first).max(end), since_start(last));
            busy += last.saturating_sub(first);
            end = end.max(last);
        }
        Busy { submits: marks.len(), busy_ms: busy as f64 * ms_per_tick, span_ms: end as f64 * ms_per_tick }
    }
}

/// A mark before and one after each submit, up to a number of submits decided beforehand.
pub(super) struct SubmitLog {
    /// Two a submit: before and after.
    marks: Vec<vk::CommandBuffer>,
    used: usize,
    _pool: CommandPool,
    queries: Queries,
}

impl SubmitLog {
    fn new(device: &Arc<Device>, capacity: usize) -> Result<SubmitLog> {
        let queries = Queries::new(device, 2 * capacity)?;
        let pool = CommandPool::new(device)?;
        let mark = |i: usize| {
            pool.record(|commands| unsafe {
                device.raw.cmd_reset_query_pool(commands, queries.pool, i as u32, 1);
                let stage = vk::PipelineStageFlags::COMPUTE_SHADER;
                device.raw.cmd_write_timestamp(commands, stage, queries.pool, i as u32);
            })
        };
        let marks = (0..2 * capacity).map(mark).collect::<Result<_>>()?;
        Ok(SubmitLog { marks, used: 0, _pool: pool, queries })
    }

    /// The command buffers to submit in place of one.
    pub fn around(&mut self, commands: vk::CommandBuffer) -> Vec<vk::CommandBuffer> {
        let &[before, after, ..] = &self.marks[self.used..] else { return vec![commands] };
        self.used += 2;
        vec![before, commands, after]
    }
}

impl VulkanExecutor {
    /// Logs the next submits, at most `capacity` of them. A run of a recording is one submit or several.
    ///
    /// # Errors
    /// [`Error::Device`](crate::error::Error::Device) if the device has no clock or fails.
    pub fn start_submit_log(&mut self, capacity: usize) -> Result<()> {
        self.ms_per_tick()?;
        self.timeline().wait_all()?;
        let log = SubmitLog::new(self.device(), capacity)?;
        self.timeline().log = Some(log);
        Ok(())
    }

    /// Waits for what was submitted, ends the log and says how busy the device was. `None` if there was none.
    ///
    /// # Errors
    /// [`Error::Device`](crate::error::Error::Device) if the device fails.
    pub fn end_submit_log(&mut self) -> Result<Option<Busy>> {
        self.timeline().wait_all()?;
        let Some(log) = self.timeline().log.take() else { return Ok(None) };
        let ticks = log.queries.ticks(log.used)?;
        let marks: Vec<(u64, u64)> = ticks.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        Ok(Some(Busy::of(&marks, self.ms_per_tick()?, self.device().info().timestamp_bits)))
    }
}

#[cfg(test)]
mod tests {
    use super::Busy;

    #[test]
    fn gaps_are_not_busy_and_overlaps_count_once() {
        let busy = Busy::of(&[(10, 20), (25, 35), (30, 40)], 0.5, 64);
        assert_eq!(busy, Busy { submits: 3, busy_ms: 12.5, span_ms: 15.0 });
        let near_the_end = Busy::of(&[(250, 4), (6, 10)], 1.0, 8);
        assert_eq!((near_the_end.busy_ms, near_the_end.span_ms), (14.0, 16.0));
        assert_eq!(Busy::of(&[], 1.0, 64).share(), 1.0);
    }
}
