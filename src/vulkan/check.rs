//! Whether a program is well-formed and fits the limits of a device, before anything is allocated for it.

use super::info::{DeviceInfo, Kind};
use crate::error::{Error, Result};
use crate::format;
use crate::kernels::{Kernel, gemm, gemm_addressed, gemm_backward};
use crate::recording::{Dispatch, Program, Recording, Residence, VIEW_ALIGNMENT_WORDS, View, align_words};

/// The constants that are a workgroup's size, as kernels name them.
const LOCAL_SIZES: [&str; 3] = ["local_size_x", "local_size_y", "local_size_z"];

/// Checks every buffer and dispatch.
///
/// # Errors
/// [`Error::Device`] names the buffer or dispatch that goes past a limit of the device.
///
/// # Panics
/// If the program contradicts itself (a view outside its buffer, say): that is a mistake in hlx.
pub(super) fn check(program: &Program, device: &DeviceInfo) -> Result<()> {
    match past_limit(program, device) {
        None => Ok(()),
        Some(what) => {
            Err(Error::Device(format!("{what}: lower --batch-size, --context or the model's size")))
        }
    }
}

/// The first limit of the device that a program goes past, as a sentence.
pub(super) fn past_limit(program: &Program, device: &DeviceInfo) -> Option<String> {
    let allocation = device.max_allocation_bytes;
    let too_large = program.buffers.iter().find(|b| align_words(b.words) as u64 * 4 > allocation);
    if let Some(buffer) = too_large {
        return Some(too_long(
            device,
            &buffer.name,
            align_words(buffer.words),
            allocation,
            "allocate at once (maxMemoryAllocationSize)",
        ));
    }
    past_memory(program, device).or_else(|| {
        program.recordings.iter().find_map(|recording| {
            recording.dispatches.iter().enumerate().find_map(|(index, dispatch)| {
                let place = Place { program, recording, index, dispatch };
                place.assert_well_formed();
                place.past_limit(device)
            })
        })
    })
}

/// Ring buffers are left out: they may live in the host's memory.
fn past_memory(program: &Program, device: &DeviceInfo) -> Option<String> {
    let buffers = program.buffers.iter().filter(|b| b.residence == Residence::Device);
    let bytes: u64 = buffers.map(|b| align_words(b.words) as u64 * 4).sum();
    (bytes > device.heap_bytes).then(|| {
        format!(
            "the program takes {} in all, and {} has {}",
            format::bytes(bytes),
            device.name,
            format::bytes(device.heap_bytes)
        )
    })
}

fn too_long(device: &DeviceInfo, buffer: &str, words: usize, limit: u64, verb: &str) -> String {
    format!(
        "buffer {buffer} of {} is larger than the {} that {} can {verb}",
        format::bytes(words as u64 * 4),
        format::bytes(limit),
        device.name
    )
}

/// Terms of a sum that one invocation adds on software drivers, which end it after 65,535 steps of its loops
/// and say nothing. A step's longest sums are over its positions, so this holds for its other loops too.
const SOFTWARE_TERMS: u32 = 60_000;

/// A dispatch, with what is needed to name it.
struct Place<'a> {
    program: &'a Program,
    recording: &'a Recording,
    index: usize,
    dispatch: &'a Dispatch,
}

