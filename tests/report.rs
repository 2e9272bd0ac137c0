//! What is shown and written while training: the memory plan, progress lines, metrics.jsonl.

use std::fs;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hlx::checkpoint::Disk;
use hlx::report::format::{bytes, count, duration};
use hlx::report::{MemoryPlan, MetricsFile, Progress, StepMetrics, StepReport};
use tempfile::TempDir;

#[test]
fn sizes_counts_and_times_read_well() {
    assert_eq!(bytes(0), "0 B");
    assert_eq!(bytes(1023), "1023 B");
    assert_eq!(bytes(1024), "1.0 KiB");
    assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
    assert_eq!(bytes(3_250_586), "3.1 MiB");
    assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    assert_eq!(count(950.0), "950");
    assert_eq!(count(999.96), "1.0 k");
    assert_eq!(count(17_234.0), "17.2 k");
    assert_eq!(count(124_439_808.0), "124.4 M");
    assert_eq!(duration(7.6), "8 s");
    assert_eq!(duration(59.7), "1 min 00 s");
    assert_eq!(duration(130.0), "2 min 10 s");
    assert_eq!(duration(3.0 * 3600.0 + 299.0), "3 h 04 min");
    assert_eq!(duration(52.0 * 3600.0), "2 d 4 h");
    assert_eq!(duration(-1.0), "0 s");
}

#[test]
fn the_plan_adds_up_and_says_what_fits() {
    let mut plan = MemoryPlan {
        device: "card".into(),
        groups: vec![("parameters".into(), 3 << 20), ("activations".into(), 5 << 20)],
        budget: Some(64 << 20),
        largest_batch: Some(140),
    };
    let expected = "memory on card\n  parameters       3.0 MiB\n  activations      5.0 MiB\n  \
                    total            8.0 MiB of 64.0 MiB; the largest --batch-size that fits is 140";
    assert_eq!(plan.to_string(), expected);
    (plan.budget, plan.largest_batch) = (None, None);
    assert!(plan.to_string().ends_with("8.0 MiB"));
}

fn metrics(step: u64) -> StepMetrics {
    StepMetrics {
        step,
        epoch: 0.5,
        tokens: 768 * step,
        train_loss: 4.189403057098389,
        val_loss: step.is_multiple_of(2).then_some(4.25),
        lr: 1e-3,
        grad_norm: 1.5,
        step_ms: 44.6,
        tokens_per_second: 17_219.7,
    }
}

fn lines(path: &std::path::Path) -> Vec<StepMetrics> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn metrics_are_one_line_a_step() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut file = MetricsFile::create(&Disk, &path).unwrap();
    file.write(&metrics(1)).unwrap();
    file.write(&metrics(2)).unwrap();
    file.sync().unwrap();
    assert_eq!(lines(&path), [metrics(1), metrics(2)]);
    let text = fs::read_to_string(&path).unwrap();
    for key in [
        "step",
        "epoch",
        "tokens",
        "train/loss",
        "val/loss",
        "lr",
        "grad_norm",
        "step_ms",
        "tokens_per_second",
    ] {
        assert_eq!(text.matches(&format!("\"{key}\":")).count(), 2, "{key} in {text}");
    }
}

#[test]
fn resuming_drops_the_lines_of_steps_to_be_taken_again() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut file = MetricsFile::create(&Disk, &path).unwrap();
    (1..=5).for_each(|step| file.write(&metrics(step)).unwrap());
    drop(file);
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str("{\"step\": 3, \"epo");
    fs::write(&path, text).unwrap();
    let mut file = MetricsFile::resume(&Disk, &path, 3).unwrap();
    file.write(&metrics(4)).unwrap();
    drop(file);
    let steps: Vec<_> = lines(&path).iter().map(|line| line.step).collect();
    assert_eq!(steps, [1, 2, 3, 4]);

    let missing = folder.path().join("missing.jsonl");
    drop(MetricsFile::resume(&Disk, &missing, 3).unwrap());
    assert_eq!(fs::read_to_string(&missing).unwrap(), "");
    assert!(MetricsFile::create(&Disk, &folder.path().join("no/such/folder.jsonl")).is_err());
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn plain_progress_is_sparse_and_shows_first_and_last_step() {
    let written = Written::default();
    let mut progress = Progress::plain(10, 20, Box::new(written.clone()), Duration::from_secs(3600));
    for step in 11..=20 {
        let val_loss = (step > 15).then_some(1.75);
        let report = StepReport { step, loss: 2.5, val_loss, grad_norm: 0.5, tokens_per_second: 17_000.0 };
        progress.step(&report);
    }
    progress.finish();
    let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].starts_with("step 11/20  loss 2.5000  grad 0.500  17.0 k tokens/s  ")
            && lines[0].ends_with(" left")
    );
    assert_eq!(lines[1], "step 20/20  loss 2.5000  last val 1.7500  grad 0.500  17.0 k tokens/s");
}
