//! The matrix units of a device: what it offers, and how they are switched on.
//!
//! `ash` does not know the younger of these extensions yet, so their structures are written out here, by
//! the Vulkan registry.

use std::ffi::{CStr, c_void};
use std::ptr;

use ash::{khr, vk};

use super::instance::Instance;
use crate::recording::{Factor, MatrixUnits};

const KHR_SHADER_BFLOAT16: &CStr = c"VK_KHR_shader_bfloat16";
const NV_COOPERATIVE_MATRIX2: &CStr = c"VK_NV_cooperative_matrix2";
const COMPONENT_TYPE_BFLOAT16: vk::ComponentTypeKHR = vk::ComponentTypeKHR::from_raw(1_000_141_000);

/// Rows, columns and terms of the matrices that hlx's kernels can be specialized for, best first.
const SIDES: [u32; 2] = [16, 8];

/// As many invocations write a row of what a subgroup stages.
const LEAST_SUBGROUP: u32 = 8;

/// What subgroups do in the kernels for matrix units, and in those that only go with them.
const OPERATIONS: [(vk::SubgroupFeatureFlags, &str); 4] = [
    (vk::SubgroupFeatureFlags::BASIC, "basic"),
    (vk::SubgroupFeatureFlags::VOTE, "vote"),
    (vk::SubgroupFeatureFlags::ARITHMETIC, "arithmetic"),
    (vk::SubgroupFeatureFlags::SHUFFLE, "shuffle"),
];

/// `VkPhysicalDeviceShaderBfloat16FeaturesKHR`
#[repr(C)]
struct Bfloat16Features {
    s_type: vk::StructureType,
    next: *mut c_void,
    type_: vk::Bool32,
    dot_product: vk::Bool32,
    cooperative_matrix: vk::Bool32,
}

// SAFETY: the structure begins as every Vulkan structure does and may extend both.
unsafe impl vk::ExtendsPhysicalDeviceFeatures2 for Bfloat16Features {}
unsafe impl vk::ExtendsDeviceCreateInfo for Bfloat16Features {}

impl Default for Bfloat16Features {
    fn default() -> Self {
        Bfloat16Features {
            s_type: vk::StructureType::from_raw(1_000_141_000),
            next: ptr::null_mut(),
            type_: vk::FALSE,
            dot_product: vk::FALSE,
            cooperative_matrix: vk::FALSE,
        }
    }
}

/// `VkPhysicalDeviceCooperativeMatrix2FeaturesNV`
#[repr(C)]
struct CooperativeMatrix2Features {
    s_type: vk::StructureType,
    next: *mut c_void,
    workgroup_scope: vk::Bool32,
    flexible_dimensions: vk::Bool32,
    reductions: vk::Bool32,
    conversions: vk::Bool32,
    per_element_operations: vk::Bool32,
    tensor_addressing: vk::Bool32,
    block_loads: vk::Bool32,
}

// SAFETY: the structure begins as every Vulkan structure does and may extend both.
unsafe impl vk::ExtendsPhysicalDeviceFeatures2 for CooperativeMatrix2Features {}
unsafe impl vk::ExtendsDeviceCreateInfo for CooperativeMatrix2Features {}

impl Default for CooperativeMatrix2Features {
    fn default() -> Self {
        CooperativeMatrix2Features {
            s_type: vk::StructureType::from_raw(1_000_593_000),
            next: ptr::null_mut(),
            workgroup_scope: vk::FALSE,
            flexible_dimensions: vk::FALSE,
            reductions: vk::FALSE,
            conversions: vk::FALSE,
            per_element_operations: vk::FALSE,
            tensor_addressing: vk::FALSE,
            block_loads: vk::FALSE,
        }
    }
}

impl CooperativeMatrix2Features {
    /// What sums become factors by, and rows are reduced.
    fn works_in_registers(&self) -> bool {
        [self.conversions, self.reductions] == [vk::TRUE; 2]
    }

    /// All that hlx's kernels of this extension use.
    fn is_enough(&self) -> bool {
        [
            self.workgroup_scope,
            self.flexible_dimensions,
            self.conversions,
            self.per_element_operations,
            self.tensor_addressing,
        ]
        .iter()
        .all(|&feature| feature == vk::TRUE)
    }
}

/// The features that matrix units take.
#[derive(Default)]
pub(super) struct Features {
    cooperative_matrix: vk::PhysicalDeviceCooperativeMatrixFeaturesKHR<'static>,
    bfloat16: Bfloat16Features,
    matrix2: CooperativeMatrix2Features,
}

