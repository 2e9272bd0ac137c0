//! Whether a program is well-formed and fits the limits of a device, before anything is allocated for it.

use super::failure::readable_bytes;
use super::info::DeviceInfo;
use crate::error::{Error, Result};
use crate::recording::{Dispatch, Program, Recording, Residence, VIEW_ALIGNMENT_WORDS, View, align_words};

/// Checks every buffer and dispatch.
///
/// # Errors
/// [`Error::Device`] names the buffer or dispatch that goes past a limit of the device.
///
/// # Panics
/// If the program contradicts itself (a view outside its buffer, say): that is a mistake in hlx.
pub(super) fn check(program: &Program, device: &DeviceInfo) -> Result<()> {
    for buffer in &program.buffers {
        let bytes = align_words(buffer.words) as u64 * 4;
        if bytes > device.max_allocation_bytes {
            return Err(too_large(device, &buffer.name, bytes, device.max_allocation_bytes, "allocate"));
        }
    }
    check_total(program, device)?;
    for recording in &program.recordings {
        for (i, dispatch) in recording.dispatches.iter().enumerate() {
            let place = Place { program, recording, index: i, dispatch };
            place.assert_well_formed();
            place.check_limits(device)?;
        }
    }
    Ok(())
}

/// Ring buffers are left out: they may live in the host's memory.
fn check_total(program: &Program, device: &DeviceInfo) -> Result<()> {
    let buffers = program.buffers.iter().filter(|b| b.residence == Residence::Device);
    let bytes: u64 = buffers.map(|b| align_words(b.words) as u64 * 4).sum();
    if bytes <= device.heap_bytes {
        return Ok(());
    }
    Err(Error::Device(format!(
        "the program takes {} in all, and {} has {}: lower --batch-size, --context or the model's size",
        readable_bytes(bytes),
        device.name,
        readable_bytes(device.heap_bytes)
    )))
}

fn too_large(device: &DeviceInfo, buffer: &str, bytes: u64, limit: u64, verb: &str) -> Error {
    Error::Device(format!(
        "buffer {buffer} of {} is larger than the {} that {} can {verb} at once: lower --batch-size or \
         --context",
        readable_bytes(bytes),
        readable_bytes(limit),
        device.name
    ))
}

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

    fn check_limits(&self, device: &DeviceInfo) -> Result<()> {
        let Dispatch { kernel, views, groups, .. } = self.dispatch;
        for view in views {
            let bytes = view.words as u64 * 4;
            if bytes > device.max_storage_range_bytes {
                let buffer = &self.program.spec(view.buffer).name;
                return Err(too_large(device, buffer, bytes, device.max_storage_range_bytes, "bind"));
            }
        }
        for (axis, (&count, &limit)) in ["x", "y", "z"].iter().zip(groups.iter().zip(&device.max_groups)) {
            if count == 0 || count > limit {
                return Err(self.past_limit(device, &format!("{count} workgroups in {axis}"), limit.into()));
            }
        }
        if kernel.push_bytes() as u64 > device.max_push_bytes {
            let what = format!("{} bytes of push constants", kernel.push_bytes());
            return Err(self.past_limit(device, &what, device.max_push_bytes));
        }
        if views.len() as u64 > device.max_bindings.into() {
            return Err(self.past_limit(
                device,
                &format!("{} bindings", views.len()),
                device.max_bindings.into(),
            ));
        }
        let size = kernel.local_size();
        let invocations: u32 = size.iter().product();
        if invocations > device.max_group_invocations
            || size.iter().zip(&device.max_group_size).any(|(s, l)| s > l)
        {
            let what = format!("workgroups of {size:?} invocations");
            return Err(self.past_limit(device, &what, device.max_group_invocations.into()));
        }
        Ok(())
    }

    fn past_limit(&self, device: &DeviceInfo, what: &str, limit: u64) -> Error {
        Error::Device(format!("{} needs {what}, and {} allows 1 to {limit}", self.name(), device.name))
    }
}
