//! Which device is meant: what `--device` says, held against what there is.

use std::str::FromStr;

use super::info::{DeviceInfo, Kind};
use crate::error::{Error, Result};

/// Which device a user means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The best GPU that can keep the exact contract; never software Vulkan, which the built-in CPU
    /// executor outruns with the same bits.
    Auto,
    /// The device at this place of [`devices`](super::devices).
    Index(usize),
    /// The one device whose name contains this text, in any case.
    Name(String),
}

impl FromStr for Selection {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(if text == "auto" {
            Selection::Auto
        } else if let Ok(index) = text.parse() {
            Selection::Index(index)
        } else {
            Selection::Name(text.to_owned())
        })
    }
}

impl Selection {
    /// The index of the device meant.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if there is none or it cannot keep the exact contract, [`Error::Usage`] if
    /// a name fits several.
    pub fn choose(&self, devices: &[DeviceInfo]) -> Result<usize> {
        let chosen = match self {
            Selection::Auto => return choose_best(devices),
            Selection::Index(index) => devices.get(*index),
            Selection::Name(name) => choose_by_name(name, devices)?,
        };
        let Some(chosen) = chosen else {
            let asked = match self {
                Selection::Name(name) => name.clone(),
                Selection::Index(index) => index.to_string(),
                Selection::Auto => "auto".to_owned(),
            };
            return Err(Error::NoDevice(format!(
                "--device {asked}: there is no such device: there are cpu, {}",
                list(devices)
            )));
        };
        match &chosen.reason {
            Some(reason) => Err(Error::NoDevice(format!(
                "{} cannot be used: {reason}. Choose another --device, or update its driver",
                chosen.name
            ))),
            None => Ok(chosen.index),
        }
    }
}

fn choose_by_name<'a>(name: &str, devices: &'a [DeviceInfo]) -> Result<Option<&'a DeviceInfo>> {
    let wanted = name.to_lowercase();
    let mut fitting = devices.iter().filter(|d| d.name.to_lowercase().contains(&wanted));
    let first = fitting.next();
    if fitting.next().is_some() {
        let text =
            format!("--device {name} fits several devices: say which by its index, of {}", list(devices));
        return Err(Error::Usage(text));
    }
    Ok(first)
}

fn choose_best(devices: &[DeviceInfo]) -> Result<usize> {
    let rank = |kind: Kind| match kind {
        Kind::Discrete => 0,
        Kind::Integrated => 1,
        Kind::Virtual => 2,
        Kind::Other => 3,
        Kind::Cpu => 4,
    };
    let usable = devices.iter().filter(|d| d.exact && d.kind != Kind::Cpu);
    usable.min_by_key(|d| (rank(d.kind), d.index)).map(|d| d.index).ok_or_else(|| {
        Error::NoDevice(format!(
            "there is no GPU that can keep the exact contract: {}",
            list_reasons(devices)
        ))
    })
}

fn list(devices: &[DeviceInfo]) -> String {
    devices.iter().map(|d| format!("{} ({})", d.index, d.name)).collect::<Vec<_>>().join(", ")
}

fn list_reasons(devices: &[DeviceInfo]) -> String {
    let reason = |d: &DeviceInfo| match &d.reason {
        Some(reason) => format!("{}: {reason}", d.name),
        None => format!("{} is software", d.name),
    };
    devices.iter().map(reason).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: usize, name: &str, kind: Kind, reason: Option<&str>) -> DeviceInfo {
        DeviceInfo {
            index,
            name: name.to_owned(),
            driver: "test 1.0".to_owned(),
            vendor_id: 0,
            device_id: 0,
            kind,
            exact: reason.is_none(),
            reason: reason.map(str::to_owned),
            vulkan: "1.2".to_owned(),
            subgroup_size: 32,
            subgroup_shuffles: true,
            int64: true,
            addresses: false,
            shared_memory_bytes: 32768,
            heap_bytes: 1 << 30,
            max_storage_range_bytes: 1 << 27,
            max_allocation_bytes: 1 << 30,
            max_push_bytes: 128,
            max_groups: [65535; 3],
            max_group_size: [1024; 3],
            max_group_invocations: 1024,
            max_bindings: 32,
            timestamp_period_ns: 1.0,
            timestamp_bits: 64,
            matrix_units: None,
            half_units: None,
            no_matrix_units: None,
        }
    }

    fn choose(text: &str, devices: &[DeviceInfo]) -> Result<usize> {
        text.parse::<Selection>().unwrap().choose(devices)
    }

    #[test]
    fn auto_takes_the_best_gpu_and_never_software() {
        let mut all = vec![
            device(0, "software", Kind::Cpu, None),
            device(1, "old card", Kind::Discrete, Some("it is old")),
            device(2, "laptop", Kind::Integrated, None),
            device(3, "card", Kind::Discrete, None),
            device(4, "second card", Kind::Discrete, None),
        ];
        assert_eq!(choose("auto", &all).unwrap(), 3);
        all.truncate(3);
        assert_eq!(choose("auto", &all).unwrap(), 2);
        all.truncate(2);
        let Err(Error::NoDevice(text)) = choose("auto", &all) else { panic!("something was chosen") };
        assert!(text.contains("software is software") && text.contains("old card: it is old"), "{text}");
        assert!(matches!(choose("auto", &[]), Err(Error::NoDevice(_))));
    }

    #[test]
    fn a_device_is_chosen_by_index_or_part_of_its_name() {
        let all = [
            device(0, "NVIDIA H100", Kind::Discrete, None),
            device(1, "NVIDIA H200", Kind::Discrete, None),
            device(2, "llvmpipe", Kind::Cpu, None),
            device(3, "old", Kind::Discrete, Some("it is old")),
        ];
        assert_eq!(choose("1", &all).unwrap(), 1);
        assert_eq!(choose("h200", &all).unwrap(), 1);
        assert_eq!(choose("llvmpipe", &all).unwrap(), 2);
        assert!(matches!(choose("nvidia", &all), Err(Error::Usage(text)) if text.contains("fits several")));
        assert!(
            matches!(choose("4", &all), Err(Error::NoDevice(text)) if text.contains("0 (NVIDIA H100), 1 ("))
        );
        assert!(matches!(choose("amd", &all), Err(Error::NoDevice(text)) if text.contains("--device amd")));
        assert!(matches!(choose("3", &all), Err(Error::NoDevice(text)) if text.contains("it is old")));
    }
}
