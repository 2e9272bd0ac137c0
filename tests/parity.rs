//! hlx follows PyTorch's own figures, step by step, on the CPU executor and on a Vulkan device.
//!
//! `HLX_BASELINE=DIR cargo test --release --test parity` takes another folder of the same form.
//! `HLX_PARITY_CURVE=FILE` writes the losses and gradient norms, to plot them.
//! `HLX_PARITY_TOLERANCE=X` sets the bound on losses for a folder whose figures are themselves of f32.
//! `HLX_PARITY_PRECISION=mixed` follows them in another precision on the Vulkan device, with its bounds.

#[path = "common/baseline.rs"]
mod baseline;
mod common;

use std::path::{Path, PathBuf};

use baseline::{Baseline, shared};
use hlx::checkpoint::read_model;
use hlx::cpu::CpuExecutor;
use hlx::precision::Precision;
use hlx::recording::{Executor, Program, Traits};
use hlx::train::init::initial_state;
use hlx::train::program::StepShape;
use hlx::train::schedule::Schedule;
use hlx::train::session::{MicroBatch, Session, StepRates, StepResult};
use hlx::vulkan::VulkanExecutor;

/// Bounds against f64 figures. PyTorch's own f32 run stays within 1.2e-6 of them.
const LOSS: f64 = 3e-5;
const GRAD_NORM: f64 = 2e-4;
const LOGITS: f64 = 5e-6;

/// The folders to follow: the one asked for, or the small one that comes with hlx and the larger one that
/// lies beside the checkout where hlx is developed. `.ci/run` demands the latter.
fn folders() -> Vec<PathBuf> {
    if let Some(folder) = std::env::var_os("HLX_BASELINE") {
        return vec![folder.into()];
    }
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/baseline");
    let larger = shared().join("baselines/pytorch-nano");
    let demanded = std::env::var("HLX_REQUIRE_SHARED").is_ok_and(|value| value == "1");
    if larger.exists() || demanded { vec![own, larger] } else { vec![own] }
}

/// Bounds of `mixed`: on each training loss, of the loss itself, and on the validation loss.
const MIXED_LOSS: f64 = 0.02;
const MIXED_VAL_LOSS: f64 = 0.02;

/// The precision that the Vulkan device is to have.
fn precision() -> Precision {
    let name = std::env::var("HLX_PARITY_PRECISION").unwrap_or("exact".to_string());
    name.parse().unwrap_or_else(|error| panic!("HLX_PARITY_PRECISION: {error}"))
}

fn loss_bound() -> f64 {
    match std::env::var("HLX_PARITY_TOLERANCE") {
        Ok(text) => text.parse().expect("HLX_PARITY_TOLERANCE is a number"),
        Err(_) => LOSS,
    }
}

/// The windows that start at these tokens.
fn batch(tokens: &[u32], starts: &[usize], context: usize) -> MicroBatch {
    let gather = |shift: usize| {
        starts.iter().flat_map(|&s| &tokens[s + shift..s + shift + context]).copied().collect()
    };
    MicroBatch { tokens: gather(0), targets: gather(1) }
}

fn mean(losses: &[f32]) -> f64 {
    losses.iter().map(|&x| f64::from(x)).sum::<f64>() / losses.len() as f64
}

/// Trains along every baseline.
fn follow(on: &str, traits: Traits, load: impl Fn(Program) -> Box<dyn Executor>) {
    for folder in folders() {
        println!("{on}: {}", folder.display());
        follow_one(on, traits, &load, &folder);
    }
}

