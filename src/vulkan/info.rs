//! What devices there are, what each offers, and whether it can keep the exact contract.

use std::ffi::CStr;

use ash::{ext, khr, vk};
use serde::Serialize;

use super::failure::failed;
use super::instance::{Instance, no_driver};
use super::matrix;
use crate::error::Result;
use crate::kernels::Kernel;
use crate::recording::MatrixUnits;

/// What sort of processor a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A card with its own memory.
    Discrete,
    /// A GPU that shares the host's memory.
    Integrated,
    /// A GPU behind a virtual machine.
    Virtual,
    /// Software Vulkan.
    Cpu,
    /// Whatever the driver calls otherwise.
    Other,
}

/// A physical device as its driver describes it. Sizes are in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceInfo {
    /// Its place in the driver's list: what `--device INDEX` takes.
    pub index: usize,
    /// As the driver gives it.
    pub name: String,
    /// The driver's name and version.
    pub driver: String,
    /// Who made it, and which of their devices it is, as numbers.
    pub vendor_id: u32,
    pub device_id: u32,
    /// What sort of processor it is.
    pub kind: Kind,
    /// True if it can keep the exact contract (NUMERICS.md).
    pub exact: bool,
    /// Why not, if it cannot.
    pub reason: Option<String>,
    /// The newest Vulkan version it offers, such as "1.3".
    pub vulkan: String,
    /// Invocations that run in lockstep; 0 if the driver does not say.
    pub subgroup_size: u32,
    /// They can hand each other values in compute kernels.
    pub subgroup_shuffles: bool,
    /// Its kernels may use 64-bit integers.
    pub int64: bool,
    /// Its kernels may be told the addresses of buffers, and load by them faster than through bindings.
    pub addresses: bool,
    /// Shared memory of one workgroup.
    pub shared_memory_bytes: u64,
    /// The device's own memory: its largest heap.
    pub heap_bytes: u64,
    /// The longest range that one binding can reach.
    pub max_storage_range_bytes: u64,
    /// The largest single allocation.
    pub max_allocation_bytes: u64,
    /// The longest push constants.
    pub max_push_bytes: u64,
    /// The most workgroups of one dispatch in x, y and z.
    pub max_groups: [u32; 3],
    /// The most invocations of one workgroup in x, y and z.
    pub max_group_size: [u32; 3],
    /// The most invocations of one workgroup.
    pub max_group_invocations: u32,
    /// The most storage buffers that one kernel can bind.
    pub max_bindings: u32,
    /// Nanoseconds between two ticks of its clock; 0 if it cannot take the time.
    pub timestamp_period_ns: f32,
    /// Bits of that clock, after which it starts again from 0.
    pub timestamp_bits: u32,
    /// Matrix units that hlx has kernels for.
    pub matrix_units: Option<MatrixUnits>,
    /// Those of factors with 5 bits of exponent and 11 of significand, which may be the same.
    pub half_units: Option<MatrixUnits>,
    /// Why there are none that hlx has kernels for, if so.
    pub no_matrix_units: Option<String>,
}

/// Lists every Vulkan device, in the order that `--device INDEX` counts.
///
/// # Errors
/// [`Error::NoDevice`](crate::error::Error::NoDevice) if there is no Vulkan loader or driver.
pub fn devices() -> Result<Vec<DeviceInfo>> {
    let instance = Instance::new(false)?;
    Ok(physical_devices(&instance)?.into_iter().map(|physical| physical.info).collect())
}

/// A physical device, with what is needed to open it.
pub(super) struct Physical {
    pub raw: vk::PhysicalDevice,
    pub info: DeviceInfo,
    /// A queue family that computes, if there is one.
    pub queue_family: Option<u32>,
    /// `VK_KHR_portability_subset` is offered and must then be enabled.
    pub portability_subset: bool,
    /// `VK_EXT_memory_budget` is offered.
    pub memory_budget: bool,
    /// `VK_KHR_pipeline_executable_properties` is offered.
    pub kernel_statistics: bool,
    /// `VK_EXT_pipeline_robustness` is offered.
    pub pipeline_robustness: bool,
}

pub(super) fn physical_devices(instance: &Instance) -> Result<Vec<Physical>> {
    let found = unsafe { instance.raw.enumerate_physical_devices() }.map_err(|result| match result {
        vk::Result::ERROR_INITIALIZATION_FAILED | vk::Result::ERROR_INCOMPATIBLE_DRIVER => no_driver(),
        other => failed("list its devices")(other),
    })?;
    if found.is_empty() {
        return Err(no_driver());
    }
    found.into_iter().enumerate().map(|(index, raw)| describe(instance, index, raw)).collect()
}

