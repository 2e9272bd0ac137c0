//! One training step broken down: how long each kernel takes at each shape, and what that comes to.

use serde_json::{Value, json};

use super::loaded::Loaded;
use crate::error::Result;
use crate::kernels::Element;
use crate::ops::gemm::Causal;
use crate::recording::{Access, Dispatch};
use crate::train::session::Submit;

/// Runs of each recording; a dispatch's time is the median.
const RUNS: usize = 5;

/// Dispatches of one kernel that do the same to different buffers.
#[derive(Clone, Debug)]
pub struct KernelGroup {
    pub kernel: &'static str,
    /// A product's sizes, or the push constants that are whole numbers.
    pub shape: String,
    /// Names and values of the specialization constants.
    pub specialization: Vec<(&'static str, u32)>,
    pub count: usize,
    /// Of all dispatches together.
    pub total_us: f64,
    /// Multiplications and additions of one dispatch; `None` if the kernel is no product.
    pub flops: Option<f64>,
    /// Bytes of the views of one dispatch: those read, and those written, once each.
    pub bytes: f64,
    /// What makes dispatches equal, beside the kernel.
    key: (Vec<u32>, Vec<u8>),
}

impl KernelGroup {
    fn new(dispatch: &Dispatch) -> KernelGroup {
        let kernel = dispatch.kernel;
        let constants = kernel.specialization().iter().map(|constant| constant.name);
        KernelGroup {
            kernel: kernel.name(),
            shape: shape(dispatch),
            specialization: constants.zip(dispatch.specialization.iter().copied()).collect(),
            count: 0,
            total_us: 0.0,
            flops: product_flops(dispatch),
            bytes: bytes(dispatch),
            key: (dispatch.specialization.clone(), dispatch.push.clone()),
        }
    }

    fn is_of(&self, dispatch: &Dispatch) -> bool {
        self.kernel == dispatch.kernel.name()
            && (&self.key.0, &self.key.1) == (&dispatch.specialization, &dispatch.push)
    }

    /// GFLOP/s, if the kernel is a product.
    pub fn gflops(&self) -> Option<f64> {
        self.flops.map(|flops| flops * self.count as f64 / self.total_us * 1e-3)
    }

    /// GB/s of the bound views.
    pub fn gb_s(&self) -> f64 {
        self.bytes * self.count as f64 / self.total_us * 1e-3
    }

    pub fn json(&self) -> Value {
        let constants = self.specialization.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
        json!({
            "kernel": self.kernel,
            "shape": self.shape,
            "specialization": constants.collect::<serde_json::Map<_, _>>(),
            "count": self.count,
            "total_us": self.total_us,
            "gflops": self.gflops(),
            "gb_s": self.gb_s(),
        })
    }
}

/// Times every dispatch of some submits and groups equal ones, the costliest group first.
pub fn by_kernel(loaded: &mut Loaded, submits: &[Submit]) -> Result<Vec<KernelGroup>> {
    let mut groups: Vec<KernelGroup> = Vec::new();
    for submit in submits {
        let times = loaded.time_each(submit, RUNS)?;
        let dispatches = &loaded.program().recordings[submit.recording.0].dispatches;
        for (dispatch, ms) in dispatches.iter().zip(times) {
            let known = groups.iter().position(|group| group.is_of(dispatch));
            let place = known.unwrap_or_else(|| {
                groups.push(KernelGroup::new(dispatch));
                groups.len() - 1
            });
            groups[place].count += 1;
            groups[place].total_us += ms * 1e3;
        }
    }
    groups.sort_by(|x, y| y.total_us.total_cmp(&x.total_us));
    Ok(groups)
}

/// The push constant of a name, if the kernel has it and it is a whole number.
fn pushed(dispatch: &Dispatch, name: &str) -> Option<u32> {
    let mut whole = whole_numbers(dispatch);
    whole.find(|(of, _)| *of == name).map(|(_, value)| value)
}

fn whole_numbers(dispatch: &Dispatch) -> impl Iterator<Item = (&'static str, u32)> {
    let members = dispatch.kernel.push_members().iter().filter(|member| member.element == Element::U32);
    members.map(|member| {
        let bytes = &dispatch.push[member.offset as usize..][..4];
        (member.name, u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    })
}

/// m, k and n of a product: its kernels have push constants of these names, and a batch in each z.
fn product_sizes(dispatch: &Dispatch) -> Option<[u32; 3]> {
    let [m, k, n] = ["m", "k", "n"].map(|name| pushed(dispatch, name));
    Some([m?, k?, n?])
}

/// What the batches of a product's dispatch are.
fn triangle(dispatch: &Dispatch) -> Causal {
    pushed(dispatch, "causal").map_or(Causal::None, Causal::from_code)
}

/// A causal product's other triangle does not count.
fn product_flops(dispatch: &Dispatch) -> Option<f64> {
    let sizes = product_sizes(dispatch)?;
    let one: f64 = 2.0 * sizes.iter().map(|&size| f64::from(size)).product::<f64>();
    let batches = f64::from(dispatch.groups[2]);
    Some(match triangle(dispatch) {
        Causal::None => one * batches,
        Causal::LowerOutput | Causal::LowerA | Causal::UpperA => one * batches / 2.0,
        Causal::Blocks => one,
    })
}

fn bytes(dispatch: &Dispatch) -> f64 {
    let times = |access: Access| f64::from(u8::from(access.reads()) + u8::from(access.writes()));
    let views = dispatch.views.iter().zip(dispatch.kernel.bindings());
    views.map(|(view, binding)| 4.0 * view.words as f64 * times(binding.access)).sum()
}

/// As a table shows it: `768 x 128 x 384 nt x48 causal`, or `count=98304`.
fn shape(dispatch: &Dispatch) -> String {
    let Some([m, k, n]) = product_sizes(dispatch) else {
        let parts = whole_numbers(dispatch).map(|(name, value)| format!("{name}={value}"));
        return parts.collect::<Vec<_>>().join(" ");
    };
    let constants = dispatch.kernel.specialization().iter().zip(&dispatch.specialization);
    let transposed = |name: &str| constants.clone().any(|(constant, &on)| constant.name == name && on != 0);
    let letter = |name: &str| if transposed(name) { 't' } else { 'n' };
    let mut text = format!("{m} x {k} x {n} {}{}", letter("trans_a"), letter("trans_b"));
    let batches = dispatch.groups[2];
    match triangle(dispatch) {
        Causal::Blocks => text += &format!(" in {batches} blocks"),
        _ if batches > 1 => text += &format!(" x{batches}"),
        _ => {}
    }
    if matches!(triangle(dispatch), Causal::LowerOutput | Causal::LowerA | Causal::UpperA) {
        text += " causal";
    }
    text
}