/// What a device offers of them: the best, and those of [`Factor::F16`]; or why hlx has no kernels for it.
/// `offers` says whether it has an extension.
pub(super) fn ask(
    instance: &Instance,
    raw: vk::PhysicalDevice,
    offers: impl Fn(&CStr) -> bool,
) -> Result<[Option<MatrixUnits>; 2], String> {
    let offered = ask_features(instance, raw, offers)?;
    let mut properties11 = vk::PhysicalDeviceVulkan11Properties::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut properties11);
    unsafe { instance.raw.get_physical_device_properties2(raw, &mut properties) };
    // The kernels for it are SPIR-V 1.6.
    let vulkan_1_3 = properties.properties.api_version >= vk::API_VERSION_1_3;
    check_subgroups(&properties11)?;
    let side = |factor| side(instance, raw, factor);
    let bf16 =
        offered.bfloat16.then(|| side(COMPONENT_TYPE_BFLOAT16)).flatten().map(|side| (Factor::Bf16, side));
    let f16 = side(vk::ComponentTypeKHR::FLOAT16).map(|side| (Factor::F16, side));
    if f16.is_none() && bf16.is_none() {
        return Err("its matrices have no shape that hlx has kernels for: 16-bit factors, 32-bit sums, and \
                    16 or 8 rows, columns and terms"
            .to_owned());
    }
    let units = |(factor, side)| MatrixUnits {
        factor,
        side,
        subgroup_size: properties11.subgroup_size,
        in_registers: vulkan_1_3 && offered.in_registers,
        workgroup_scope: offered.workgroup_scope,
    };
    Ok([bf16.or(f16), f16].map(|found| found.map(units)))
}

/// What a device has beside what all kernels for matrix units must have.
struct Offered {
    bfloat16: bool,
    in_registers: bool,
    workgroup_scope: bool,
}

/// The features that a device has, or the first that it lacks of those that it must have.
fn ask_features(
    instance: &Instance,
    raw: vk::PhysicalDevice,
    offers: impl Fn(&CStr) -> bool,
) -> Result<Offered, String> {
    if !offers(khr::cooperative_matrix::NAME) {
        return Err("it does not offer VK_KHR_cooperative_matrix".to_owned());
    }
    let mut found = Features::default();
    let mut vk11 = vk::PhysicalDeviceVulkan11Features::default();
    let mut vk12 = vk::PhysicalDeviceVulkan12Features::default();
    let mut query = vk::PhysicalDeviceFeatures2::default()
        .push_next(&mut vk11)
        .push_next(&mut vk12)
        .push_next(&mut found.cooperative_matrix);
    if offers(KHR_SHADER_BFLOAT16) {
        query = query.push_next(&mut found.bfloat16);
    }
    if offers(NV_COOPERATIVE_MATRIX2) {
        query = query.push_next(&mut found.matrix2);
    }
    unsafe { instance.raw.get_physical_device_features2(raw, &mut query) };
    let needed = [
        (found.cooperative_matrix.cooperative_matrix, "cooperativeMatrix"),
        (vk11.storage_buffer16_bit_access, "storageBuffer16BitAccess"),
        (vk12.shader_float16, "shaderFloat16"),
        (vk12.vulkan_memory_model, "vulkanMemoryModel"),
        (vk12.vulkan_memory_model_device_scope, "vulkanMemoryModelDeviceScope"),
    ];
    match needed.iter().find(|(feature, _)| *feature == vk::FALSE) {
        Some((_, name)) => Err(format!("it does not offer the feature {name}")),
        None => Ok(Offered {
            bfloat16: [found.bfloat16.type_, found.bfloat16.cooperative_matrix] == [vk::TRUE; 2],
            in_registers: found.matrix2.works_in_registers(),
            workgroup_scope: found.matrix2.is_enough(),
        }),
    }
}

/// Why a device's subgroups cannot run the kernels for matrix units, if so.
fn check_subgroups(device: &vk::PhysicalDeviceVulkan11Properties<'_>) -> Result<(), String> {
    if device.subgroup_size < LEAST_SUBGROUP {
        return Err(format!(
            "its subgroups have {} invocations, and {LEAST_SUBGROUP} are needed",
            device.subgroup_size
        ));
    }
    let in_kernels = device.subgroup_supported_stages.contains(vk::ShaderStageFlags::COMPUTE);
    let offered = |flag| in_kernels && device.subgroup_supported_operations.contains(flag);
    let missing: Vec<_> =
        OPERATIONS.iter().filter(|(flag, _)| !offered(*flag)).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("its subgroups lack operations in compute kernels: {}", missing.join(", ")))
}

/// The best of the shapes that a device multiplies and that hlx's kernels can be specialized for.
fn side(instance: &Instance, raw: vk::PhysicalDevice, factor: vk::ComponentTypeKHR) -> Option<u32> {
    let functions = khr::cooperative_matrix::Instance::new(&instance.entry, &instance.raw);
    // A device whose answer cannot be had is one without matrix units.
    let shapes = unsafe { functions.get_physical_device_cooperative_matrix_properties(raw) }.ok()?;
    SIDES.into_iter().find(|&side| shapes.iter().any(|shape| is_usable(shape, side, factor)))
}

