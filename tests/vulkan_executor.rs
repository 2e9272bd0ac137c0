//! The Vulkan executor on a real driver, under the validation layer with synchronization validation.
//!
//! Runs on software Vulkan, or on the device named by `HLX_TEST_DEVICE` (as `--device` takes it).

mod common;

use hlx::error::Error;
use hlx::exact::snap;
use hlx::kernels::accumulate::{Bindings, Push, Specialization, dispatch};
use hlx::recording::{
    BufferId, Dispatch, Executor, Group, Program, RING_SLOTS, RecordingId, Residence, View, align_words,
};
use hlx::vulkan::{Device, PlantedFault, VulkanExecutor};

use common::{assert_silent, open_watched as open};

const LOCAL: usize = 256;

/// sum = addend, or sum += addend.
fn accumulate(addend: View, sum: View, first: bool) -> Dispatch {
    let push = Push { count: sum.words as u32, first: first.into() };
    let groups = [sum.words.div_ceil(LOCAL) as u32, 1, 1];
    dispatch(push, Specialization::default(), Bindings { addend, sum }, groups)
}

/// Numbers with many different bits.
fn numbers(words: usize, seed: u32) -> Vec<f32> {
    (0..words as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(0x9e37_79b9)) as f32 * 1e-6)
        .collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn add(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| snap(a + b)).collect()
}

