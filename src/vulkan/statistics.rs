//! What a driver tells of the kernels that it compiled, such as the registers of an invocation
//! (`VK_KHR_pipeline_executable_properties`). Asked for with `RUST_LOG=hlx::vulkan=debug`.

use ash::{khr, vk};

use super::instance::Instance;

/// A device's functions for it.
pub(super) struct Statistics {
    functions: khr::pipeline_executable_properties::Device,
}

impl Statistics {
    /// `None` if nobody wants to know.
    pub fn wanted(instance: &Instance, device: &ash::Device, offered: bool) -> Option<Statistics> {
        let wanted = offered && tracing::enabled!(tracing::Level::DEBUG);
        wanted.then(|| Statistics {
            functions: khr::pipeline_executable_properties::Device::new(&instance.raw, device),
        })
    }

    /// What a pipeline must be made with.
    pub fn flags() -> vk::PipelineCreateFlags {
        vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
    }

    /// Logs what the driver says of a pipeline: `name value` for each figure.
    pub fn log(&self, pipeline: vk::Pipeline, what: &str) {
        let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
        let count = unsafe { self.functions.get_pipeline_executable_properties(&info) };
        for index in 0..count.map_or(0, |executables| executables.len() as u32) {
            let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(index);
            // What cannot be had is left out: this is a help for those who write kernels.
            let Ok(figures) = (unsafe { self.functions.get_pipeline_executable_statistics(&info) }) else {
                continue;
            };
            let figures: Vec<String> = figures.iter().map(figure).collect();
            tracing::debug!("{what}: {}", figures.join(", "));
        }
    }
}

fn figure(statistic: &vk::PipelineExecutableStatisticKHR<'_>) -> String {
    let name = statistic.name_as_c_str().map_or("?".into(), |name| name.to_string_lossy());
    // SAFETY: the format says which member of the union was written.
    let value = unsafe {
        match statistic.format {
            vk::PipelineExecutableStatisticFormatKHR::UINT64 => statistic.value.u64.to_string(),
            vk::PipelineExecutableStatisticFormatKHR::INT64 => statistic.value.i64.to_string(),
            vk::PipelineExecutableStatisticFormatKHR::FLOAT64 => statistic.value.f64.to_string(),
            _ => (statistic.value.b32 != vk::FALSE).to_string(),
        }
    };
    format!("{name} {value}")
}
