#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run a Python oracle: tests/oracle.sh PYTHON SCRIPT [ARG...]. Without its packages the test is skipped (77), which a
# CI run must not do silently: there it fails.
python=$1
shift
if ! "$python" -c 'import numpy, safetensors' 2>/dev/null; then
    echo "oracle tests need numpy and safetensors for $python: run tools/setup.sh, or set W4A16_PYTHON"
    [ "$CI" = true ] && exit 1
    exit 77
fi
if [ -n "$W4A16_PRELOAD" ]; then
    # The interpreter leaks by design; programs of ours that it starts are not asked either.
    LD_PRELOAD=$W4A16_PRELOAD ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0 exec "$python" -B "$@"
fi
exec "$python" -B "$@"
