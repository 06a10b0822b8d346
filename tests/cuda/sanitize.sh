#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run cuda_gemm's reduced tests under compute-sanitizer, on a machine with a GPU: small shapes of every kind, every config.
#   sanitize.sh BUNDLE_DIR [memcheck|racecheck|synccheck|initcheck]...
# BUNDLE_DIR is what the target cuda_bundle makes; without a tool, all four. One line a tool with the number of errors;
# the whole output is in BUNDLE_DIR/sanitize-TOOL.log. Exit code 1 where a tool found anything or a test failed.
# W4A16_TEST_CONFIG=TEXT keeps only the configs whose names hold TEXT; COMPUTE_SANITIZER names another sanitizer.
set -u
if [ $# -lt 1 ] || [ ! -x "$1/cuda_gemm" ]; then
    echo "usage: sanitize.sh BUNDLE_DIR [TOOL...]; BUNDLE_DIR must hold cuda_gemm" >&2
    exit 2
fi
folder=$1
shift
[ $# -gt 0 ] || set -- memcheck racecheck synccheck initcheck
sanitizer=${COMPUTE_SANITIZER:-compute-sanitizer}
if ! command -v "$sanitizer" >/dev/null; then
    sanitizer=/usr/local/cuda/bin/compute-sanitizer
    if ! [ -x "$sanitizer" ]; then
        echo "sanitize.sh: no compute-sanitizer in PATH or /usr/local/cuda/bin; COMPUTE_SANITIZER may name one" >&2
        exit 2
    fi
fi

failed=0
for tool in "$@"; do
    log=$folder/sanitize-$tool.log
    begin=$(date +%s)
    code=0
    W4A16_TEST_REDUCED=1 LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" \
        "$sanitizer" --tool "$tool" --error-exitcode 86 "$folder/cuda_gemm" >"$log" 2>&1 || code=$?
    seconds=$(($(date +%s) - begin))
    # The last summary counts: "ERROR SUMMARY: 0 errors", "RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)".
    count=$(sed -n 's/^=* *[A-Z]* SUMMARY: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    passed=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$log" | tail -n 1)
    echo "$tool: ${count:-no summary, so unknown} errors, exit code $code, ${passed:-0} tests passed, $seconds s ($log)"
    # A tool that saw nothing proves nothing: the tests must have run, too.
    if [ "${count:-1}" -ne 0 ] || [ "$code" -ne 0 ] || [ "${passed:-0}" -eq 0 ]; then failed=1; fi
done
exit $failed
