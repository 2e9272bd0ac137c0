//! The CPU executor with one number of one operation's result replaced in one step.

#![allow(dead_code)] // each test binary uses a part

use hlx::cpu::CpuExecutor;
use hlx::error::Result;
use hlx::kernels::Element;
use hlx::ops::gemm::unspecified_words;
use hlx::recording::{BufferId, Executor, Program, RecordingId, Residence, Ticket, View};
use hlx::train::program::TrainProgram;

/// A result of one operation of a training step.
#[derive(Clone, Debug)]
pub struct Output {
    pub recording: RecordingId,
    pub dispatch: usize,
    /// As messages name the operation: its kernel, its place, and the buffer it writes.
    pub name: String,
    pub view: View,
    /// Words that nothing depends on.
    unspecified: Vec<usize>,
}

impl Output {
    /// The word of the view that a number between 0 and 1 chooses among those that mean something.
    pub fn word(&self, place: f64) -> usize {
        let meant = self.view.words - self.unspecified.len();
        let mut word = (place * (meant - 1) as f64).round() as usize;
        // Ascending, as they come.
        for &left_out in &self.unspecified {
            word += usize::from(left_out <= word);
        }
        word
    }
}

/// Every float that a step's operations write, in the order of the step.
pub fn outputs(train: &TrainProgram) -> Vec<Output> {
    let micros = [Some(&train.first), train.next.as_ref()].into_iter().flatten().map(|m| m.recording);
    let mut found = Vec::new();
    for recording in micros.chain([train.update.recording]) {
        let recorded = &train.program.recordings[recording.0];
        for (place, dispatch) in recorded.dispatches.iter().enumerate() {
            let bindings = dispatch.kernel.bindings().iter().zip(&dispatch.views);
            let written = bindings.filter(|(b, _)| b.access.writes() && b.element == Element::F32);
            for (_, &view) in written {
                let buffer = &train.program.spec(view.buffer).name;
                let kernel = dispatch.kernel.name();
                let mut unspecified = unspecified_words(dispatch);
                if train.program.spec(view.buffer).words == train.model.arena.words {
                    unspecified = padding(train, view);
                }
                found.push(Output {
                    recording,
                    dispatch: place,
                    name: format!("{kernel}, dispatch {place} of {}, in {buffer}", recorded.name),
                    view,
                    unspecified,
                });
            }
        }
    }
    found
}

/// The words of a view of an arena that belong to no tensor.
fn padding(train: &TrainProgram, view: View) -> Vec<usize> {
    let arena = &train.model.arena;
    let whole = View { offset: 0, words: arena.words, ..view };
    let tensors: Vec<View> = arena.specs.iter().map(|spec| arena.view(whole, &spec.name)).collect();
    let is_inside = |word: usize| tensors.iter().any(|t| (t.offset..t.offset + t.words).contains(&word));
    (0..view.words).filter(|word| !is_inside(view.offset + word)).collect()
}

/// What is put where, and when.
#[derive(Clone, Debug)]
pub struct Poison {
    pub output: Output,
    pub word: usize,
    pub number: f32,
    /// In this step, from 1, the first time that the operation runs.
    pub step: u64,
}

/// Runs a training program dispatch by dispatch.
pub struct Poisoned {
    inner: CpuExecutor,
    program: Program,
    /// For each recording, the first of its dispatches' recordings.
    first: Vec<usize>,
    update: RecordingId,
    poison: Option<Poison>,
    steps: u64,
    submits: u64,
}

impl Poisoned {
    pub fn load(train: &TrainProgram, poison: Option<Poison>) -> Result<Poisoned> {
        // In device memory, every dispatch sees what the one before it left, whatever its recording.
        let mut split = Program { buffers: train.program.buffers.clone(), recordings: Vec::new() };
        split.buffers.iter_mut().for_each(|buffer| buffer.residence = Residence::Device);
        let mut first = Vec::new();
        for recording in &train.program.recordings {
            first.push(split.recordings.len());
            for (place, dispatch) in recording.dispatches.iter().enumerate() {
                split.add_recording(&format!("{}[{place}]", recording.name), vec![dispatch.clone()]);
            }
        }
        Ok(Poisoned {
            inner: CpuExecutor::load(split)?,
            program: train.program.clone(),
            first,
            update: train.update.recording,
            poison,
            steps: 0,
            submits: 0,
        })
    }

    fn whole(&self, buffer: BufferId) -> View {
        View { buffer, offset: 0, words: self.program.spec(buffer).words }
    }

    /// Puts the number where it belongs, once.
    fn strike(&mut self, recording: RecordingId, dispatch: usize) -> Result<()> {
        let step = self.steps + 1;
        let here =
            |p: &Poison| p.step == step && p.output.recording == recording && p.output.dispatch == dispatch;
        if !self.poison.as_ref().is_some_and(here) {
            return Ok(());
        }
        let poison = self.poison.take().expect("it is there");
        let mut words = self.inner.read(poison.output.view)?;
        words[poison.word] = poison.number.to_bits();
        self.inner.write(poison.output.view, &words)
    }
}

impl Executor for Poisoned {
    fn write(&mut self, view: View, words: &[u32]) -> Result<()> {
        self.inner.write(view, words)
    }

    fn read(&mut self, view: View) -> Result<Vec<u32>> {
        self.inner.read(view)
    }

    fn submit(&mut self, recording: RecordingId, uploads: &[(BufferId, &[u32])]) -> Result<Ticket> {
        for (buffer, words) in uploads {
            self.inner.write(self.whole(*buffer), words)?;
        }
        for dispatch in 0..self.program.recordings[recording.0].dispatches.len() {
            self.inner.submit(RecordingId(self.first[recording.0] + dispatch), &[])?;
            self.strike(recording, dispatch)?;
        }
        self.steps += u64::from(recording == self.update);
        self.submits += 1;
        Ok(Ticket(self.submits))
    }

    fn fetch(&mut self, _: Ticket, buffer: BufferId) -> Result<Vec<u32>> {
        self.inner.read(self.whole(buffer))
    }

    fn is_synchronous(&self) -> bool {
        true
    }

    fn wait_idle(&mut self) -> Result<()> {
        self.inner.wait_idle()
    }

    fn clear(&mut self) -> Result<()> {
        self.inner.clear()
    }
}
