#!/bin/sh
# The full runs behind docs/RELIABILITY.md: the tests of faults, kills, power cuts, corruption, hostile files and
# failing devices with all their repetitions, two at a time. Prints a table of the counts in the end; a part that
# fails is shown, the others go on, and the exit code is then not 0. Names of parts as arguments run these alone.
set -u
cd "$(dirname "$0")/.."

# Where a part is one test of many in a file, the words after its name choose it. Long ones come first.
parts="device_faults kill loaders:text loaders:tensors storage_faults verify corruption limits power_cut \
not_finite retrace kept_checkpoints kept_step recover new_options admission faults checkpoint resume gemm exact_kernels"
[ $# -gt 0 ] && parts="$*"

# The faults of devices are too many for the validation layer, which the quick runs have. The models are so small
# that more threads than one make them slower.
export HLX_RELIABILITY=full HLX_FAULTS=all HLX_TEST_VALIDATION=0 RAYON_NUM_THREADS=1
HLX_LOGS=$(mktemp -d)
export HLX_LOGS
trap 'rm -rf "$HLX_LOGS"' EXIT
trap 'exit 130' INT TERM

tests=
for part in $parts; do tests="$tests --test ${part%%:*}"; done
# shellcheck disable=SC2086 # one word a test
cargo test --release --quiet --no-run $tests || exit 1

# One part: its output, its seconds and its outcome go into files of its name.
cat >"$HLX_LOGS/run" <<'END'
part=$1
case $part in *:*) HLX_LOADERS=${part#*:}; export HLX_LOADERS ;; esac
log=$HLX_LOGS/$part
start=$(date +%s)
if cargo test --release --quiet --test "${part%%:*}" -- --nocapture >"$log" 2>&1; then outcome=ok; else outcome=FAILED; fi
echo "$(($(date +%s) - start)) $outcome" >"$log.end"
echo "$(date -u +%H:%M:%S) $part: $outcome" >&2
if [ "$outcome" != ok ]; then cat "$log" >&2; fi
END

start=$(date +%s)
# shellcheck disable=SC2086 # one word a part
printf '%s\n' $parts | xargs -P 2 -n 1 sh "$HLX_LOGS/run"

echo
echo "hlx $(cargo pkgid | sed 's/.*[#@]//'), $(git rev-parse --short HEAD 2>/dev/null || echo 'no commit')," \
    "$(uname -sm), $(date -u +%Y-%m-%d), $((($(date +%s) - start + 59) / 60)) minutes"
echo
echo "| part | what | count | seconds | outcome |"
echo "|---|---|---|---|---|"
failed=0
for part in $parts; do
    read -r seconds outcome <"$HLX_LOGS/$part.end" || outcome='did not run'
    [ "$outcome" = ok ] || failed=1
    # The lines of results, or else how many tests passed; the part's time and outcome stand in its first line.
    { sed -n 's/^result: //p' "$HLX_LOGS/$part"
      sed -n 's/^test result: ok\. \([0-9]*\) passed.*/tests passed: \1/p' "$HLX_LOGS/$part"; } |
        awk -v part="$part" -v seconds="${seconds:-}" -v outcome="$outcome" '
            { at = match($0, /: [^:]*$/); what = substr($0, 1, at - 1); count = substr($0, at + 2) }
            { printf "| %s | %s | %s | %s | %s |\n", part, what, count, seconds, outcome; part = seconds = outcome = "" }
            END { if (NR == 0) printf "| %s | | | %s | %s |\n", part, seconds, outcome }'
done
exit $failed
