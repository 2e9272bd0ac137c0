//! A device made ready to compute: its logical device, its one queue, and what all programs on it share.

use std::ffi::{CString, c_char};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ash::{ext, khr, vk};
use gpu_allocator::AllocatorDebugSettings;
use gpu_allocator::vulkan::{Allocator, AllocatorCreateDesc};

use super::check::past_limit;
use super::failure::failed;
use super::info::{DeviceInfo, Kind, Physical, device_heap, physical_devices};
use super::instance::Instance;
use super::matrix::Features;
use super::memory;
use super::pipelines::Pipelines;
use super::selection::Selection;
use super::simulation::{FaultPoint, Injector, Simulation};
use super::statistics::Statistics;
use super::validation;
use crate::error::{Error, Result};
use crate::precision::Precision;
use crate::recording::{MatrixUnits, Program, Traits};

/// How long one submit may take: a quarter of what desktops allow before they reset a device (two seconds on
/// Windows), because times vary.
const LONGEST_SUBMIT: Duration = Duration::from_millis(500);

/// An open device. Programs loaded on it share its memory and its pipelines, and run in the order of
/// their submits on its one queue.
pub struct Device {
    info: DeviceInfo,
    physical: vk::PhysicalDevice,
    memory_budget: bool,
    queue_family: u32,
    /// Vulkan asks that one thread at a time uses a queue.
    queue: Mutex<vk::Queue>,
    pipelines: Mutex<Pipelines>,
    /// `None` only while the device is being destroyed.
    allocator: Mutex<Option<Allocator>>,
    names: Option<ext::debug_utils::Device>,
    longest_submit: Duration,
    /// There only in tests that count or fail calls.
    injector: Option<Injector>,
    pub(super) raw: ash::Device,
    /// Last, because it must outlive everything above.
    instance: Instance,
}

impl Device {
    /// Opens a device, with the validation layer if `validation` is true or `HLX_VALIDATION=1` is set.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if there is no such device or it cannot keep the exact contract,
    /// [`Error::Usage`] if the selection fits several, [`Error::Input`] if the validation layer is
    /// asked for and not installed, [`Error::Device`] if the driver fails.
    pub fn open(selection: &Selection, validation: bool) -> Result<Arc<Self>> {
        Self::open_worse(selection, validation, None)
    }

    /// The same for a device made worse than it is.
    #[doc(hidden)]
    pub fn open_simulated(
        selection: &Selection,
        validation: bool,
        simulation: Simulation,
    ) -> Result<Arc<Self>> {
        Self::open_worse(selection, validation, Some(simulation))
    }

    fn open_worse(
        selection: &Selection,
        validation: bool,
        simulation: Option<Simulation>,
    ) -> Result<Arc<Self>> {
        let instance = Instance::new(validation || validation::wanted_by_environment())?;
        let mut found = physical_devices(&instance)?;
        if let Some(lower) = simulation.and_then(|simulation| simulation.lower) {
            found.iter_mut().for_each(|physical| physical.info.lower(lower));
        }
        let infos: Vec<DeviceInfo> = found.iter().map(|physical| physical.info.clone()).collect();
        let physical = found.swap_remove(selection.choose(&infos)?);
        Self::create(instance, physical, simulation).map(Arc::new)
    }