impl Place<'_> {
    fn name(&self) -> String {
        format!("dispatch {} ({}) of {}", self.index, self.dispatch.kernel.name(), self.recording.name)
    }

    fn assert_well_formed(&self) {
        let Dispatch { kernel, specialization, push, views, .. } = self.dispatch;
        let name = || self.name();
        assert_eq!(views.len(), kernel.bindings().len(), "{}: one view a binding", name());
        assert_eq!(push.len(), kernel.push_bytes(), "{}: bytes of push constants", name());
        assert_eq!(specialization.len(), kernel.specialization().len(), "{}: one word a constant", name());
        for view in views {
            let buffer = self.program.spec(view.buffer);
            assert!(view.words > 0, "{}: an empty view of {}", name(), buffer.name);
            assert!(view.offset + view.words <= buffer.words, "{}: past the end of {}", name(), buffer.name);
            assert!(
                view.offset.is_multiple_of(VIEW_ALIGNMENT_WORDS),
                "{}: unaligned in {}",
                name(),
                buffer.name
            );
        }
        self.assert_writes_alone();
    }

    /// A kernel must not write words that it reaches through a second binding: what it would then
    /// read depends on the device.
    fn assert_writes_alone(&self) {
        let bindings = self.dispatch.kernel.bindings();
        let views = &self.dispatch.views;
        for (i, written) in views.iter().enumerate().filter(|(i, _)| bindings[*i].access.writes()) {
            let shared = |(j, other): (usize, &View)| (j != i && written.overlaps(other)).then_some(j);
            if let Some(j) = views.iter().enumerate().find_map(shared) {
                panic!("{}: {} overlaps {}", self.name(), bindings[i].name, bindings[j].name);
            }
        }
    }

    fn past_limit(&self, device: &DeviceInfo) -> Option<String> {
        let Dispatch { kernel, views, groups, .. } = self.dispatch;
        let range = device.max_storage_range_bytes;
        if let Some(view) = views.iter().find(|view| view.words as u64 * 4 > range) {
            let buffer = &self.program.spec(view.buffer).name;
            return Some(too_long(device, buffer, view.words, range, "bind at once (maxStorageBufferRange)"));
        }
        let needs = |what: &str, limit: u64| {
            Some(format!("{} needs {what}, and {} allows 1 to {limit}", self.name(), device.name))
        };
        for (axis, (&count, &limit)) in ["x", "y", "z"].iter().zip(groups.iter().zip(&device.max_groups)) {
            if count == 0 || count > limit {
                return needs(&format!("{count} workgroups in {axis}"), limit.into());
            }
        }
        let push_bytes = kernel.all_push_bytes();
        if push_bytes as u64 > device.max_push_bytes {
            return needs(&format!("{push_bytes} bytes of push constants"), device.max_push_bytes);
        }
        if !kernel.addresses().is_empty() && !device.addresses {
            let name = &device.name;
            return Some(format!("{} needs buffers' addresses, and {name} does not give them", self.name()));
        }
        if views.len() as u64 > device.max_bindings.into() {
            return needs(&format!("{} bindings", views.len()), device.max_bindings.into());
        }
        let size = self.local_size();
        let invocations: u32 = size.iter().product();
        if invocations > device.max_group_invocations
            || size.iter().zip(&device.max_group_size).any(|(s, l)| s > l)
        {
            return needs(
                &format!("workgroups of {size:?} invocations"),
                device.max_group_invocations.into(),
            );
        }
        let terms = self.terms_of_an_invocation();
        if device.kind == Kind::Cpu && terms > SOFTWARE_TERMS {
            return needs(&format!("sums of {terms} terms"), SOFTWARE_TERMS.into());
        }
        None
    }

    /// The invocations of a workgroup in x, y and z, with the dispatch's own constants.
    fn local_size(&self) -> [u32; 3] {
        let mut size = self.dispatch.kernel.local_size();
        let constants = self.dispatch.kernel.specialization().iter().zip(&self.dispatch.specialization);
        for (constant, &value) in constants {
            if let Some(axis) = LOCAL_SIZES.iter().position(|name| *name == constant.name) {
                size[axis] = value;
            }
        }
        size
    }

    /// Terms of the sums of a product whose invocations work alone.
    fn terms_of_an_invocation(&self) -> u32 {
        match self.dispatch.kernel {
            Kernel::Gemm => gemm::Push::from_bytes(&self.dispatch.push).k,
            Kernel::GemmAddressed => gemm_addressed::Push::from_bytes(&self.dispatch.push).k,
            Kernel::GemmBackward => gemm_backward::Push::from_bytes(&self.dispatch.push).k,
            _ => 0,
        }
    }
}
