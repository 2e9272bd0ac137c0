//! `hlx bench` and `hlx bench-gemm`: what they print, on the CPU executor and on software Vulkan.

#[path = "common/program.rs"]
mod program;

use program::{Place, keys};
use serde_json::Value;

const KEYS: [&str; 4] = ["device", "driver", "peaks", "steps"];
const PEAK_KEYS: [&str; 4] = ["copy_gb_s", "memory_gb_s", "products", "stream_gb_s"];
const STEP_KEYS: [&str; 15] = [
    "batch_size",
    "busy_ms",
    "busy_share",
    "context",
    "gflops",
    "loss",
    "mean_step_ms",
    "memory_bytes",
    "model",
    "precision",
    "share_of_peak",
    "step_ms",
    "steps",
    "tokens_per_second",
    "vocab_size",
];
const KERNEL_KEYS: [&str; 7] = ["count", "gb_s", "gflops", "kernel", "shape", "specialization", "total_us"];

/// The smallest steps that a preset can take.
const SMALL: &str = "--model nano --batch-size 1 --context 8 --vocab-size 11 --precision exact";

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} is a number in {value}"))
}

fn only<'a>(value: &'a Value, key: &str) -> &'a Value {
    let list = value[key].as_array().unwrap_or_else(|| panic!("{key} is a list in {value}"));
    let [one] = list.as_slice() else { panic!("one of {key} in {value}") };
    one
}

#[test]
fn steps_are_measured_beside_the_peaks() {
    let found = Place::new().hlx(&format!("bench {SMALL} --steps 7 --device cpu --json")).json();
    assert_eq!(keys(&found), KEYS);
    assert_eq!(keys(&found["peaks"]), PEAK_KEYS);
    let peak = only(&found["peaks"], "products");
    assert_eq!((&peak["precision"], &peak["n"]), (&"exact".into(), &512.into()));
    assert!(number(&found["peaks"], "memory_gb_s") >= number(&found["peaks"], "copy_gb_s"));

    let row = only(&found, "steps");
    assert_eq!(keys(row), STEP_KEYS);
    assert_eq!([&row["batch_size"], &row["context"], &row["vocab_size"], &row["steps"]], [1, 8, 11, 7]);
    let tokens_per_second = number(row, "tokens_per_second");
    assert!((tokens_per_second * number(row, "step_ms") / 8e3 - 1.0).abs() < 1e-9, "{row}");
    // 6 for each of 12 d^2 weights of four layers and of the output's, and attention's 6 L d T.
    let flops = 6.0 * (4.0 * 12.0 * 128.0 * 128.0 + 11.0 * 128.0) + 6.0 * 4.0 * 128.0 * 8.0;
    assert!((number(row, "gflops") / (flops * tokens_per_second * 1e-9) - 1.0).abs() < 1e-9, "{row}");
    assert!(
        (number(row, "share_of_peak") - number(row, "gflops") / number(peak, "gflops")).abs() < 1e-9,
        "{row}"
    );
    // A uniform guess among 11 tokens costs 2.4 nats, and four batches are soon known by heart.
    assert!((0.0..3.0).contains(&number(row, "loss")), "{row}");
    assert!(row["busy_share"].is_null(), "the CPU executor has no clock of its own: {row}");
}