fn describe(instance: &Instance, index: usize, raw: vk::PhysicalDevice) -> Result<Physical> {
    let vk10 = unsafe { instance.raw.get_physical_device_properties(raw) };
    let extensions = unsafe { instance.raw.enumerate_device_extension_properties(raw) }
        .map_err(failed("list a device's extensions"))?;
    let offers = |name: &CStr| extensions.iter().any(|e| e.extension_name_as_c_str() == Ok(name));
    let families = unsafe { instance.raw.get_physical_device_queue_family_properties(raw) };
    let family = families.iter().position(|f| f.queue_flags.contains(vk::QueueFlags::COMPUTE));
    let memory = unsafe { instance.raw.get_physical_device_memory_properties(raw) };

    let mut info = base_info(index, &vk10, &memory);
    if family.is_some_and(|f| families[f].timestamp_valid_bits > 0) {
        info.timestamp_period_ns = vk10.limits.timestamp_period;
        info.timestamp_bits = family.map_or(0, |f| families[f].timestamp_valid_bits);
    }
    // The questions below may be put to devices of version 1.2 and later only.
    let reason = if vk10.api_version < vk::API_VERSION_1_2 {
        Some(format!("it offers Vulkan {}, and 1.2 is needed", info.vulkan))
    } else if family.is_none() {
        Some("it has no queue that computes".to_owned())
    } else {
        match matrix::ask(instance, raw, offers) {
            Ok(units) => [info.matrix_units, info.half_units] = units,
            Err(reason) => info.no_matrix_units = Some(reason),
        }
        ask_vulkan_1_2(instance, raw, &mut info).or_else(|| info.past_limit())
    };
    info.exact = reason.is_none();
    info.reason = reason;
    Ok(Physical {
        raw,
        info,
        queue_family: family.map(|f| f as u32),
        portability_subset: offers(khr::portability_subset::NAME),
        memory_budget: offers(ext::memory_budget::NAME),
        kernel_statistics: offers(khr::pipeline_executable_properties::NAME),
        pipeline_robustness: offers(ext::pipeline_robustness::NAME),
    })
}

/// What Vulkan 1.0 tells of a device.
fn base_info(
    index: usize,
    vk10: &vk::PhysicalDeviceProperties,
    memory: &vk::PhysicalDeviceMemoryProperties,
) -> DeviceInfo {
    let limits = &vk10.limits;
    DeviceInfo {
        index,
        name: vk10.device_name_as_c_str().map_or_else(|_| "unnamed".to_owned(), text),
        driver: format!("version {:#x}", vk10.driver_version),
        vendor_id: vk10.vendor_id,
        device_id: vk10.device_id,
        kind: match vk10.device_type {
            vk::PhysicalDeviceType::DISCRETE_GPU => Kind::Discrete,
            vk::PhysicalDeviceType::INTEGRATED_GPU => Kind::Integrated,
            vk::PhysicalDeviceType::VIRTUAL_GPU => Kind::Virtual,
            vk::PhysicalDeviceType::CPU => Kind::Cpu,
            _ => Kind::Other,
        },
        exact: false,
        reason: None,
        vulkan: format!(
            "{}.{}",
            vk::api_version_major(vk10.api_version),
            vk::api_version_minor(vk10.api_version)
        ),
        subgroup_size: 0,
        subgroup_shuffles: false,
        int64: false,
        addresses: false,
        shared_memory_bytes: limits.max_compute_shared_memory_size.into(),
        heap_bytes: device_heap(memory).map_or(0, |heap| memory.memory_heaps[heap].size),
        max_storage_range_bytes: limits.max_storage_buffer_range.into(),
        max_allocation_bytes: u64::MAX,
        max_push_bytes: limits.max_push_constants_size.into(),
        max_groups: limits.max_compute_work_group_count,
        max_group_size: limits.max_compute_work_group_size,
        max_group_invocations: limits.max_compute_work_group_invocations,
        max_bindings: limits
            .max_per_stage_descriptor_storage_buffers
            .min(limits.max_per_stage_resources)
            .min(limits.max_descriptor_set_storage_buffers),
        timestamp_period_ns: 0.0,
        timestamp_bits: 0,
        matrix_units: None,
        half_units: None,
        no_matrix_units: None,
    }
}

