//! A program on either executor, with its clock: the device's own on Vulkan, the host's on the CPU.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use super::super::backend::Backend;
use super::median;
use crate::cpu::CpuExecutor;
use crate::error::Result;
use crate::recording::{BufferId, Executor, Program, RecordingId, Ticket, View};
use crate::train::session::Submit;
use crate::vulkan::VulkanExecutor;

/// A loaded program.
pub enum Loaded {
    Cpu(Box<CpuExecutor>),
    Vulkan(Box<VulkanExecutor>),
}

impl Loaded {
    /// Takes the memory of a program and makes it ready to run.
    pub fn load(backend: &Backend, program: Program) -> Result<Loaded> {
        Ok(match backend {
            Backend::Cpu => Loaded::Cpu(Box::new(CpuExecutor::load(program)?)),
            Backend::Vulkan(device) => Loaded::Vulkan(Box::new(VulkanExecutor::load(device, program)?)),
        })
    }

    pub fn executor(&mut self) -> &mut dyn Executor {
        match self {
            Loaded::Cpu(executor) => &mut **executor,
            Loaded::Vulkan(executor) => &mut **executor,
        }
    }

    /// The program, as it was loaded.
    pub fn program(&self) -> &Program {
        match self {
            Loaded::Cpu(executor) => executor.program(),
            Loaded::Vulkan(executor) => executor.program(),
        }
    }

    /// Milliseconds of `runs` runs of a recording without uploads, after one run that is not counted.
    pub fn time(&mut self, recording: RecordingId, runs: usize) -> Result<Vec<f64>> {
        match self {
            Loaded::Vulkan(executor) => Ok(executor.time(recording, runs)?.runs_ms),
            Loaded::Cpu(executor) => {
                executor.submit(recording, &[])?;
                let run = |_| {
                    let start = Instant::now();
                    executor.submit(recording, &[])?;
                    Ok(start.elapsed().as_secs_f64() * 1e3)
                };
                (0..runs).map(run).collect()
            }
        }
    }

    /// The median time of each dispatch of a submit's recording in milliseconds, one after the other. On
    /// Vulkan the upload buffers keep what they hold.
    pub fn time_each(&mut self, submit: &Submit, runs: usize) -> Result<Vec<f64>> {
        match self {
            Loaded::Vulkan(executor) => executor.time_each(submit.recording, runs),
            Loaded::Cpu(executor) => {
                let uploads: Vec<_> =
                    submit.uploads.iter().map(|(buffer, words)| (*buffer, &words[..])).collect();
                let mut times = Vec::new();
                for _ in 0..runs {
                    executor.submit(submit.recording, &uploads)?;
                    times.push(executor.last_times().to_vec());
                }
                let of = |i: usize| times.iter().map(|run| run[i].as_secs_f64() * 1e3).collect::<Vec<_>>();
                Ok((0..times[0].len()).map(|i| median(&of(i))).collect())
            }
        }
    }
}

/// A loaded program that a session runs and its measurer looks into between steps.
#[derive(Clone)]
pub struct Shared(pub Rc<RefCell<Loaded>>);

impl Executor for Shared {
    fn write(&mut self, view: View, words: &[u32]) -> Result<()> {
        self.0.borrow_mut().executor().write(view, words)
    }

    fn read(&mut self, view: View) -> Result<Vec<u32>> {
        self.0.borrow_mut().executor().read(view)
    }

    fn submit(&mut self, recording: RecordingId, uploads: &[(BufferId, &[u32])]) -> Result<Ticket> {
        self.0.borrow_mut().executor().submit(recording, uploads)
    }

    fn fetch(&mut self, ticket: Ticket, buffer: BufferId) -> Result<Vec<u32>> {
        self.0.borrow_mut().executor().fetch(ticket, buffer)
    }

    fn is_synchronous(&self) -> bool {
        matches!(*self.0.borrow(), Loaded::Cpu(_))
    }

    fn wait_idle(&mut self) -> Result<()> {
        self.0.borrow_mut().executor().wait_idle()
    }

    fn clear(&mut self) -> Result<()> {
        self.0.borrow_mut().executor().clear()
    }
}