#[test]
fn what_is_written_is_read_back() {
    let device = open();
    let mut program = Program::default();
    let small = program.add_buffer("small", 1, Group::Scratch, Residence::Device);
    // Longer than one staging buffer holds.
    let large = program.add_buffer("large", (17 << 20) + 3, Group::Scratch, Residence::Device);
    let mut executor = VulkanExecutor::load(&device, program).unwrap();
    assert_eq!(executor.read(small).unwrap(), [0], "buffers start as zeros");
    assert!(executor.read(large).unwrap().iter().all(|&w| w == 0), "buffers start as zeros");

    let words: Vec<u32> = (0..large.words as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
    executor.write(large, &words).unwrap();
    executor.write(small, &[7]).unwrap();
    assert_eq!(executor.read(large).unwrap(), words);
    assert_eq!(executor.read(small).unwrap(), [7]);
    let part = large.part(align_words(1000), 100);
    assert_eq!(executor.read(part).unwrap(), words[part.offset..part.offset + 100]);
    executor.write(part, &[9; 100]).unwrap();
    let around = View { buffer: large.buffer, offset: part.offset - 64, words: 228 };
    let expected = [&words[around.offset..][..64], &[9; 100], &words[part.offset + 100..][..64]].concat();
    assert_eq!(executor.read(around).unwrap(), expected);

    executor.clear().unwrap();
    assert!(executor.read(large).unwrap().iter().all(|&w| w == 0));
    drop(executor);
    assert_silent(&device);
}

#[test]
fn a_chain_of_dependent_dispatches_runs_in_order() {
    let device = open();
    let words = 5000;
    let mut program = Program::default();
    let start = program.add_buffer("start", words, Group::Scratch, Residence::Device);
    let links: Vec<View> = (0..20)
        .map(|i| program.add_buffer(&format!("link{i}"), words, Group::Scratch, Residence::Device))
        .collect();
    // Each link is twice the one before: first a copy, then an addition onto it; then a sum runs back.
    let mut dispatches = Vec::new();
    let mut previous = start;
    for &link in &links {
        dispatches.push(accumulate(previous, link, true));
        dispatches.push(accumulate(previous, link, false));
        previous = link;
    }
    dispatches.extend(links.windows(2).rev().map(|pair| accumulate(pair[1], pair[0], false)));
    let chain = program.add_recording("chain", dispatches);
    let mut executor = VulkanExecutor::load(&device, program).unwrap();

    let values = numbers(words, 1);
    executor.write(start, &bits(&values)).unwrap();
    executor.submit(chain, &[]).unwrap();
    let mut expected = vec![values];
    for i in 0..links.len() {
        let doubled = add(&expected[i], &expected[i]);
        expected.push(doubled);
    }
    for i in (1..links.len()).rev() {
        expected[i] = add(&expected[i], &expected[i + 1]);
    }
    for (link, expected) in links.iter().zip(&expected[1..]) {
        assert_eq!(executor.read(*link).unwrap(), bits(expected));
    }
    drop(executor);
    assert_silent(&device);
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

#[test]
fn replays_take_each_submit_s_uploads_while_the_host_runs_ahead() {
    let device = open();
    let words = 3001;
    let RunningSum { program, step, given, result, sum } = running_sum(words);
    let mut executor = VulkanExecutor::load(&device, program).unwrap();

    let steps = 50;
    let mut expected = vec![vec![0.0_f32; words]];
    let mut tickets = Vec::new();
    for n in 0..steps {
        let values = numbers(words, n as u32);
        let next = add(&expected[n], &values);
        expected.push(next);
        tickets.push(executor.submit(step, &[(given, &bits(&values))]).unwrap());
        // The host reads as late as the ring allows.
        if let Some(late) = (n + 1).checked_sub(RING_SLOTS) {
            let fetched = executor.fetch(tickets[late], result).unwrap();
            assert_eq!(fetched, bits(&expected[late + 1]), "result of submit {late}");
        }
    }
    for late in steps - RING_SLOTS..steps {
        assert_eq!(executor.fetch(tickets[late], result).unwrap(), bits(&expected[late + 1]));
    }
    assert!(tickets.is_sorted());
    assert_eq!(executor.read(sum).unwrap(), bits(&expected[steps]));

    executor.clear().unwrap();
    assert_eq!(executor.read(sum).unwrap(), vec![0; words]);
    let ticket = executor.submit(step, &[(given, &bits(&numbers(words, 9)))]).unwrap();
    assert_eq!(executor.fetch(ticket, result).unwrap(), bits(&numbers(words, 9)));
    executor.wait_idle().unwrap();
    drop(executor);
    assert_silent(&device);
}

#[test]
fn recordings_of_one_program_share_buffers_in_the_order_of_submits() {
    let device = open();
    let words = 700;
    let mut program = Program::default();
    let given = program.add_buffer("given", words, Group::Inputs, Residence::Upload);
    let sum = program.add_buffer("sum", words, Group::Scratch, Residence::Device);
    let result = program.add_buffer("result", words, Group::Results, Residence::Readback);
    let start = program.add_recording("start", vec![accumulate(given, sum, true)]);
    let more = program.add_recording("more", vec![accumulate(given, sum, false)]);
    let finish = program.add_recording("finish", vec![accumulate(sum, result, true)]);
    let mut executor = VulkanExecutor::load(&device, program).unwrap();

    for round in 0..3 * RING_SLOTS as u32 {
        // Both recordings upload through the same ring buffer, and none waits in between.
        let mut expected = numbers(words, 100 * round);
        executor.submit(start, &[(given.buffer, &bits(&expected))]).unwrap();
        for i in 1..4 {
            let values = numbers(words, 100 * round + i);
            executor.submit(more, &[(given.buffer, &bits(&values))]).unwrap();
            expected = add(&expected, &values);
        }
        let ticket = executor.submit(finish, &[]).unwrap();
        assert_eq!(executor.fetch(ticket, result.buffer).unwrap(), bits(&expected), "round {round}");
    }
    drop(executor);
    assert_silent(&device);
}

#[test]
fn views_of_one_buffer_are_ordered_by_their_ranges() {
    let device = open();
    let part = align_words(1000);
    let mut program = Program::default();
    let all = program.add_buffer("all", 8 * part, Group::Scratch, Residence::Device);
    let parts: Vec<View> = (0..8).map(|i| all.part(i * part, part)).collect();
    // The even parts are independent of each other; each odd one then takes both its neighbours'.
    let mut dispatches: Vec<Dispatch> =
        (2..8).step_by(2).map(|i| accumulate(parts[0], parts[i], true)).collect();
    for i in (1..7).step_by(2) {
        dispatches.push(accumulate(parts[i - 1], parts[i], true));
        dispatches.push(accumulate(parts[i + 1], parts[i], false));
    }
    let recording = program.add_recording("parts", dispatches);
    let mut executor = VulkanExecutor::load(&device, program).unwrap();
    let values = numbers(part, 3);
    executor.write(parts[0], &bits(&values)).unwrap();
    executor.submit(recording, &[]).unwrap();
    let doubled = add(&values, &values);
    for (i, part) in parts.iter().take(7).enumerate() {
        let expected = if i % 2 == 0 { &values } else { &doubled };
        assert_eq!(executor.read(*part).unwrap(), bits(expected), "part {i}");
    }
    drop(executor);
    assert_silent(&device);
}

#[test]
fn several_programs_share_a_device() {
    let device = open();
    let mut executors: Vec<(VulkanExecutor, RecordingId, BufferId, BufferId)> = (0..3)
        .map(|_| {
            let RunningSum { program, step, given, result, .. } = running_sum(256);
            (VulkanExecutor::load(&device, program).unwrap(), step, given, result)
        })
        .collect();
    for n in 1..=10 {
        for (i, (executor, step, given, result)) in executors.iter_mut().enumerate() {
            let ones = vec![(i as f32 + 1.0).to_bits(); 256];
            let ticket = executor.submit(*step, &[(*given, &ones)]).unwrap();
            let expected = vec![(n as f32 * (i as f32 + 1.0)).to_bits(); 256];
            assert_eq!(executor.fetch(ticket, *result).unwrap(), expected);
        }
    }
    // A program with nothing in it is one too.
    VulkanExecutor::load(&device, Program::default()).unwrap().wait_idle().unwrap();
    drop(executors);
    assert_silent(&device);
}

/// What the layers of 2022 and those of 2026 call a missing barrier.
fn is_hazard(message: &str) -> bool {
    message.contains("SYNC-HAZARD-") || message.contains(" hazard detected")
}

#[test]
fn a_barrier_left_out_between_dispatches_is_caught() {
    let device = open();
    let RunningSum { program, .. } = running_sum(256);
    drop(
        VulkanExecutor::load_with_fault(&device, program, PlantedFault::NoBarriersBetweenDispatches).unwrap(),
    );
    let messages = device.validation_messages();
    assert!(messages.iter().any(|m| is_hazard(m)), "not caught: {messages:?}");
}

#[test]
fn a_barrier_left_out_between_submits_is_caught() {
    let device = open();
    let RunningSum { program, step, given, .. } = running_sum(256);
    let fault = PlantedFault::NoBarrierBetweenSubmits;
    let mut executor = VulkanExecutor::load_with_fault(&device, program, fault).unwrap();
    assert_silent(&device);
    for _ in 0..2 {
        executor.submit(step, &[(given, &[0; 256])]).unwrap();
    }
    drop(executor);
    let messages = device.validation_messages();
    assert!(
        messages.iter().any(|m| m.contains("vkQueueSubmit") && is_hazard(m)),
        "not caught (does .cargo/config.toml reach it?): {messages:?}"
    );
}

#[test]
fn dispatches_are_timed() {
    let device = open();
    let words = 1 << 20;
    let mut program = Program::default();
    let a = program.add_buffer("a", words, Group::Scratch, Residence::Device);
    let b = program.add_buffer("b", words, Group::Scratch, Residence::Device);
    let one = program.add_recording("one", vec![accumulate(a, b, false)]);
    let many = program.add_recording("many", vec![accumulate(a, b, false); 20]);
    let mut executor = VulkanExecutor::load(&device, program).unwrap();
    let one = executor.time(one, 5).unwrap();
    let wall = std::time::Instant::now();
    let times = executor.time(many, 5).unwrap();
    let wall_ms = wall.elapsed().as_secs_f64() * 1e3;
    assert_eq!(times.runs_ms.len(), 5);
    assert!(one.min_ms() > 0.0, "{one:?}");
    assert!(times.median_ms() > 3.0 * one.min_ms(), "20 dispatches: {times:?}, one: {one:?}");
    assert!(times.runs_ms.iter().sum::<f64>() <= wall_ms, "{times:?} in {wall_ms} ms");
    drop(executor);
    assert_silent(&device);
}

/// What works in place has in every run what it has in a step, however many dispatches are timed.
#[test]
fn each_dispatch_is_timed_in_runs_of_the_whole_recording() {
    let device = open();
    let mut program = Program::default();
    let a = program.add_buffer("a", 64, Group::Scratch, Residence::Device);
    let sum = program.add_buffer("sum", 64, Group::Scratch, Residence::Device);
    let dispatches = (0..40).map(|number| accumulate(a, sum, number == 0)).collect();
    let recording = program.add_recording("sums", dispatches);
    let mut executor = VulkanExecutor::load(&device, program).unwrap();
    executor.write(a, &[1f32.to_bits(); 64]).unwrap();
    let times = executor.time_each(recording, 3).unwrap();
    assert_eq!(times.len(), 40);
    assert!(times.iter().all(|ms| *ms >= 0.0) && times.iter().sum::<f64>() > 0.0, "{times:?}");
    assert_eq!(executor.read(sum).unwrap(), [40f32.to_bits(); 64]);
    drop(executor);
    assert_silent(&device);
}

#[test]
fn programs_past_a_limit_are_refused_by_name() {
    let device = open();
    let refusal = |program: Program| match VulkanExecutor::load(&device, program).err() {
        Some(Error::Device(text)) => text,
        other => panic!("not refused as it should be: {other:?}"),
    };
    let info = device.info();

    let mut program = Program::default();
    let words = (info.max_allocation_bytes / 4) as usize + 64;
    program.add_buffer("enormous", words, Group::Scratch, Residence::Device);
    let text = refusal(program);
    assert!(text.contains("enormous") && text.contains("--batch-size"), "{text}");

    let mut program = Program::default();
    let small = program.add_buffer("small", 64, Group::Scratch, Residence::Device);
    let other = program.add_buffer("other", 64, Group::Scratch, Residence::Device);
    let none = Dispatch { groups: [1, 0, 1], ..accumulate(small, other, true) };
    program.add_recording("none", vec![accumulate(small, other, true), none]);
    let text = refusal(program);
    assert!(text.contains("dispatch 1 (accumulate) of none needs 0 workgroups in y"), "{text}");

    let words = (info.max_storage_range_bytes / 4) as usize + 64;
    let mut program = Program::default();
    let long = program.add_buffer("long", words, Group::Scratch, Residence::Device);
    let other = program.add_buffer("other", 64, Group::Scratch, Residence::Device);
    program.add_recording("reads", vec![accumulate(long, other, true)]);
    let text = refusal(program);
    assert!(text.contains("buffer long") && text.contains("--context"), "{text}");
    assert_silent(&device);
}

#[test]
fn memory_that_does_not_suffice_is_named() {
    let device = open();
    let mut program = Program::default();
    let piece_bytes = device.info().max_allocation_bytes.min(1 << 30);
    let pieces = device.info().heap_bytes / piece_bytes + 1;
    for i in 0..pieces {
        program.add_buffer(
            &format!("piece{i}"),
            (piece_bytes / 4) as usize,
            Group::Activations,
            Residence::Device,
        );
    }
    let Some(Error::Device(text)) = VulkanExecutor::load(&device, program).err() else {
        panic!("not refused")
    };
    assert!(text.contains("GiB in all") && text.contains("--batch-size"), "{text}");
    assert_silent(&device);
}

#[test]
fn a_device_that_is_not_there_is_named() {
    open();
    for name in ["99", "no such card"] {
        match Device::open(&name.parse().unwrap(), false).err() {
            Some(Error::NoDevice(text)) => assert!(text.contains(&format!("--device {name}")), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

/// Runs one of these tests again in its own process, with something missing; it must fail and say what.
fn says_when_missing(variable: &str, value: &str, words: &[&str]) {
    let again = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["dispatches_are_timed", "--exact", "--nocapture"])
        .env("HLX_TEST_DEVICE", "0")
        .env(variable, value)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success(), "it ran without what is missing");
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn a_missing_driver_is_said() {
    open();
    let words = ["there is no Vulkan driver on this machine", "mesa-vulkan-drivers", "--device cpu"];
    // The second name is the one that loaders before 2022 know.
    says_when_missing("VK_DRIVER_FILES", "no-such-driver.json", &words);
    says_when_missing("VK_ICD_FILENAMES", "no-such-driver.json", &words);
}

#[test]
fn a_missing_validation_layer_is_said() {
    open();
    let nowhere = tempfile::tempdir().unwrap();
    let words = ["validation layer is not installed", "vulkan-validationlayers"];
    says_when_missing("VK_LAYER_PATH", nowhere.path().to_str().unwrap(), &words);
}
