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
             longer than the system allows. Resume from the last checkpoint; if it happens again, lower \
             --batch-size, update the graphics driver, or use --device cpu"
        ),
        vk::Result::ERROR_OUT_OF_DEVICE_MEMORY | vk::Result::ERROR_OUT_OF_HOST_MEMORY => {
            format!("out of memory (trying to {action}): {result:?}. Lower --batch-size or --context")
        }
        _ => format!("the Vulkan driver could not {action}: {result:?}"),
    }
}

/// Bytes as a person reads them, in binary units.
pub(super) fn readable_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_readable() {
        assert_eq!(readable_bytes(1023), "1023 bytes");
        assert_eq!(readable_bytes(1536), "1.5 KiB");
        assert_eq!(readable_bytes(3 << 30), "3.0 GiB");
    }

    #[test]
    fn a_lost_device_says_what_to_do() {
        let Error::Device(text) = failed("submit")(vk::Result::ERROR_DEVICE_LOST) else {
            panic!("another error")
        };
        assert!(text.contains("Resume from the last checkpoint"), "{text}");
    }
}
