//! What a failed Vulkan call means to the user.

use ash::vk;

use crate::error::Error;

/// For `map_err` on Vulkan calls: `.map_err(failed("create a semaphore"))`.
pub(super) fn failed(action: &str) -> impl FnOnce(vk::Result) -> Error + '_ {
    move |result| Error::Device(sentence(action, result))
}

fn sentence(action: &str, result: vk::Result) -> String {
    match result {
        vk::Result::ERROR_DEVICE_LOST => format!(
            "the device was lost (trying to {action}): its driver crashed, was reset, or one submit ran \
             longer than the system allows. Resume from the last checkpoint if it was training, or start \
             again; if it happens again, lower --batch-size, update the graphics driver, or use --device cpu"
        ),
        vk::Result::ERROR_OUT_OF_DEVICE_MEMORY | vk::Result::ERROR_OUT_OF_HOST_MEMORY => {
            format!("out of memory (trying to {action}): {result:?}. Lower --batch-size or --context")
        }
        _ => format!("the Vulkan driver could not {action}: {result:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_device_says_what_to_do() {
        let Error::Device(text) = failed("submit")(vk::Result::ERROR_DEVICE_LOST) else {
            panic!("another error")
        };
        assert!(text.contains("Resume from the last checkpoint"), "{text}");
    }
}
