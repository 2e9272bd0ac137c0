#!/bin/sh
# The full runs behind docs/RELIABILITY.md: the tests of faults, kills, power cuts, corruption, hostile
# files and failing devices with all their repetitions. Prints each count with the date; about half an hour
# on two cores.
set -eu
cd "$(dirname "$0")/.."

# The faults of devices are too many for the validation layer, which the quick runs have.
HLX_RELIABILITY=full HLX_FAULTS=all HLX_TEST_VALIDATION=0
export HLX_RELIABILITY HLX_FAULTS HLX_TEST_VALIDATION
log=$(mktemp)
trap 'rm -f "$log"' EXIT

echo "hlx $(cargo pkgid | sed 's/.*[#@]//'), $(git rev-parse --short HEAD 2>/dev/null || echo 'no commit'), $(uname -sm)"
for test in storage_faults new_options kill power_cut corruption loaders faults not_finite limits device_faults recover \
    verify retrace kept_checkpoints kept_step; do
    echo "$(date -u +%Y-%m-%d) $test"
    if ! cargo test --release --quiet --test "$test" -- --nocapture >"$log" 2>&1; then
        cat "$log" >&2
        echo "$test failed" >&2
        exit 1
    fi
    sed -n 's/^result: /    /p' "$log"
done