    fn create(instance: Instance, physical: Physical, simulation: Option<Simulation>) -> Result<Self> {
        let family = physical.queue_family.expect("a usable device has a queue that computes");
        let raw = create_logical(&instance, &physical, family)?;
        // From here on `raw` is destroyed by `Drop`, whatever fails.
        let names = instance.validates().then(|| ext::debug_utils::Device::new(&instance.raw, &raw));
        let device = Device {
            info: physical.info,
            physical: physical.raw,
            memory_budget: physical.memory_budget,
            queue_family: family,
            queue: Mutex::new(unsafe { raw.get_device_queue(family, 0) }),
            pipelines: Mutex::new(Pipelines::default()),
            allocator: Mutex::new(None),
            names,
            longest_submit: simulation.and_then(|s| s.longest_submit).unwrap_or(LONGEST_SUBMIT),
            injector: simulation.map(|simulation| Injector::new(simulation.fault)),
            raw,
            instance,
        };
        let allocator = Allocator::new(&AllocatorCreateDesc {
            instance: device.instance.raw.clone(),
            device: device.raw.clone(),
            physical_device: device.physical,
            debug_settings: AllocatorDebugSettings::default(),
            buffer_device_address: device.info.addresses,
            allocation_sizes: memory::block_sizes(),
        });
        let allocator =
            allocator.map_err(|e| Error::Device(format!("the memory allocator did not start: {e}")))?;
        *lock(&device.allocator) = Some(allocator);
        let statistics = Statistics::wanted(&device.instance, &device.raw, physical.kernel_statistics);
        lock(&device.pipelines).start(&device.raw, statistics, physical.pipeline_robustness)?;
        Ok(device)
    }

    /// What the device is and offers.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// What a recording made for this device may know, in `exact` precision.
    pub fn traits(&self) -> Traits {
        let shared_memory_bytes = self.info.shared_memory_bytes as usize;
        // All kernels for matrix units are outside the exact contract.
        let usable =
            |units: Option<MatrixUnits>| units.filter(|_| shared_memory_bytes >= Traits::FAST_SHARED_BYTES);
        Traits {
            precision: Precision::Exact,
            fast_shared_memory: self.info.kind != Kind::Cpu,
            lanes: if self.info.subgroup_shuffles { self.info.subgroup_size } else { 0 },
            moves_pairs: self.info.int64,
            addresses: self.info.addresses,
            max_view_words: (self.info.max_storage_range_bytes / 4) as usize,
            shared_memory_bytes,
            matrix_units: usable(self.info.matrix_units),
            half_units: usable(self.info.half_units),
        }
    }

    /// Bytes of the device's own memory that this process may still take: what the driver says if it
    /// says so, else the size of the largest heap.
    pub fn memory_budget_bytes(&self) -> u64 {
        let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        let mut memory = vk::PhysicalDeviceMemoryProperties2::default();
        if self.memory_budget {
            memory = memory.push_next(&mut budget);
        }
        unsafe { self.instance.raw.get_physical_device_memory_properties2(self.physical, &mut memory) };
        let memory = memory.memory_properties;
        match device_heap(&memory) {
            None => 0,
            Some(heap) if self.memory_budget => {
                budget.heap_budget[heap].saturating_sub(budget.heap_usage[heap])
            }
            Some(heap) => memory.memory_heaps[heap].size,
        }
    }

    /// The first limit of this device that a program goes past, as a sentence; loading the program would
    /// fail.
    pub fn past_limit(&self, program: &Program) -> Option<String> {
        past_limit(program, &self.info)
    }

    /// Calls of the driver so far, in the order of [`FaultPoint::ALL`], if they are counted.
    #[doc(hidden)]
    pub fn calls(&self) -> Option<[u64; FaultPoint::ALL.len()]> {
        self.injector.as_ref().map(Injector::calls)
    }

    /// What the next call at this point comes to, before the driver is asked.
    pub(super) fn meet(&self, point: FaultPoint) -> std::result::Result<(), vk::Result> {
        self.injector.as_ref().map_or(Ok(()), |injector| injector.meet(point))
    }

    /// How long one submit may take.
    pub(super) fn longest_submit(&self) -> Duration {
        self.longest_submit
    }

    /// What the validation layer has said about this device so far, oldest first.
    pub fn validation_messages(&self) -> Vec<String> {
        self.instance.messages().texts()
    }

    pub(super) fn queue_family(&self) -> u32 {
        self.queue_family
    }