fn is_usable(
    shape: &vk::CooperativeMatrixPropertiesKHR<'_>,
    side: u32,
    factor: vk::ComponentTypeKHR,
) -> bool {
    [shape.m_size, shape.n_size, shape.k_size] == [side; 3]
        && [shape.a_type, shape.b_type] == [factor; 2]
        && [shape.c_type, shape.result_type] == [vk::ComponentTypeKHR::FLOAT32; 2]
        && shape.scope == vk::ScopeKHR::SUBGROUP
}

impl Features {
    /// The features of these units, and the names of the extensions that offer them.
    pub fn of(units: MatrixUnits) -> (Features, Vec<&'static CStr>) {
        let mut features = Features::default();
        let mut extensions = vec![khr::cooperative_matrix::NAME];
        features.cooperative_matrix.cooperative_matrix = vk::TRUE;
        if units.factor == Factor::Bf16 {
            extensions.push(KHR_SHADER_BFLOAT16);
            features.bfloat16.type_ = vk::TRUE;
            features.bfloat16.cooperative_matrix = vk::TRUE;
        }
        let f = &mut features.matrix2;
        if units.workgroup_scope || units.in_registers {
            extensions.push(NV_COOPERATIVE_MATRIX2);
        }
        if units.in_registers {
            f.conversions = vk::TRUE;
            f.reductions = vk::TRUE;
        }
        if units.workgroup_scope {
            f.workgroup_scope = vk::TRUE;
            f.flexible_dimensions = vk::TRUE;
            f.conversions = vk::TRUE;
            f.per_element_operations = vk::TRUE;
            f.tensor_addressing = vk::TRUE;
        }
        (features, extensions)
    }

    /// Asks for what is switched on here when the device is created.
    pub fn chain<'a>(&'a mut self, info: vk::DeviceCreateInfo<'a>) -> vk::DeviceCreateInfo<'a> {
        let Features { cooperative_matrix, bfloat16, matrix2 } = self;
        let (bfloat16_used, matrix2_used) = (bfloat16.type_, matrix2.workgroup_scope | matrix2.conversions);
        let mut info = info.push_next(cooperative_matrix);
        if bfloat16_used == vk::TRUE {
            info = info.push_next(bfloat16);
        }
        if matrix2_used == vk::TRUE {
            info = info.push_next(matrix2);
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Kernel;

    /// A kernel's SPIR-V says what its subgroups do; a device that does not offer it may fail anywhere.
    #[test]
    fn all_that_subgroups_do_in_fast_kernels_is_asked_for() {
        const OP_CAPABILITY: u32 = 17;
        let named = |capability: u32| match capability {
            61 => Some("basic"),
            62 => Some("vote"),
            63 => Some("arithmetic"),
            64 => Some("ballot"),
            65 => Some("shuffle"),
            66..=68 | 4423..=4431 => Some("something else"),
            _ => None,
        };
        let mut used = Vec::new();
        for kernel in Kernel::ALL.iter().filter(|kernel| !kernel.exact()) {
            let mut rest = &kernel.spirv()[5..];
            while let [head, operands @ ..] = rest {
                used.extend((head & 0xffff == OP_CAPABILITY).then(|| named(operands[0])).flatten());
                rest = &rest[(head >> 16) as usize..];
            }
        }
        let mut asked: Vec<_> = OPERATIONS.iter().map(|(_, name)| *name).collect();
        used.sort_unstable();
        used.dedup();
        asked.sort_unstable();
        assert_eq!(used, asked);
    }

    #[test]
    fn subgroups_that_lack_something_are_refused_by_its_name() {
        let all = OPERATIONS.iter().fold(vk::SubgroupFeatureFlags::empty(), |all, (flag, _)| all | *flag);
        let device = |size, operations, stages| {
            let properties = vk::PhysicalDeviceVulkan11Properties::default();
            check_subgroups(
                &properties
                    .subgroup_size(size)
                    .subgroup_supported_operations(operations)
                    .subgroup_supported_stages(stages),
            )
        };
        let compute = vk::ShaderStageFlags::COMPUTE;
        assert_eq!(device(8, all, compute), Ok(()));
        assert_eq!(
            device(4, all, compute).unwrap_err(),
            "its subgroups have 4 invocations, and 8 are needed"
        );
        let without = all & !vk::SubgroupFeatureFlags::SHUFFLE & !vk::SubgroupFeatureFlags::VOTE;
        let lack = "its subgroups lack operations in compute kernels: ";
        assert_eq!(device(32, without, compute).unwrap_err(), format!("{lack}vote, shuffle"));
        let elsewhere = device(32, all, vk::ShaderStageFlags::FRAGMENT).unwrap_err();
        assert_eq!(elsewhere, format!("{lack}basic, vote, arithmetic, shuffle"));
    }
}
