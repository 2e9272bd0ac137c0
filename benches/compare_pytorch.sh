#!/bin/sh
# hlx beside PyTorch on this machine, in turns, so that both see the same noise.
#
#   benches/compare_pytorch.sh PYTHON [ROUNDS]
#
# PYTHON is an interpreter that has torch. Each round measures PyTorch and hlx's CPU executor, and
# software Vulkan (or HLX_DEVICE, as --device takes it) where there is one.
set -eu
cd "$(dirname "$0")/.."

python=${1:?give a Python interpreter that has torch}
rounds=${2:-3}
device=${HLX_DEVICE:-llvmpipe}

cargo bench --quiet --no-run
for round in $(seq "$rounds"); do
    echo "== round $round"
    "$python" benches/pytorch_step.py
    cargo bench --quiet --bench step
    cargo bench --quiet --bench step -- vulkan "$device"
done