fn follow_one(on: &str, traits: Traits, load: impl Fn(Program) -> Box<dyn Executor>, folder: &Path) {
    let b = Baseline::read(folder);
    let model = read_model(&b.folder).unwrap();
    assert_eq!((model.config.context, model.config.vocab_size), (b.context, b.vocab.len()));
    let shape = StepShape {
        model: model.config.clone(),
        batch_size: b.batch,
        grad_accum: 1,
        beta1: b.betas[0],
        beta2: b.betas[1],
        eps: b.eps,
        grad_clip: b.grad_clip,
        seed: 0,
    };
    let mut session = Session::new(shape, traits, |train| Ok(load(train.program.clone()))).unwrap();
    session.load_state(&initial_state(model.tensors)).unwrap();
    let (train, val) = b.tokens();

    if let Some(expected) = b.first_logits.as_ref().filter(|_| traits.precision != Precision::Mixed) {
        session.losses(&batch(&train, &b.windows[0], b.context)).unwrap();
        let logits = session.logits().unwrap();
        let last = &logits[(b.context - 1) * b.vocab.len()..][..b.vocab.len()];
        let worst = worst(last.iter().map(|&x| f64::from(x)), expected, |a, b| (a - b).abs());
        println!("{on}: logits before training within {:.2e}", worst.0);
        assert!(worst.0 <= LOGITS, "{on}: logit {} differs by {:e}", worst.1, worst.0);
    }

    // A constant rate after the warm-up is a cosine whose ends are equal.
    let steps = b.losses.len() as u64;
    let schedule = Schedule { lr: b.lr, min_lr: b.lr, warmup_steps: b.warmup_steps, total_steps: steps };
    let mut results = Vec::new();
    for (step, windows) in b.windows.iter().enumerate() {
        let rates = StepRates { lr: schedule.lr(step as u64), weight_decay: b.weight_decay };
        results.extend(session.step_ahead(&[batch(&train, windows, b.context)], rates).unwrap());
    }
    results.extend(session.drain().unwrap());
    assert_eq!(results.len(), b.losses.len());

    let loss = worst(results.iter().map(|r| f64::from(r.loss)), &b.losses, |a, b| (a - b).abs());
    let norm =
        worst(results.iter().map(|r| f64::from(r.grad_norm)), &b.grad_norms, |a, b| (a / b - 1.0).abs());
    let val_loss =
        b.val_windows.iter().map(|w| mean(&session.losses(&batch(&val, w, b.context)).unwrap())).sum::<f64>()
            / b.val_windows.len() as f64;
    let val = (val_loss - b.val_loss).abs();
    if let Some(path) = std::env::var_os("HLX_PARITY_CURVE") {
        let [losses, norms] = [|r: &StepResult| r.loss, |r: &StepResult| r.grad_norm]
            .map(|of| results.iter().map(of).collect::<Vec<f32>>());
        let curve = serde_json::json!({ "losses": losses, "grad_norms": norms, "val_loss": val_loss });
        std::fs::write(path, curve.to_string()).unwrap();
    }
    for (k, part) in results.chunks(results.len().div_ceil(10)).enumerate() {
        let expected = &b.losses[k * results.len().div_ceil(10)..][..part.len()];
        let worst = worst(part.iter().map(|r| f64::from(r.loss)), expected, |a, b| (a - b).abs());
        println!("{on}: losses to step {} within {:.2e}", part.last().expect("not empty").step, worst.0);
    }
    println!(
        "{on}: {steps} losses within {:.2e}, gradient norms within {:.4} %, validation loss within {val:.2e}",
        loss.0,
        norm.0 * 100.0
    );
    if traits.precision == Precision::Mixed {
        let off = worst(results.iter().map(|r| f64::from(r.loss)), &b.losses, |a, b| (a / b - 1.0).abs());
        println!("{on}: in mixed, losses within {:.3} % of PyTorch's", off.0 * 100.0);
        assert!(off.0 <= MIXED_LOSS, "{on}: loss of step {} is {:.3} % off", off.1, off.0 * 100.0);
        assert!(val <= MIXED_VAL_LOSS, "{on}: validation loss {val_loss}, PyTorch {}", b.val_loss);
        return;
    }
    assert!(loss.0 <= loss_bound(), "{on}: loss of step {} differs by {:e}", loss.1, loss.0);
    assert!(val <= loss_bound(), "{on}: validation loss {val_loss}, PyTorch {}", b.val_loss);
    let norm_bound = GRAD_NORM.max(loss_bound() / LOSS * GRAD_NORM);
    assert!(norm.0 <= norm_bound, "{on}: gradient norm of step {} differs by {:e}", norm.1, norm.0);
}

/// The largest deviation and its index. NaN is the largest of all.
fn worst(
    actual: impl Iterator<Item = f64>,
    expected: &[f64],
    deviation: impl Fn(f64, f64) -> f64,
) -> (f64, usize) {
    let deviations = actual.zip(expected).map(|(a, &b)| deviation(a, b));
    deviations.enumerate().fold((0.0, 0), |worst, (i, d)| {
        if d > worst.0 || d.is_nan() { (if d.is_nan() { f64::INFINITY } else { d }, i) } else { worst }
    })
}

#[test]
fn follows_pytorch_on_the_cpu_executor() {
    let traits = CpuExecutor::TRAITS;
    follow("CPU executor", traits, |program| Box::new(CpuExecutor::load(program).unwrap()));
}

#[test]
fn follows_pytorch_on_the_vulkan_device() {
    let device = common::open();
    let traits = Traits { precision: precision(), ..device.traits() };
    follow("Vulkan device", traits, |program| Box::new(VulkanExecutor::load(&device, program).unwrap()));
    common::assert_silent(&device);
}
