//! The CPU executor: ring buffers, uploads, results, and what it refuses.

use hlx::cpu::CpuExecutor;
use hlx::exact::snap;
use hlx::kernels::accumulate::{Bindings, Push, Specialization, dispatch};
use hlx::recording::{
    BufferId, Dispatch, Executor, Group, Program, RING_SLOTS, RecordingId, Residence, View,
};

const LOCAL: usize = 256;

/// sum = addend, or sum += addend.
fn accumulate(addend: View, sum: View, first: bool) -> Dispatch {
    let push = Push { count: sum.words as u32, first: first.into() };
    let groups = [sum.words.div_ceil(LOCAL) as u32, 1, 1];
    dispatch(push, Specialization::default(), Bindings { addend, sum }, groups)
}

/// A step that adds what the host gives to a running sum and hands the sum back.
struct RunningSum {
    program: Program,
    step: RecordingId,
    given: BufferId,
    result: BufferId,
    sum: View,
}

fn running_sum(words: usize) -> RunningSum {
    let mut program = Program::default();
    let given = program.add_buffer("given", words, Group::Inputs, Residence::Upload);
    let sum = program.add_buffer("sum", words, Group::Scratch, Residence::Device);
    let result = program.add_buffer("result", words, Group::Results, Residence::Readback);
    let dispatches = vec![accumulate(given, sum, false), accumulate(sum, result, true)];
    let step = program.add_recording("step", dispatches);
    RunningSum { program, step, given: given.buffer, result: result.buffer, sum }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn results_stay_until_their_ring_slot_is_used_again() {
    let words = 1000;
    let RunningSum { program, step, given, result, sum } = running_sum(words);
    let mut executor = CpuExecutor::load(program).unwrap();
    let mut expected = vec![0.0; words];
    let mut submits = Vec::new();
    for round in 0..3 * RING_SLOTS {
        let addend: Vec<f32> = (0..words).map(|i| (i * round) as f32 * 0.37).collect();
        let ticket = executor.submit(step, &[(given, &bits(&addend))]).unwrap();
        expected.iter_mut().zip(&addend).for_each(|(sum, x)| *sum = snap(*sum + x));
        submits.push((ticket, bits(&expected)));
        for (ticket, words) in submits.iter().rev().take(RING_SLOTS) {
            assert_eq!(executor.fetch(*ticket, result).unwrap(), *words);
        }
    }
    assert_eq!(executor.read(sum).unwrap(), bits(&expected));
    let names: Vec<_> = executor.profile().iter().map(|(name, time)| (*name, time.calls)).collect();
    assert_eq!(names, [("accumulate", 6 * RING_SLOTS as u64)]);
}

#[test]
#[should_panic(expected = "among its recording's last")]
fn results_of_a_slot_that_was_used_again_are_gone() {
    let RunningSum { program, step, given, result, .. } = running_sum(10);
    let mut executor = CpuExecutor::load(program).unwrap();
    let first = executor.submit(step, &[(given, &[0; 10])]).unwrap();
    for _ in 0..RING_SLOTS {
        executor.submit(step, &[(given, &[0; 10])]).unwrap();
    }
    let _ = executor.fetch(first, result);
}

#[test]
#[should_panic(expected = "step: nothing given for given")]
fn a_forgotten_upload_is_noticed() {
    let RunningSum { program, step, .. } = running_sum(10);
    let _ = CpuExecutor::load(program).unwrap().submit(step, &[]);
}

#[test]
fn what_is_written_is_read_back_until_cleared() {
    let mut program = Program::default();
    let view = program.add_buffer("numbers", 200, Group::Scratch, Residence::Device);
    let mut executor = CpuExecutor::load(program).unwrap();
    assert_eq!(executor.read(view).unwrap(), [0; 200]);
    executor.write(view.part(64, 10), &[7; 10]).unwrap();
    assert_eq!(executor.read(view.part(64, 11)).unwrap(), [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0]);
    executor.clear().unwrap();
    assert_eq!(executor.read(view).unwrap(), [0; 200]);
}

#[test]
fn a_dispatch_that_races_with_itself_is_refused() {
    let mut program = Program::default();
    let view = program.add_buffer("numbers", 200, Group::Scratch, Residence::Device);
    program.add_recording("race", vec![accumulate(view.part(0, 100), view.part(64, 100), false)]);
    let error = CpuExecutor::load(program).err().expect("an error").to_string();
    assert!(error.contains("accumulate: addend and sum overlap"), "{error}");
}

#[test]
fn a_program_past_all_memory_is_refused() {
    let mut program = Program::default();
    program.add_buffer("activations", 1 << 60, Group::Activations, Residence::Device);
    let error = CpuExecutor::load(program).err().expect("an error").to_string();
    assert!(error.contains("no memory for activations") && error.contains("--batch-size"), "{error}");
}
