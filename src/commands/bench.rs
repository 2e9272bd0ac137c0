//! `hlx bench`: whole training steps and their kernels, beside what the device can do at best.

use serde_json::{Value, json};

use super::backend::Backend;
use super::measure::kernels::KernelGroup;
use super::measure::peaks::{Peaks, is_gpu};
use super::measure::steps::{StepsMeasured, StepsQuestion};
use super::tune::Tuner;
use super::{print, print_json};
use crate::cli::BenchArgs;
use crate::config::{Precision, Preset};
use crate::error::{Error, Result};
use crate::report::{format, say};

pub fn run(args: &BenchArgs) -> Result<()> {
    let chosen = Backend::open(&args.device, args.precision.unwrap_or_default())?;
    let backend = &chosen.backend;
    let precisions = args.precision.map_or_else(|| backend.offered(), |one| vec![one]);
    let questions = questions(args, backend, &precisions)?;
    say(format_args!("on {chosen}"));
    let mut tuner = Tuner::new(!args.no_tune);
    let peaks = if args.no_peaks { None } else { Some(Peaks::measure(backend, &precisions, &mut tuner)?) };
    if !args.json {
        print(&peaks.as_ref().map_or(String::new(), |peaks| peaks.line() + "\n"))?;
        print(HEADER)?;
    }
    let mut rows = Vec::new();
    for question in questions {
        let measured = question.measure(backend, &mut tuner)?;
        let peak = peaks.as_ref().and_then(|peaks| peaks.product_gflops(question.precision));
        if args.json {
            rows.push(json_row(&question, &measured, peak));
            continue;
        }
        print(&row(&question, &measured, peak))?;
        if let Some(groups) = &measured.kernels {
            print(&kernel_table(groups, peak, peaks.as_ref().map(Peaks::memory_gb_s)))?;
        }
    }
    if !args.json {
        return Ok(());
    }
    print_json(&json!({
        "device": backend.name(),
        "driver": backend.driver(),
        "peaks": peaks.map(|peaks| peaks.json()),
        "steps": rows,
    }))
}

/// Each model in each precision. Without names: on a GPU all that fit, elsewhere those that take a moment.
fn questions(args: &BenchArgs, backend: &Backend, precisions: &[Precision]) -> Result<Vec<StepsQuestion>> {
    let models = match (&args.model[..], is_gpu(backend)) {
        ([], true) => Preset::ALL,
        ([], false) => &[Preset::Nano, Preset::Tiny],
        (named, _) => named,
    };
    let question = |&model, &precision| StepsQuestion {
        model,
        precision,
        batch_size: args.batch_size,
        context: args.context,
        vocab_size: args.vocab_size as usize,
        steps: args.steps.map(|steps| steps as usize),
        kernels: args.kernels,
    };
    let mut questions = Vec::new();
    for question in models.iter().flat_map(|model| precisions.iter().map(move |p| question(model, p))) {
        question.shape(backend)?;
        match question.check_fit(backend) {
            Ok(()) => questions.push(question),
            Err(Error::Usage(reason)) if args.model.is_empty() => {
                say(format_args!("{} left out: {reason}", question.model));
            }
            Err(other) => return Err(other),
        }
    }
    Ok(questions)
}

const HEADER: &str = "model    precision  batch  context   vocab     step ms   tokens/s    \
                      GFLOP/s  of peak    busy      memory\n";

fn row(question: &StepsQuestion, m: &StepsMeasured, peak: Option<f64>) -> String {
    format!(
        "{:<8} {:<9} {:>6} {:>8} {:>7} {:>11.3} {:>10} {:>10.1} {:>8} {:>7} {:>11}\n",
        question.model.name(),
        question.precision.name(),
        m.batch_size,
        m.model.context,
        m.model.vocab_size,
        m.step_ms,
        format::count(m.tokens_per_second()),
        m.gflops(),
        percent(peak.map(|peak| m.gflops() / peak)),
        percent(m.busy.map(|(busy, _)| busy.share())),
        format::bytes(m.memory_bytes),
    )
}

/// A share as people read it, or a dash for what was not measured.
fn percent(share: Option<f64>) -> String {
    share.map_or("-".into(), |share| format!("{:.1} %", share * 100.0))
}

fn json_row(question: &StepsQuestion, m: &StepsMeasured, peak: Option<f64>) -> Value {
    let mut row = json!({
        "model": question.model.name(),
        "precision": question.precision.name(),
        "batch_size": m.batch_size,
        "context": m.model.context,
        "vocab_size": m.model.vocab_size,
        "steps": m.steps,
        "step_ms": m.step_ms,
        "mean_step_ms": m.mean_step_ms,
        "tokens_per_second": m.tokens_per_second(),
        "gflops": m.gflops(),
        "share_of_peak": peak.map(|peak| m.gflops() / peak),
        "busy_share": m.busy.map(|(busy, _)| busy.share()),
        "busy_ms": m.busy.map(|(busy, steps)| busy.busy_ms / steps as f64),
        "memory_bytes": m.memory_bytes,
        "loss": m.loss,
    });
    if let Some(groups) = &m.kernels {
        row["kernels"] = groups.iter().map(KernelGroup::json).collect();
    }
    row
}

/// The kernels of one step, the costliest first.
fn kernel_table(groups: &[KernelGroup], product_peak: Option<f64>, memory_peak: Option<f64>) -> String {
    let total_us: f64 = groups.iter().map(|group| group.total_us).sum();
    let width = groups.iter().map(|group| group.shape.len()).max().unwrap_or(0).clamp(5, 48);
    let mut table = format!(
        "  {:<27} {:<width$} {:>5} {:>11} {:>7} {:>15} {:>8}\n",
        "kernel", "shape", "count", "us", "share", "rate", "of peak"
    );
    for group in groups {
        let (rate, share) = match group.gflops() {
            Some(gflops) => (format!("{gflops:.1} GFLOP/s"), product_peak.map(|peak| gflops / peak)),
            None => (format!("{:.1} GB/s", group.gb_s()), memory_peak.map(|peak| group.gb_s() / peak)),
        };
        table += &format!(
            "  {:<27} {:<width$} {:>5} {:>11.1} {:>7} {rate:>15} {:>8}\n",
            group.kernel,
            group.shape,
            group.count,
            group.total_us,
            percent(Some(group.total_us / total_us)),
            percent(share),
        );
    }
    let count: usize = groups.iter().map(|group| group.count).sum();
    table + &format!("  {:<27} {:<width$} {count:>5} {total_us:>11.1}\n", "one after the other", "")
}
