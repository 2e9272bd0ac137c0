#!/bin/sh
# hlx beside PyTorch on this machine, in turns, so that both see the same noise.
#
#   benches/compare_pytorch.sh [--device cpu|cuda] [--budget SECONDS] [--rounds N] [--list] [ROW ...]
#
# Needs an interpreter with torch (PYTHON, else python3) and hlx: HLX, else target/release/hlx, else an hlx
# on the path. Nothing is built and nothing is fetched. benches/compare_pytorch.py --help has the rest.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
hlx=${HLX:-$here/../target/release/hlx}
[ -x "$hlx" ] || hlx=$(command -v hlx) || {
    echo "there is no hlx: build it with cargo build --release, or name it in HLX" >&2
    exit 1
}
exec "${PYTHON:-python3}" "$here/compare_pytorch.py" --hlx "$hlx" "$@"
