//! A timeline semaphore: counts finished submits, and waits for one with a limit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ash::vk;

use super::device::Device;
use super::failure::failed;
use super::simulation::FaultPoint;
use super::submit_log::SubmitLog;
use crate::error::{Error, Result};

/// How long one wait in the driver takes at most.
const POLL: Duration = Duration::from_secs(2);

/// How long the device may go without finishing any submit before it is taken to hang.
const STUCK_AFTER: Duration = Duration::from_secs(900);

/// Counts submits: the n-th raises it to n when it is done.
pub(super) struct Timeline {
    semaphore: vk::Semaphore,
    submitted: u64,
    /// All submits up to here are known to be done.
    finished: u64,
    /// A wait has failed; another would too.
    broken: bool,
    /// Set while somebody measures.
    pub log: Option<SubmitLog>,
    device: Arc<Device>,
}

impl Timeline {
    pub fn new(device: &Arc<Device>) -> Result<Self> {
        let mut kind = vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        let semaphore =
            unsafe { device.raw.create_semaphore(&info, None) }.map_err(failed("create a semaphore"))?;
        let device = Arc::clone(device);
        Ok(Timeline { semaphore, submitted: 0, finished: 0, broken: false, log: None, device })
    }

    /// Submits a command buffer and returns its number, from 1.
    pub fn submit(&mut self, commands: vk::CommandBuffer) -> Result<u64> {
        let number = self.submitted + 1;
        let commands = self.log.as_mut().map_or(vec![commands], |log| log.around(commands));
        self.device.submit(&commands, self.semaphore, number)?;
        self.submitted = number;
        Ok(number)
    }

    /// Waits until submit `number` is done; 0 is done from the start.
    pub fn wait(&mut self, number: u64) -> Result<()> {
        let outcome = self.wait_in_steps(number);
        self.broken |= outcome.is_err();
        outcome
    }

    fn wait_in_steps(&mut self, number: u64) -> Result<()> {
        let mut since = Instant::now();
        while self.finished < number {
            match self.device.meet(FaultPoint::Wait) {
                Ok(()) => {}
                Err(vk::Result::TIMEOUT) => return self.complain_if_stuck(STUCK_AFTER),
                Err(other) => return Err(failed("wait for the device")(other)),
            }
            let semaphores = [self.semaphore];
            let values = [number];
            let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
            match unsafe { self.device.raw.wait_semaphores(&info, POLL.as_nanos() as u64) } {
                Ok(()) => self.finished = number,
                Err(vk::Result::TIMEOUT) => {
                    let counter = unsafe { self.device.raw.get_semaphore_counter_value(self.semaphore) }
                        .map_err(failed("say how far it is"))?;
                    if counter > self.finished {
                        self.finished = counter;
                        since = Instant::now();
                    }
                    self.complain_if_stuck(since.elapsed())?;
                }
                Err(other) => return Err(failed("wait for the device")(other)),
            }
        }
        Ok(())
    }

    /// Waits for everything submitted so far.
    pub fn wait_all(&mut self) -> Result<()> {
        self.wait(self.submitted)
    }

    fn complain_if_stuck(&self, quiet: Duration) -> Result<()> {
        let name = &self.device.info().name;
        let seconds = quiet.as_secs();
        if quiet >= STUCK_AFTER {
            return Err(Error::Device(format!(
                "{name} has finished nothing for {seconds} s and is taken to hang: resume from the last \
                 checkpoint if it was training, or start again, with a lower --batch-size if one step takes \
                 this long"
            )));
        }
        tracing::debug!("waiting for {name}: {seconds} s since its last submit finished");
        Ok(())
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        // What was submitted must not be in use when its owner frees it.
        if self.broken || self.wait_all().is_err() {
            // The failure was reported when it was met. This returns at once on a lost device, and on one
            // that hangs when its driver resets it.
            self.device.wait_idle();
        }
        unsafe { self.device.raw.destroy_semaphore(self.semaphore, None) };
    }
}
