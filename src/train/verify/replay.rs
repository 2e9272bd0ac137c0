//! Replays one step operation by operation, to find the first that gives another result on another device.

use std::ops::Range;

use crate::error::Result;
use crate::kernels::Element;
use crate::ops::gemm::unspecified_words;
use crate::recording::{BufferId, Dispatch, Executor, Program, RecordingId, Residence, View};
use crate::train::program::TrainProgram;
use crate::train::session::{Submit, TrainState};
use crate::train::verify::difference::{Elements, Op};
use crate::train::verify::{Load, Trainer};

/// The first dispatch of the step after `before` whose result differs between the first trainer's device
/// and the one at `index`. Each dispatch runs on what the ones before it gave on the same device.
pub fn first_op(trainers: &mut [Trainer], index: usize, before: &TrainState) -> Result<Option<Op>> {
    // Both run the other device's recording, or, if the first cannot, one that both can: which kernels were
    // chosen changes no bit.
    let traits = trainers[index].traits;
    let both = if own_kernels_replay(trainers, index) { traits } else { traits.for_any_device() };
    let train = trainers[index].program_for(both);
    let submits = trainers[0].submits(before.step);
    let mut reference = Replay::load(&train, &trainers[0].load, before)?;
    let mut other = Replay::load(&train, &trainers[index].load, before)?;
    for submit in &submits {
        let whole = &train.program.recordings[submit.recording.0];
        for (place, dispatch) in whole.dispatches.iter().enumerate() {
            let [expected, found] = [reference.run(submit, place)?, other.run(submit, place)?];
            if let Some(elements) = first_difference(&expected, &found) {
                return Ok(Some(Op::new(dispatch.kernel.name(), &whole.name, place, elements)));
            }
        }
    }
    Ok(None)
}

/// True if the first trainer's device can replay the kernels that the one at `index` has taken.
pub fn own_kernels_replay(trainers: &[Trainer], index: usize) -> bool {
    trainers[index].traits.run_on(&trainers[0].traits)
}

/// What a dispatch has written into one of its views.
pub struct Output {
    /// The buffer's name.
    pub tensor: String,
    /// What the words are.
    pub element: Element,
    /// The view's words. What a kernel may leave as it likes is 0.
    pub words: Vec<u32>,
}

/// The first of a dispatch's outputs that differs on two devices.
fn first_difference(reference: &[Output], value: &[Output]) -> Option<Elements> {
    let pairs = reference.iter().zip(value);
    pairs.into_iter().find_map(|(a, b)| Elements::compare(&a.tensor, &a.words, &b.words, a.element))
}

/// A step's program loaded on a device, with a recording for each dispatch.
pub struct Replay {
    program: Program,
    /// Which recordings each of the step's became.
    ranges: Vec<Range<usize>>,
    side: Box<dyn Executor>,
    /// Where parameters and moments lie.
    state: [View; 3],
}

impl Replay {
    /// Loads a step's program, with the state before the step.
    pub fn load(train: &TrainProgram, load: &Load, before: &TrainState) -> Result<Replay> {
        let (program, ranges) = one_dispatch_each(&train.program);
        let mut side = load(program.clone())?;
        let arena = &train.model.arena;
        let state = [train.model.params, train.m, train.v];
        for (view, tensors) in state.into_iter().zip([&before.params, &before.m, &before.v]) {
            side.write(view, &arena.pack(tensors))?;
        }
        Ok(Replay { program, ranges, side, state })
    }

    /// Runs the dispatch at a place of a submit's recording; gives what it wrote, by ascending binding.
    pub fn run(&mut self, submit: &Submit, place: usize) -> Result<Vec<Output>> {
        let recording = self.ranges[submit.recording.0].start + place;
        let dispatch = self.program.recordings[recording].dispatches[0].clone();
        let uploads: Vec<(BufferId, &[u32])> = submit
            .uploads
            .iter()
            .filter(|(buffer, _)| dispatch.views.iter().any(|view| view.buffer == *buffer))
            .map(|(buffer, words)| (*buffer, &words[..]))
            .collect();
        self.side.submit(RecordingId(recording), &uploads)?;
        let open = unspecified_words(&dispatch);
        let mut outputs = Vec::new();
        for (view, element) in written(&dispatch) {
            let mut words = self.side.read(view)?;
            if !open.is_empty() {
                // What nobody may rely on is made equal, because elementwise kernels carry it along.
                open.iter().for_each(|&word| words[word] = 0);
                self.side.write(view, &words)?;
            }
            let tensor = self.program.spec(view.buffer).name.clone();
            outputs.push(Output { tensor, element, words });
        }
        Ok(outputs)
    }

    /// The state that the dispatches so far have left, laid out as in the program.
    pub fn state(&mut self) -> Result<[Vec<u32>; 3]> {
        let [params, m, v] = self.state;
        Ok([self.side.read(params)?, self.side.read(m)?, self.side.read(v)?])
    }
}

/// The views that a dispatch writes, and what their words are.
pub fn written(dispatch: &Dispatch) -> impl Iterator<Item = (View, Element)> {
    let bindings = dispatch.kernel.bindings().iter().zip(&dispatch.views);
    bindings.filter(|(binding, _)| binding.access.writes()).map(|(binding, view)| (*view, binding.element))
}

/// The same program with a recording for each dispatch, and which recordings each of the old became. What the
/// host would fetch stays on the device: a ring has a copy a recording, and dispatches work on one.
fn one_dispatch_each(program: &Program) -> (Program, Vec<Range<usize>>) {
    let mut split = Program { buffers: program.buffers.clone(), recordings: Vec::new() };
    for buffer in split.buffers.iter_mut().filter(|buffer| buffer.residence == Residence::Readback) {
        buffer.residence = Residence::Device;
    }
    let mut ranges = Vec::new();
    for recording in &program.recordings {
        let first = split.recordings.len();
        for (place, dispatch) in recording.dispatches.iter().enumerate() {
            split.add_recording(&format!("{}[{place}]", recording.name), vec![dispatch.clone()]);
        }
        ranges.push(first..split.recordings.len());
    }
    (split, ranges)
}
