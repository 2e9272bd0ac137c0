//! How long dispatches take, by the device's own clock.

use std::ops::Range;
use std::sync::Arc;

use ash::vk;

use super::device::Device;
use super::executor::VulkanExecutor;
use super::failure::failed;
use super::record::{Recorder, barrier_before_dispatches, barrier_before_host};
use crate::error::{Error, Result};
use crate::recording::{RING_SLOTS, RecordingId};

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
        let period_ns = f64::from(self.device.info().timestamp_period_ns);
        if period_ns == 0.0 {
            return Err(Error::Device(format!(
                "{} has no clock that kernels can be timed by",
                self.device.info().name
            )));
        }
        self.timeline().wait_all()?;
        let queries = Queries::new(&self.device)?;
        let commands = self.record_timed(recording, range, &queries)?;
        let times = (0..=runs).map(|_| {
            self.timeline().submit(commands)?;
            self.timeline().wait_all()?;
            queries.elapsed_ticks()
        });
        let times: Result<Vec<u64>> = times.collect();
        self.timeline().wait_all()?;
        self.pool.free(commands);
        // The first run also pays for what the driver puts off until a kernel is used.
        Ok(Timing::new(times?.into_iter().skip(1).map(|ticks| ticks as f64 * period_ns * 1e-6).collect()))
    }

    fn record_timed(
        &self,
        recording: RecordingId,
        range: Range<usize>,
        queries: &Queries,
    ) -> Result<vk::CommandBuffer> {
        const SLOT: usize = 0;
        const { assert!(SLOT < RING_SLOTS) };
        let raw = &self.device.raw;
        let recorder =
            Recorder { device: &self.device, program: &self.program, sets: &self.sets, fault: None };
        self.pool.record(|commands| unsafe {
            raw.cmd_reset_query_pool(commands, queries.pool, 0, 2);
            barrier_before_dispatches(raw, commands);
            raw.cmd_write_timestamp(commands, vk::PipelineStageFlags::COMPUTE_SHADER, queries.pool, 0);
            recorder.dispatches(commands, recording, range, SLOT);
            raw.cmd_write_timestamp(commands, vk::PipelineStageFlags::COMPUTE_SHADER, queries.pool, 1);
            barrier_before_host(raw, commands);
        })
    }
}

/// Ticks from one reading of a clock of `bits` bits to a later one. It may have started again from 0.
fn ticks_between(before: u64, after: u64, bits: u32) -> u64 {
    after.wrapping_sub(before) & u64::MAX.checked_shr(64 - bits).unwrap_or(0)
}

/// Two timestamps: before and after.
struct Queries {
    pool: vk::QueryPool,
    device: Arc<Device>,
}

impl Queries {
    fn new(device: &Arc<Device>) -> Result<Self> {
        let info = vk::QueryPoolCreateInfo::default().query_type(vk::QueryType::TIMESTAMP).query_count(2);
        let pool =
            unsafe { device.raw.create_query_pool(&info, None) }.map_err(failed("create timestamps"))?;
        Ok(Queries { pool, device: Arc::clone(device) })
    }

    /// Ticks between the two, after their submit has finished.
    fn elapsed_ticks(&self) -> Result<u64> {
        let mut ticks = [0_u64; 2];
        let flags = vk::QueryResultFlags::TYPE_64 | vk::QueryResultFlags::WAIT;
        unsafe { self.device.raw.get_query_pool_results(self.pool, 0, &mut ticks, flags) }
            .map_err(failed("read timestamps"))?;
        Ok(ticks_between(ticks[0], ticks[1], self.device.info().timestamp_bits))
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
