//! Products on matrix units that go into GELU, or into its gradient, are close to the exact operations one
//! after the other. On a device without matrix units that hlx has kernels for, nothing can be said.

#[path = "common/case.rs"]
mod case;
mod common;
#[path = "common/halves.rs"]
mod halves;

use hlx::cpu::CpuExecutor;
use hlx::ops::gemm::{After, Gemm, Pass, units};
use hlx::ops::{Recorder, column_sum, gelu};
use hlx::precision::Precision;
use hlx::recording::{Factor, Traits};
use hlx::vulkan::VulkanExecutor;

use case::Case;

/// y = x W + b, GELU of it, and from the gradient of what a layer made of that the gradient of y.
fn record(case: &mut Case, r: &mut Recorder, [m, k, n]: [usize; 3], again: bool) {
    let (x, w) = (case.tensor(m * k, 1.0, false), case.tensor(k * n, 0.3, false));
    let (d, w2) = (case.tensor(m * k, 1e-5, true), case.tensor(n * k, 0.3, false));
    let bias = case.full(n, 1.0);
    let (pre, act) = (case.tensor_output("pre", m * n, false), case.tensor_output("act", m * n, false));
    let d_pre = case.tensor_output("d_pre", m * n, true);
    let sum = case.output("column sum", n);
    let act_again = again.then(|| case.tensor_output("act again", m * n, false));
    let forward = Gemm::new(Pass::Forward, [m, k, n], x.matrix(k), w.matrix(n), pre.matrix(n));
    let forward = Gemm { bias: Some(bias), ..forward };
    let [d, w2, d_wide] = [d.matrix(k).gradient(), w2.matrix(k).transposed(), d_pre.matrix(n).gradient()];
    let backward = Gemm::new(Pass::Backward, [m, k, n], d, w2, d_wide);
    let (pre_view, act_view) = (pre.view, act.view);
    if case.narrow {
        r.multiply(&Gemm { after: After::Gelu { act: act_view, again }, ..forward });
        let partials = case.scratch(units::column_sum_words(m, n));
        let act = act_again.map(|act| act.view);
        let after = After::GeluGradient { pre: pre_view, act, column_sum: sum, partials };
        return r.multiply(&Gemm { after, ..backward });
    }
    r.multiply(&forward);
    gelu::forward(r, pre.full(), act.full());
    r.multiply(&backward);
    gelu::backward(r, pre.full(), d_pre.full());
    let partials = case.full(column_sum::COLUMN_LANES * n, 1.0);
    column_sum::column_sum(r, d_pre, sum, partials);
    match act_again {
        Some(again) => gelu::forward(r, pre.full(), again.full()),
        None => {
            // What is kept of y is GELU's derivative there.
            let derivative = case.add(vec![1f32.to_bits(); m * n]);
            gelu::backward(r, pre.full(), derivative);
            case.outputs[0].tensor = derivative.into();
        }
    }
}

#[test]
fn gelu_in_a_product_is_gelu_after_it() {
    let device = common::open();
    let Some(units) = common::matrix_units(&device) else { return };
    let tolerance = match units.factor {
        Factor::Bf16 => 5e-3,
        Factor::F16 => 1e-3,
    };
    for (sizes, again) in [([64, 32, 64], false), ([200, 40, 72], true), ([130, 16, 8], false)] {
        let build = |narrow, traits| {
            let mut case = Case::new(units.factor, narrow);
            let mut r = Recorder::new(traits, None);
            record(&mut case, &mut r, sizes, again);
            case.program.add_recording("case", r.dispatches);
            case
        };
        let exact = build(false, CpuExecutor::TRAITS);
        let wanted = exact.run(&mut CpuExecutor::load(exact.program.clone()).unwrap());
        let traits = Traits { precision: Precision::Mixed, fast_shared_memory: true, ..device.traits() };
        let narrow = build(true, traits);
        let run = || narrow.run(&mut VulkanExecutor::load(&device, narrow.program.clone()).unwrap());
        let got = run();
        for (i, output) in narrow.outputs.iter().enumerate() {
            let [got, wanted] = [narrow.numbers(i, &got[i]), exact.numbers(i, &wanted[i])];
            let (what, distance) = (output.what, common::distance(&got, &wanted));
            assert!(distance <= tolerance, "{sizes:?}: {what} is {distance:e} from the exact one");
        }
        if again {
            assert_eq!(got[4], got[1], "GELU's result is the same when it is written again");
        }
        assert_eq!(run(), got, "{sizes:?}: the same bits in every run");
    }
    common::assert_silent(&device);
}
