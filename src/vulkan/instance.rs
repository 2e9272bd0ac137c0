//! The Vulkan loader and the instance: where everything Vulkan starts.

use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;

use ash::{ext, khr, vk};

use super::failure::failed;
use super::validation::{self, Messages, Switch};
use crate::error::{Error, Result};

/// A Vulkan instance, with a messenger if validation is on. Destroyed when dropped.
pub(super) struct Instance {
    pub raw: ash::Instance,
    messenger: Option<(ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT)>,
    messages: Arc<Messages>,
    /// The loader; its library stays in memory as long as this.
    pub entry: ash::Entry,
}

impl Instance {
    /// Starts Vulkan 1.2, with the validation layer if asked for.
    pub fn new(validation: bool) -> Result<Self> {
        let entry = load()?;
        require_version(&entry)?;
        let switch = if validation { Some(validation::find_layer(&entry)?) } else { None };
        let messages = Arc::new(Messages::default());
        let raw = create(&entry, switch, &messages)?;
        let mut instance = Instance { raw, messenger: None, messages, entry };
        if validation {
            instance.start_messenger()?;
        }
        Ok(instance)
    }

    /// True if the validation layer watches this instance.
    pub fn validates(&self) -> bool {
        self.messenger.is_some()
    }

    /// What the validation layer said so far.
    pub fn messages(&self) -> &Messages {
        &self.messages
    }

    fn start_messenger(&mut self) -> Result<()> {
        let functions = ext::debug_utils::Instance::new(&self.entry, &self.raw);
        let info = validation::messenger_info(&self.messages);
        let messenger = unsafe { functions.create_debug_utils_messenger(&info, None) }
            .map_err(failed("listen to the validation layer"))?;
        self.messenger = Some((functions, messenger));
        Ok(())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: every device of this instance has been destroyed: each owns its instance.
        unsafe {
            if let Some((functions, messenger)) = self.messenger.take() {
                functions.destroy_debug_utils_messenger(messenger, None);
            }
            self.raw.destroy_instance(None);
        }
    }
}

/// Opens the loader's library.
fn load() -> Result<ash::Entry> {
    // SAFETY: the Vulkan loader's initialization has no requirement on its caller.
    let entry = unsafe { ash::Entry::load() };
    #[cfg(target_os = "macos")]
    let entry = entry.or_else(|error| {
        // Homebrew and the Vulkan SDK install where the dynamic linker does not look by itself.
        ["/opt/homebrew/lib/libvulkan.dylib", "/usr/local/lib/libvulkan.dylib", "libMoltenVK.dylib"]
            .iter()
            .find_map(|path| unsafe { ash::Entry::load_from(path) }.ok())
            .ok_or(error)
    });
    entry.map_err(|_| {
        Error::NoDevice(
            "there is no Vulkan on this machine: install your graphics card's driver, or for software Vulkan \
             Mesa's (Debian and Ubuntu: apt install libvulkan1 mesa-vulkan-drivers; macOS: brew install \
             molten-vk vulkan-loader), or use --device cpu"
                .to_owned(),
        )
    })
}

fn require_version(entry: &ash::Entry) -> Result<()> {
    let version = unsafe { entry.try_enumerate_instance_version() }
        .map_err(failed("say its version"))?
        .unwrap_or(vk::API_VERSION_1_0);
    if version < vk::API_VERSION_1_2 {
        return Err(Error::NoDevice(format!(
            "the Vulkan loader is version {}.{}, and 1.2 is needed: update the graphics driver or the \
             loader, or use --device cpu",
            vk::api_version_major(version),
            vk::api_version_minor(version)
        )));
    }
    Ok(())
}

fn create(entry: &ash::Entry, switch: Option<Switch>, messages: &Arc<Messages>) -> Result<ash::Instance> {
    let offered = unsafe { entry.enumerate_instance_extension_properties(None) }
        .map_err(failed("list the instance's extensions"))?;
    let offers = |name: &CStr| offered.iter().any(|e| e.extension_name_as_c_str() == Ok(name));

    let mut extensions: Vec<*const c_char> = Vec::new();
    let mut flags = vk::InstanceCreateFlags::empty();
    // MoltenVK on macOS is listed only to those who ask for drivers that are not fully conformant.
    if offers(khr::portability_enumeration::NAME) {
        extensions.push(khr::portability_enumeration::NAME.as_ptr());
        flags |= vk::InstanceCreateFlags::ENUMERATE_PORTABILITY_KHR;
    }
    let application = vk::ApplicationInfo::default()
        .application_name(c"hlx")
        .engine_name(c"hlx")
        .api_version(vk::API_VERSION_1_3);

    let layers = [validation::LAYER.as_ptr()];
    let mut messenger = validation::messenger_info(messages);
    let enabled = [vk::ValidationFeatureEnableEXT::SYNCHRONIZATION_VALIDATION];
    let mut features = vk::ValidationFeaturesEXT::default().enabled_validation_features(&enabled);
    let on = vk::TRUE;
    let setting = vk::LayerSettingEXT {
        value_count: 1,
        p_values: (&raw const on).cast::<c_void>(),
        ..vk::LayerSettingEXT::default()
            .layer_name(validation::LAYER)
            .setting_name(c"validate_sync")
            .ty(vk::LayerSettingTypeEXT::BOOL32)
    };
    let settings_list = [setting];
    let mut settings = vk::LayerSettingsCreateInfoEXT::default().settings(&settings_list);

    let mut info = vk::InstanceCreateInfo::default().application_info(&application);
    if let Some(switch) = switch {
        info = info.enabled_layer_names(&layers).push_next(&mut messenger);
        extensions.push(ext::debug_utils::NAME.as_ptr());
        match switch {
            Switch::LayerSettings => {
                extensions.push(ext::layer_settings::NAME.as_ptr());
                info = info.push_next(&mut settings);
            }
            Switch::ValidationFeatures => {
                extensions.push(ext::validation_features::NAME.as_ptr());
                info = info.push_next(&mut features);
            }
        }
    }
    let info = info.flags(flags).enabled_extension_names(&extensions);
    // SAFETY: everything that `info` points to lives until the end of this function.
    unsafe { entry.create_instance(&info, None) }.map_err(|result| match result {
        vk::Result::ERROR_INCOMPATIBLE_DRIVER => no_driver(),
        other => failed("start")(other),
    })
}

/// The loader is there, but no driver behind it.
pub(super) fn no_driver() -> Error {
    Error::NoDevice(
        "there is no Vulkan driver on this machine: install your graphics card's driver, or Mesa's software \
         Vulkan (Debian and Ubuntu: apt install mesa-vulkan-drivers), or use --device cpu"
            .to_owned(),
    )
}
