//! Compute pipelines: one per kernel and specialization, built once per device and shared by its programs.

use std::collections::HashMap;
use std::num::NonZero;
use std::thread;

use ash::vk;

use super::failure::failed;
use super::statistics::Statistics;
use crate::error::Result;
use crate::kernels::Kernel;

/// A kernel with the values of its specialization constants, ascending by constant id.
pub(super) type Variant = (Kernel, Vec<u32>);

/// How a kernel's bindings and push constants are passed.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub set: vk::DescriptorSetLayout,
    pub pipeline: vk::PipelineLayout,
}

/// All pipelines of a device. The device starts and destroys it.
#[derive(Default)]
pub(super) struct Pipelines {
    /// Lets the driver share work between variants of a kernel.
    cache: vk::PipelineCache,
    layouts: HashMap<Kernel, Layout>,
    built: HashMap<Variant, vk::Pipeline>,
    statistics: Option<Statistics>,
    /// The driver can be told to leave out checks of indices.
    unchecked: bool,
}

impl Pipelines {
    pub fn start(
        &mut self,
        device: &ash::Device,
        statistics: Option<Statistics>,
        unchecked: bool,
    ) -> Result<()> {
        (self.statistics, self.unchecked) = (statistics, unchecked);
        let info = vk::PipelineCacheCreateInfo::default();
        self.cache = unsafe { device.create_pipeline_cache(&info, None) }
            .map_err(failed("create a pipeline cache"))?;
        Ok(())
    }