/// Fills in what Vulkan 1.2 tells, and says why the device cannot keep the exact contract, if so.
fn ask_vulkan_1_2(instance: &Instance, raw: vk::PhysicalDevice, info: &mut DeviceInfo) -> Option<String> {
    let mut vk11 = vk::PhysicalDeviceVulkan11Properties::default();
    let mut vk12 = vk::PhysicalDeviceVulkan12Properties::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut vk11).push_next(&mut vk12);
    unsafe { instance.raw.get_physical_device_properties2(raw, &mut properties) };
    let version = properties.properties.api_version;
    let mut features12 = vk::PhysicalDeviceVulkan12Features::default();
    let mut features = vk::PhysicalDeviceFeatures2::default().push_next(&mut features12);
    unsafe { instance.raw.get_physical_device_features2(raw, &mut features) };
    info.int64 = features.features.shader_int64 == vk::TRUE;
    // Measured on two drivers of software Vulkan: Mesa 26.2 (Vulkan 1.4) loads once for all lanes, 22.3 (1.3)
    // does not. Whichever is taken, the bits are the same.
    info.addresses = info.kind == Kind::Cpu
        && info.int64
        && features12.buffer_device_address == vk::TRUE
        && version >= vk::make_api_version(0, 1, 4, 0);

    let name = vk12.driver_name_as_c_str().map_or_else(|_| String::new(), text);
    let version = vk12.driver_info_as_c_str().map_or_else(|_| String::new(), text);
    info.driver = format!("{name} {version}").trim().to_owned();
    info.subgroup_size = vk11.subgroup_size;
    info.subgroup_shuffles = vk11.subgroup_supported_operations.contains(vk::SubgroupFeatureFlags::SHUFFLE)
        && vk11.subgroup_supported_stages.contains(vk::ShaderStageFlags::COMPUTE);
    info.max_allocation_bytes = vk11.max_memory_allocation_size;

    if vk12.shader_rounding_mode_rte_float32 == vk::FALSE {
        Some(
            "it does not promise to round 32-bit floats to nearest even (shaderRoundingModeRTEFloat32)"
                .to_owned(),
        )
    } else if vk12.shader_signed_zero_inf_nan_preserve_float32 == vk::FALSE {
        Some("it does not promise to keep signed zeros (shaderSignedZeroInfNanPreserveFloat32)".to_owned())
    } else if features12.timeline_semaphore == vk::FALSE {
        Some("it has no timeline semaphores".to_owned())
    } else {
        None
    }
}

impl DeviceInfo {
    /// The limit that the exact kernels go past on this device, if there is one.
    fn past_limit(&self) -> Option<String> {
        let largest = |need: fn(Kernel) -> u32| exact_kernels().map(need).max().unwrap_or(0);
        let side = |axis: usize| exact_kernels().map(|k| k.local_size()[axis]).max().unwrap_or(0);
        let shared_bytes = if self.kind == Kind::Cpu { 0 } else { SHARED_BYTES };
        let needs = [
            ("storage buffers of one kernel", self.max_bindings, largest(|k| k.bindings().len() as u32)),
            ("bytes of push constants", clamp(self.max_push_bytes), largest(|k| k.push_bytes() as u32)),
            (
                "invocations in a workgroup",
                self.max_group_invocations,
                largest(|k| k.local_size().iter().product()),
            ),
            ("invocations along a workgroup's x", self.max_group_size[0], side(0)),
            ("invocations along a workgroup's y", self.max_group_size[1], side(1)),
            ("bytes of a workgroup's shared memory", clamp(self.shared_memory_bytes), shared_bytes),
        ];
        let past = needs.iter().find(|(_, limit, need)| need > limit);
        past.map(|(what, limit, need)| format!("it allows {limit} {what}, and {need} are needed"))
    }

    /// Takes limits away, for tests.
    pub(super) fn lower(&mut self, lower: fn(&mut DeviceInfo)) {
        lower(self);
        if self.reason.is_none() {
            self.reason = self.past_limit();
            self.exact = self.reason.is_none();
        }
    }
}

/// What the largest tile of the exact matrix products takes: 16 terms of 64 rows and 128 columns, or of 32
/// and 64 twice (`EXACT_TILES` in ops/gemm/fast.rs).
const SHARED_BYTES: u32 = 16 * (64 + 128) * 4;

fn clamp(limit: u64) -> u32 {
    u32::try_from(limit).unwrap_or(u32::MAX)
}

fn exact_kernels() -> impl Iterator<Item = Kernel> {
    Kernel::ALL.iter().copied().filter(|kernel| kernel.exact())
}

/// The index of the device's own memory: its largest device-local heap.
pub(super) fn device_heap(memory: &vk::PhysicalDeviceMemoryProperties) -> Option<usize> {
    let heaps = memory.memory_heaps_as_slice();
    let local = |heap: &usize| heaps[*heap].flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL);
    (0..heaps.len()).filter(local).max_by_key(|&heap| heaps[heap].size)
}

fn text(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}