#[test]
fn kernels_of_a_step_are_grouped_by_shape() {
    let line = format!("bench {SMALL} --steps 4 --device cpu --kernels --no-peaks --json");
    let found = Place::new().hlx(&line).json();
    assert!(found["peaks"].is_null());
    let row = only(&found, "steps");
    assert!(row["share_of_peak"].is_null(), "no share of what was not measured: {row}");
    let groups = row["kernels"].as_array().expect("a list");
    groups.iter().for_each(|group| assert_eq!(keys(group), KERNEL_KEYS));
    let times: Vec<f64> = groups.iter().map(|group| number(group, "total_us")).collect();
    assert!(times.is_sorted_by(|x, y| x >= y), "the costliest first: {times:?}");
    let count = |kernel: &str, shape: &str| {
        let of = groups.iter().filter(|g| g["kernel"] == kernel && g["shape"] == shape);
        of.map(|group| number(group, "count")).sum::<f64>()
    };
    assert_eq!(count("gemm", "8 x 128 x 512 nn"), 4.0, "one a layer: {row}");
    assert_eq!(count("gemm_backward", "8 x 512 x 128 nt"), 4.0, "one a layer: {row}");
    assert!(
        groups.iter().all(|g| g["gflops"].is_null()
            != (g["kernel"].as_str() >= Some("gemm") && g["kernel"].as_str() < Some("gen"))),
        "products alone have FLOPs: {row}"
    );
}

#[test]
fn software_vulkan_is_timed_by_its_own_clock() {
    let line = format!("bench {SMALL} --steps 4 --device llvmpipe --kernels --no-peaks --json");
    let found = Place::new().hlx(&line).json();
    let row = only(&found, "steps");
    let busy = number(row, "busy_share");
    assert!(busy > 0.0 && busy <= 1.0 && number(row, "busy_ms") > 0.0, "{row}");
    let groups = row["kernels"].as_array().expect("a list");
    assert!(groups.iter().all(|group| number(group, "total_us") > 0.0), "{row}");
    let text = Place::new().hlx(&line.replace(" --json", "")).text();
    for part in ["nano", "GFLOP/s", "layernorm_forward", "one after the other"] {
        assert!(text.contains(part), "{text} lacks {part:?}");
    }
}

#[test]
fn products_are_right_in_every_layout() {
    for (layout, device) in [("nt", "cpu"), ("tn", "cpu"), ("nt", "llvmpipe"), ("tn", "llvmpipe")] {
        let found =
            Place::new().hlx(&format!("bench-gemm 37 70 9 --layout {layout} --device {device} --json"));
        let list = found.json();
        for row in list.as_array().expect("a list").iter().filter(|row| row["precision"] == "exact") {
            assert_eq!((&row["layout"], &row["checked_elements"]), (&layout.into(), &333.into()));
            assert!(
                number(row, "max_relative_error") < 2e-6 && number(row, "frobenius_error") < 1e-6,
                "{row}"
            );
            assert!(number(row, "fastest_ms") <= number(row, "ms"), "{row}");
        }
    }
}

#[test]
fn a_large_product_is_checked_on_a_sample() {
    let list =
        Place::new().hlx("bench-gemm 600 700 800 --layout tn --device cpu --precision exact --json").json();
    let row = &list[0];
    assert_eq!(row["checked_elements"], 4096);
    assert!(number(row, "max_relative_error") < 1e-5 && number(row, "frobenius_error") < 1e-6, "{row}");
}

#[test]
fn bad_arguments_are_refused() {
    for (line, parts) in [
        ("bench --model huge", &["there is no preset `huge`"][..]),
        ("bench --steps 0", &["0 is not in 1"]),
        ("bench --vocab-size 0", &["0 is not in 1"]),
        ("bench --batch-size 0 --device cpu", &["--batch-size 0"]),
        ("bench --context 1 --device cpu", &["--context 1"]),
        ("bench --precision double", &["there is no precision `double`"]),
        ("bench --model nano --batch-size 60000 --context 4096 --device cpu", &["--batch-size 60000", "fit"]),
        ("bench-gemm 8 8 8 --layout tt", &["there is no layout `tt`"]),
    ] {
        let done = Place::new().hlx(line);
        assert_eq!(done.code, Some(2), "{line}: {}", done.stderr);
        assert!(done.stdout.is_empty(), "{line}: {}", done.stdout);
        parts.iter().for_each(|part| assert!(done.stderr.contains(part), "{line}: {}", done.stderr));
    }
}
