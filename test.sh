#!/bin/sh
# Runs every test. The Vulkan tests need Mesa's software driver, the Vulkan validation layer and spirv-val:
# what is missing is installed where a package manager and the rights for it are there; else the tests themselves
# fail and name it. Arguments go to `cargo test`.
set -eu
cd "$(dirname "$0")"

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_for_vulkan() {
    if command -v apt-get >/dev/null; then
        missing=
        for package in libvulkan1 mesa-vulkan-drivers vulkan-validationlayers spirv-tools; do
            dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
        done
        [ -z "$missing" ] && return
        echo "installing$missing" >&2
        as_root apt-get update -qq
        # shellcheck disable=SC2086 # one word a package
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $missing
    elif command -v dnf >/dev/null; then
        as_root dnf install -q -y vulkan-loader mesa-vulkan-drivers vulkan-validation-layers spirv-tools
    elif command -v pacman >/dev/null; then
        as_root pacman -S --needed --noconfirm vulkan-icd-loader vulkan-swrast vulkan-validation-layers spirv-tools
    else
        echo "no package manager known here: install software Vulkan and the validation layer by hand" >&2
    fi
}

install_for_vulkan || echo "that failed: the Vulkan tests below fail too if something is missing" >&2
[ -d ../shared/baselines ] || echo "without ../shared/baselines only the small baseline of PyTorch is followed" >&2
exec cargo test --release "$@"