    pub(super) fn pipelines(&self) -> MutexGuard<'_, Pipelines> {
        lock(&self.pipelines)
    }

    /// Runs `work` with the memory allocator.
    pub(super) fn with_allocator<T>(&self, work: impl FnOnce(&mut Allocator) -> T) -> T {
        work(lock(&self.allocator).as_mut().expect("the allocator lives as long as the device"))
    }

    /// Hands command buffers to the queue; `semaphore` reaches `value` when they are done.
    pub(super) fn submit(
        &self,
        commands: &[vk::CommandBuffer],
        semaphore: vk::Semaphore,
        value: u64,
    ) -> Result<()> {
        let (semaphores, values) = ([semaphore], [value]);
        let mut timeline = vk::TimelineSemaphoreSubmitInfo::default().signal_semaphore_values(&values);
        let info = vk::SubmitInfo::default()
            .command_buffers(commands)
            .signal_semaphores(&semaphores)
            .push_next(&mut timeline);
        self.meet(FaultPoint::Submit).map_err(failed("submit work"))?;
        let queue = lock(&self.queue);
        unsafe { self.raw.queue_submit(*queue, &[info], vk::Fence::null()) }.map_err(failed("submit work"))
    }

    /// Waits until the device does nothing, or has failed.
    pub(super) fn wait_idle(&self) {
        let _queue = lock(&self.queue);
        let _ = unsafe { self.raw.device_wait_idle() };
    }

    /// Names an object in what the validation layer says.
    pub(super) fn name<T: vk::Handle>(&self, object: T, name: &str) {
        let (Some(names), Ok(name)) = (&self.names, CString::new(name)) else { return };
        let info = vk::DebugUtilsObjectNameInfoEXT::default().object_handle(object).object_name(&name);
        // A name that cannot be set costs a message its clarity, and nothing else.
        let _ = unsafe { names.set_debug_utils_object_name(&info) };
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.wait_idle();
        // SAFETY: every program holds this device in an `Arc`, so all of theirs is gone already.
        unsafe {
            lock(&self.pipelines).destroy(&self.raw);
            *lock(&self.allocator) = None;
            self.raw.destroy_device(None);
        }
    }
}

/// Locks, whatever another thread's panic left behind: the state inside is valid between any two calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn create_logical(instance: &Instance, physical: &Physical, family: u32) -> Result<ash::Device> {
    let priorities = [1.0];
    let queues =
        [vk::DeviceQueueCreateInfo::default().queue_family_index(family).queue_priorities(&priorities)];
    let mut extensions: Vec<*const c_char> = Vec::new();
    if physical.portability_subset {
        extensions.push(khr::portability_subset::NAME.as_ptr());
    }
    let mut vk11 = vk::PhysicalDeviceVulkan11Features::default();
    let mut vk12 = vk::PhysicalDeviceVulkan12Features::default()
        .timeline_semaphore(true)
        .buffer_device_address(physical.info.addresses);
    let units = physical.info.matrix_units.map(Features::of);
    if let Some((_, names)) = &units {
        extensions.extend(names.iter().map(|name| name.as_ptr()));
        vk11.storage_buffer16_bit_access = vk::TRUE;
        vk12.shader_float16 = vk::TRUE;
        vk12.vulkan_memory_model = vk::TRUE;
        vk12.vulkan_memory_model_device_scope = vk::TRUE;
    }
    let mut features = units.map(|(features, _)| features);
    let mut statistics =
        vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
    if physical.kernel_statistics {
        extensions.push(khr::pipeline_executable_properties::NAME.as_ptr());
    }
    let core = vk::PhysicalDeviceFeatures::default().shader_int64(physical.info.int64);
    let mut robustness = vk::PhysicalDevicePipelineRobustnessFeaturesEXT::default().pipeline_robustness(true);
    if physical.pipeline_robustness {
        extensions.push(ext::pipeline_robustness::NAME.as_ptr());
    }
    let mut info = vk::DeviceCreateInfo::default()
        .enabled_features(&core)
        .queue_create_infos(&queues)
        .enabled_extension_names(&extensions)
        .push_next(&mut vk11)
        .push_next(&mut vk12);
    if let Some(features) = &mut features {
        info = features.chain(info);
    }
    if physical.kernel_statistics {
        info = info.push_next(&mut statistics);
    }
    if physical.pipeline_robustness {
        info = info.push_next(&mut robustness);
    }
    unsafe { instance.raw.create_device(physical.raw, &info, None) }
        .map_err(failed(&format!("open {}", physical.info.name)))
}