    /// Builds what is missing of `variants`, on all cores: drivers take up to a second for a kernel.
    pub fn build(&mut self, device: &ash::Device, variants: impl IntoIterator<Item = Variant>) -> Result<()> {
        let mut missing: Vec<Variant> =
            variants.into_iter().filter(|v| !self.built.contains_key(v)).collect();
        missing.sort_unstable();
        missing.dedup();
        for (kernel, _) in &missing {
            if !self.layouts.contains_key(kernel) {
                self.layouts.insert(*kernel, create_layout(device, *kernel)?);
            }
        }
        let created = on_all_cores(&missing, |variant: &Variant| {
            // A dispatch that takes long is handed over in parts, which begin at later workgroups.
            let parts = vk::PipelineCreateFlags::DISPATCH_BASE;
            let flags = parts | self.statistics.as_ref().map_or(Default::default(), |_| Statistics::flags());
            create_pipeline(device, self.cache, flags, self.unchecked, self.layouts[&variant.0], variant)
        });
        // Everything that was created is kept, so that it is destroyed even if another failed.
        let mut outcome = Ok(());
        for (variant, pipeline) in missing.into_iter().zip(created) {
            match pipeline {
                Ok(pipeline) => {
                    if let Some(statistics) = &self.statistics {
                        statistics.log(pipeline, &format!("{} {:?}", variant.0.name(), variant.1));
                    }
                    self.built.insert(variant, pipeline);
                }
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// The layout of a kernel that has been built.
    pub fn layout(&self, kernel: Kernel) -> Layout {
        self.layouts[&kernel]
    }

    /// The pipeline of a variant that has been built.
    pub fn pipeline(&self, variant: &Variant) -> vk::Pipeline {
        self.built[variant]
    }

    /// # Safety
    /// No command buffer that uses a pipeline of this device may be pending.
    pub unsafe fn destroy(&mut self, device: &ash::Device) {
        unsafe {
            self.built.drain().for_each(|(_, pipeline)| device.destroy_pipeline(pipeline, None));
            for (_, layout) in self.layouts.drain() {
                device.destroy_pipeline_layout(layout.pipeline, None);
                device.destroy_descriptor_set_layout(layout.set, None);
            }
            device.destroy_pipeline_cache(self.cache, None);
        }
        self.cache = vk::PipelineCache::null();
    }
}

/// Maps in parallel, on threads of its own: rayon's could take up other work meanwhile, and that work
/// could wait for the lock under which pipelines are built.
fn on_all_cores<T: Sync, R: Send>(items: &[T], map: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let share = items.len().div_ceil(cores).max(1);
    thread::scope(|scope| {
        let map = &map;
        let threads: Vec<_> = items
            .chunks(share)
            .map(|chunk| scope.spawn(move || chunk.iter().map(map).collect::<Vec<R>>()))
            .collect();
        threads.into_iter().flat_map(|t| t.join().expect("building kernels does not panic")).collect()
    })
}

fn create_layout(device: &ash::Device, kernel: Kernel) -> Result<Layout> {
    let bindings: Vec<_> = (0..kernel.bindings().len() as u32)
        .map(|binding| {
            vk::DescriptorSetLayoutBinding::default()
                .binding(binding)
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        })
        .collect();
    let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
    let set = unsafe { device.create_descriptor_set_layout(&info, None) }
        .map_err(failed(&format!("lay out the bindings of kernel {}", kernel.name())))?;

    let sets = [set];
    let push = [vk::PushConstantRange::default()
        .stage_flags(vk::ShaderStageFlags::COMPUTE)
        .size(kernel.all_push_bytes() as u32)];
    let mut info = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
    if kernel.all_push_bytes() > 0 {
        info = info.push_constant_ranges(&push);
    }
    match unsafe { device.create_pipeline_layout(&info, None) } {
        Ok(pipeline) => Ok(Layout { set, pipeline }),
        Err(result) => {
            unsafe { device.destroy_descriptor_set_layout(set, None) };
            Err(failed(&format!("lay out kernel {}", kernel.name()))(result))
        }
    }
}

fn create_pipeline(
    device: &ash::Device,
    cache: vk::PipelineCache,
    flags: vk::PipelineCreateFlags,
    unchecked: bool,
    layout: Layout,
    (kernel, words): &Variant,
) -> Result<vk::Pipeline> {
    let action = format!("build kernel {}", kernel.name());
    let module_info = vk::ShaderModuleCreateInfo::default().code(kernel.spirv());
    let module = unsafe { device.create_shader_module(&module_info, None) }.map_err(failed(&action))?;

    let entries: Vec<_> = kernel
        .specialization()
        .iter()
        .enumerate()
        .map(|(i, constant)| {
            vk::SpecializationMapEntry::default().constant_id(constant.id).offset(4 * i as u32).size(4)
        })
        .collect();
    let data: &[u8] = bytemuck::cast_slice(words);
    let specialization = vk::SpecializationInfo::default().map_entries(&entries).data(data);
    let stage = vk::PipelineShaderStageCreateInfo::default()
        .stage(vk::ShaderStageFlags::COMPUTE)
        .module(module)
        .name(c"main")
        .specialization_info(&specialization);
    let mut info = vk::ComputePipelineCreateInfo::default().flags(flags).stage(stage).layout(layout.pipeline);
    // No kernel reaches past a view. Some drivers check every index all the same, unless told not to.
    let mut checks = vk::PipelineRobustnessCreateInfoEXT::default()
        .storage_buffers(vk::PipelineRobustnessBufferBehaviorEXT::DISABLED)
        .uniform_buffers(vk::PipelineRobustnessBufferBehaviorEXT::DISABLED)
        .vertex_inputs(vk::PipelineRobustnessBufferBehaviorEXT::DISABLED)
        .images(vk::PipelineRobustnessImageBehaviorEXT::DISABLED);
    if unchecked {
        info = info.push_next(&mut checks);
    }
    // SAFETY: the SPIR-V was validated when it was generated; `words` has one word an entry (`check`).
    let pipelines = unsafe { device.create_compute_pipelines(cache, &[info], None) };
    unsafe { device.destroy_shader_module(module, None) };
    pipelines.map(|pipelines| pipelines[0]).map_err(|(_, result)| failed(&action)(result))
}
