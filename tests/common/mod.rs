//! What the tests on Vulkan devices share: which device, under which layers, and what to install.

#![allow(dead_code)] // each test binary uses a part

use std::io::Write;
use std::sync::Arc;

use hlx::error::Result;
use hlx::recording::MatrixUnits;
use hlx::vulkan::{Device, Kind, Selection, Simulation, devices};

/// What a test that cannot run says.
pub const INSTALL: &str = "this test needs software Vulkan and the Vulkan validation layer \
                           (Debian and Ubuntu: apt install mesa-vulkan-drivers vulkan-validationlayers)";

/// Opens the device under test: software Vulkan, or the device named by `HLX_TEST_DEVICE` (as
/// `--device` takes it). The validation layer watches it, unless `HLX_TEST_VALIDATION=0` says that
/// the machine has none.
pub fn open() -> Arc<Device> {
    open_device(is_watched())
}

/// The same device watched in any case, for tests of synchronization itself.
pub fn open_watched() -> Arc<Device> {
    open_device(true)
}

/// The same device without the validation layer, for what takes long.
pub fn open_unwatched() -> Arc<Device> {
    open_device(false)
}

/// The same device, watched, and made worse than it is.
pub fn open_simulated(simulation: Simulation) -> Result<Arc<Device>> {
    Device::open_simulated(&selection(), is_watched(), simulation)
}

fn open_device(validation: bool) -> Arc<Device> {
    Device::open(&selection(), validation).unwrap_or_else(|error| panic!("{error}; {INSTALL}"))
}

fn is_watched() -> bool {
    std::env::var("HLX_TEST_VALIDATION").map_or(true, |value| value != "0")
}

fn selection() -> Selection {
    match std::env::var("HLX_TEST_DEVICE") {
        Ok(name) => name.parse().expect("every text names a device"),
        Err(_) => {
            let all = devices().unwrap_or_else(|error| panic!("{error}; {INSTALL}"));
            let software = all.iter().find(|d| d.kind == Kind::Cpu);
            Selection::Index(software.unwrap_or_else(|| panic!("{INSTALL}")).index)
        }
    }
}

/// The validation layer had nothing to say.
pub fn assert_silent(device: &Device) {
    assert_eq!(device.validation_messages(), Vec::<String>::new());
}

/// How far numbers are from those wanted, by the norm of the wanted ones; NaN if one of them is.
pub fn distance<T: Copy + Into<f64>>(got: &[T], wanted: &[T]) -> f64 {
    let norm = |terms: &mut dyn Iterator<Item = f64>| terms.map(|x| x * x).sum::<f64>().sqrt();
    let mut off = got.iter().zip(wanted).map(|(&x, &y)| x.into() - y.into());
    norm(&mut off) / norm(&mut wanted.iter().map(|&x| x.into()))
}

/// The device's matrix units; if there are none, says that the test was not run.
pub fn matrix_units(device: &Device) -> Option<MatrixUnits> {
    or_not_run(device, device.info().matrix_units, "matrix units that hlx has kernels for")
}

/// Those that take half precision, the same way.
pub fn half_units(device: &Device) -> Option<MatrixUnits> {
    or_not_run(device, device.info().half_units, "matrix units for halves")
}

fn or_not_run(device: &Device, units: Option<MatrixUnits>, what: &str) -> Option<MatrixUnits> {
    if units.is_none() {
        // Past the test harness, which would keep it to itself.
        let _ = writeln!(std::io::stderr(), "NOT RUN: {} has no {what}", device.info().name);
    }
    units
}
