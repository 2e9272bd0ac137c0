//! A device made worse than it is, on purpose, so that tests see what then happens: lower limits, faults at a
//! chosen call of the driver, less time for a submit. Opening a device as users do simulates nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ash::vk;

use super::info::DeviceInfo;

/// What a device is opened with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Simulation {
    /// Takes limits away before the device is judged and used.
    pub lower: Option<fn(&mut DeviceInfo)>,
    pub fault: Option<InjectedFault>,
    /// How long a submit may take, in place of the default.
    pub longest_submit: Option<Duration>,
}

/// Calls of the driver that may fail while a program is loaded and run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultPoint {
    Submit,
    Wait,
    Allocate,
}

impl FaultPoint {
    pub const ALL: [FaultPoint; 3] = [FaultPoint::Submit, FaultPoint::Wait, FaultPoint::Allocate];
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    OutOfMemory,
    /// From then on every call fails.
    DeviceLost,
    /// The device finishes nothing any more. A wait only.
    Hang,
}

/// A fault at one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InjectedFault {
    pub point: FaultPoint,
    /// The call that fails, counted from 1 since the device was opened.
    pub call: u64,
    pub kind: FaultKind,
}

/// Counts a device's calls and fails the chosen one.
#[derive(Debug)]
pub(super) struct Injector {
    fault: Option<InjectedFault>,
    calls: [AtomicU64; FaultPoint::ALL.len()],
    lost: AtomicBool,
}

impl Injector {
    pub fn new(fault: Option<InjectedFault>) -> Self {
        Injector { fault, calls: Default::default(), lost: AtomicBool::new(false) }
    }

    /// Calls made so far, in the order of [`FaultPoint::ALL`].
    pub fn calls(&self) -> [u64; FaultPoint::ALL.len()] {
        self.calls.each_ref().map(|calls| calls.load(Ordering::Relaxed))
    }

    /// What the next call at this point comes to. A hang is a timeout.
    pub fn meet(&self, point: FaultPoint) -> Result<(), vk::Result> {
        let call = self.calls[point as usize].fetch_add(1, Ordering::Relaxed) + 1;
        if self.lost.load(Ordering::Relaxed) {
            return Err(vk::Result::ERROR_DEVICE_LOST);
        }
        match self.fault {
            Some(fault) if fault.point == point && fault.call == call => Err(match fault.kind {
                FaultKind::OutOfMemory => vk::Result::ERROR_OUT_OF_DEVICE_MEMORY,
                FaultKind::Hang => vk::Result::TIMEOUT,
                FaultKind::DeviceLost => {
                    self.lost.store(true, Ordering::Relaxed);
                    vk::Result::ERROR_DEVICE_LOST
                }
            }),
            _ => Ok(()),
        }
    }
}
