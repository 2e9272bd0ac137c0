//! The Khronos validation layer: switched on with synchronization checks, its messages counted and logged.
//!
//! What the layer takes from the environment only is set in `.cargo/config.toml`: setting it here would race
//! with whatever reads the environment outside Rust.

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ash::{ext, vk};

use super::failure::failed;
use crate::error::{Error, Result};

pub(super) const LAYER: &CStr = c"VK_LAYER_KHRONOS_validation";

/// Texts kept for [`Messages::texts`]; the count goes on after that.
const TEXTS_KEPT: usize = 256;

static MESSAGES: AtomicU64 = AtomicU64::new(0);

/// Warnings and errors that the validation layer has given in this process so far.
pub fn validation_messages() -> u64 {
    MESSAGES.load(Ordering::Relaxed)
}

/// True if the environment asks for validation: `HLX_VALIDATION=1`.
pub(super) fn wanted_by_environment() -> bool {
    std::env::var_os("HLX_VALIDATION").is_some_and(|value| value == "1")
}

/// What the validation layer said about one instance.
#[derive(Default)]
pub(super) struct Messages {
    texts: Mutex<Vec<String>>,
}

impl Messages {
    pub fn texts(&self) -> Vec<String> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, text: String) {
        MESSAGES.fetch_add(1, Ordering::Relaxed);
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if texts.len() < TEXTS_KEPT {
            texts.push(text);
        }
    }
}

/// How the installed layer is told to check synchronization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// `VK_EXT_layer_settings`, since 2023.
    LayerSettings,
    /// `VkValidationFeaturesEXT`, before that.
    ValidationFeatures,
}

/// Finds out how to switch the layer on, or says how to install it.
pub(super) fn find_layer(entry: &ash::Entry) -> Result<Switch> {
    let layers =
        unsafe { entry.enumerate_instance_layer_properties() }.map_err(failed("list the Vulkan layers"))?;
    if !layers.iter().any(|layer| layer.layer_name_as_c_str() == Ok(LAYER)) {
        return Err(Error::Input(
            "validation was asked for, but the Vulkan validation layer is not installed: install it (Debian \
             and Ubuntu: apt install vulkan-validationlayers; elsewhere: the Vulkan SDK) or unset \
             HLX_VALIDATION"
                .to_owned(),
        ));
    }
    let extensions = unsafe { entry.enumerate_instance_extension_properties(Some(LAYER)) }
        .map_err(failed("list the validation layer's extensions"))?;
    let offers = |name: &CStr| extensions.iter().any(|e| e.extension_name_as_c_str() == Ok(name));
    if offers(ext::layer_settings::NAME) {
        Ok(Switch::LayerSettings)
    } else if offers(ext::validation_features::NAME) {
        Ok(Switch::ValidationFeatures)
    } else {
        Err(Error::Input(
            "the installed Vulkan validation layer is too old to check synchronization: install version \
             1.2.135 or later"
                .to_owned(),
        ))
    }
}

/// What is hooked into `vkCreateInstance`, and into the messenger afterwards. `messages` must live
/// longer than both.
pub(super) fn messenger_info(messages: &Arc<Messages>) -> vk::DebugUtilsMessengerCreateInfoEXT<'static> {
    use vk::{DebugUtilsMessageSeverityFlagsEXT as Severity, DebugUtilsMessageTypeFlagsEXT as Type};
    vk::DebugUtilsMessengerCreateInfoEXT::default()
        .message_severity(Severity::ERROR | Severity::WARNING)
        .message_type(Type::VALIDATION | Type::GENERAL)
        .pfn_user_callback(Some(on_message))
        .user_data(Arc::as_ptr(messages).cast_mut().cast())
}

unsafe extern "system" fn on_message(
    severity: vk::DebugUtilsMessageSeverityFlagsEXT,
    types: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    messages: *mut c_void,
) -> vk::Bool32 {
    // SAFETY: Vulkan gives valid callback data, and `messenger_info` gave the pointer to `Messages`,
    // which the instance owns for longer than the messenger.
    let (data, messages) = unsafe { (&*data, &*messages.cast::<Messages>()) };
    let text =
        unsafe { data.message_as_c_str() }.map_or_else(String::new, |t| t.to_string_lossy().into_owned());
    // The loader and drivers also speak here, about the machine (GENERAL); hlx answers for VALIDATION.
    if !types.contains(vk::DebugUtilsMessageTypeFlagsEXT::VALIDATION) {
        tracing::debug!(target: "vulkan", "{text}");
    } else {
        if severity.contains(vk::DebugUtilsMessageSeverityFlagsEXT::ERROR) {
            tracing::error!(target: "vulkan", "{text}");
        } else {
            tracing::warn!(target: "vulkan", "{text}");
        }
        messages.add(text);
    }
    vk::FALSE
}
