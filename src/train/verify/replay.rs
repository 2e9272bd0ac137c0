//! Replays one step on two devices operation by operation, to find the first that gives another result.

use std::ops::Range;

use crate::error::Result;
use crate::ops::gemm::unspecified_words;
use crate::recording::{BufferId, Dispatch, Executor, Program, RecordingId, Residence, Ticket, View};
use crate::train::program::TrainProgram;
use crate::train::session::{Submit, TrainState};
use crate::train::verify::Trainer;
use crate::train::verify::difference::{Op, compare};

/// The first dispatch of the step after `before` whose result differs between the first trainer's device
/// and the one at `index`. Each dispatch runs on what the ones before it gave on the same device.
pub fn first_op(trainers: &mut [Trainer], index: usize, before: &TrainState) -> Result<Option<Op>> {
    // Both run the other device's recording: which kernels were chosen changes no bit.
    let train = TrainProgram::new(trainers[index].session.shape(), trainers[index].traits);
    let (program, ranges) = one_dispatch_each(&train.program);
    let submits = trainers[0].submits(before.step);
    let mut sides = [(trainers[0].load)(program.clone())?, (trainers[index].load)(program.clone())?];
    for side in &mut sides {
        let arena = &train.model.arena;
        side.write(train.model.params, &arena.pack(&before.params))?;
        side.write(train.m, &arena.pack(&before.m))?;
        side.write(train.v, &arena.pack(&before.v))?;
    }
    for submit in &submits {
        let whole = &train.program.recordings[submit.recording.0];
        for (place, recording) in ranges[submit.recording.0].clone().enumerate() {
            let dispatch = &whole.dispatches[place];
            if let Some(op) = run_on_both(&mut sides, &program, recording, dispatch, submit)? {
                return Ok(Some(Op { recording: whole.name.clone(), dispatch: place, ..op }));
            }
        }
    }
    Ok(None)
}

/// The same program with a recording for each dispatch, and which recordings each of the old became.
fn one_dispatch_each(program: &Program) -> (Program, Vec<Range<usize>>) {
    let mut split = Program { buffers: program.buffers.clone(), recordings: Vec::new() };
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

fn run_on_both(
    sides: &mut [Box<dyn Executor>; 2],
    program: &Program,
    recording: usize,
    dispatch: &Dispatch,
    submit: &Submit,
) -> Result<Option<Op>> {
    let uploads: Vec<(BufferId, &[u32])> = submit
        .uploads
        .iter()
        .filter(|(buffer, _)| dispatch.views.iter().any(|view| view.buffer == *buffer))
        .map(|(buffer, words)| (*buffer, &words[..]))
        .collect();
    let mut tickets = Vec::new();
    for side in sides.iter_mut() {
        tickets.push(side.submit(RecordingId(recording), &uploads)?);
    }
    let written = dispatch.kernel.bindings().iter().zip(&dispatch.views).filter(|(b, _)| b.access.writes());
    for (_, &view) in written {
        let mut reference = result(sides[0].as_mut(), program, tickets[0], view)?;
        let mut value = result(sides[1].as_mut(), program, tickets[1], view)?;
        let open = unspecified_words(dispatch);
        if !open.is_empty() {
            // What nobody may rely on is made equal, because elementwise kernels carry it along.
            for (side, words) in sides.iter_mut().zip([&mut reference, &mut value]) {
                open.iter().for_each(|&word| words[word] = 0);
                side.write(view, words)?;
            }
        }
        if reference == value {
            continue;
        }
        let name = program.spec(view.buffer).name.clone();
        let d = compare(name, bytemuck::cast_slice(&reference), bytemuck::cast_slice(&value));
        return Ok(Some(Op {
            kernel: dispatch.kernel.name().to_owned(),
            recording: String::new(),
            dispatch: 0,
            tensor: d.tensor,
            element: d.element,
            elements_different: d.elements_different,
            reference: d.reference,
            value: d.value,
            ulp: d.ulp,
        }));
    }
    Ok(None)
}

/// What a dispatch left in a view.
fn result(side: &mut dyn Executor, program: &Program, ticket: Ticket, view: View) -> Result<Vec<u32>> {
    match program.spec(view.buffer).residence {
        Residence::Readback => {
            let words = side.fetch(ticket, view.buffer)?;
            Ok(words[view.offset..view.offset + view.words].to_vec())
        }
        _ => side.read(view),
    }
}
