//! `hlx devices`: every device, what it offers, and whether it can keep the exact contract.

use serde_json::json;

use super::{backend, print, print_json};
use crate::cli::DevicesArgs;
use crate::error::Result;
use crate::report::format;
use crate::vulkan::{Device, DeviceInfo, Selection, devices};

pub fn run(args: &DevicesArgs) -> Result<()> {
    let mut found = devices();
    if let Ok(all) = &mut found {
        all.iter_mut().for_each(admit);
    }
    let all = found.as_deref().unwrap_or_default();
    if args.json {
        let list: Vec<_> = std::iter::once(cpu()).chain(all.iter().map(vulkan)).collect();
        return print_json(&list.into());
    }
    print(&format!(
        "cpu  CPU executor (hlx {}), {} threads: exact\n",
        env!("CARGO_PKG_VERSION"),
        rayon::current_num_threads()
    ))?;
    for d in all {
        let exact = match &d.reason {
            None => "exact (every kernel tried)".to_owned(),
            Some(reason) => format!("cannot be used: {reason}"),
        };
        print(&format!("{:<4} {} ({}, {:?}): {exact}\n", d.index, d.name, d.driver, d.kind))?;
        print(&format!(
            "     Vulkan {}, {} of memory, subgroups of {}, {} of shared memory, buffers up to {}\n",
            d.vulkan,
            format::bytes(d.heap_bytes),
            d.subgroup_size,
            format::bytes(d.shared_memory_bytes),
            format::bytes(d.max_storage_range_bytes)
        ))?;
    }
    if let Err(error) = found {
        print(&format!("no Vulkan device: {error}\n"))?;
    }
    Ok(())
}

/// Tries every kernel on a device that promises all that the exact contract needs, and takes note if it
/// breaks its promise.
fn admit(info: &mut DeviceInfo) {
    if !info.exact {
        return;
    }
    let probed =
        Device::open(&Selection::Index(info.index), false).and_then(|device| backend::probe(&device));
    info.reason = match probed {
        Ok(difference) => difference.map(|difference| difference.to_string()),
        Err(error) => Some(error.to_string()),
    };
    info.exact = info.reason.is_none();
}

fn cpu() -> serde_json::Value {
    json!({
        "index": "cpu",
        "name": "CPU executor",
        "driver": format!("hlx {}", env!("CARGO_PKG_VERSION")),
        "kind": "executor",
        "exact": true,
        "reason": null,
        "threads": rayon::current_num_threads(),
    })
}

fn vulkan(info: &DeviceInfo) -> serde_json::Value {
    serde_json::to_value(info).expect("names and numbers are JSON")
}
