#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `make bench`: measure this machine's GPU (bench/report.py says what) and draw the result, or, where there is none that
# w4a16 can use, time the CPU.
#
#   W4A16_BUILD=build/release W4A16_PYTHON=build/venv/bin/python tools/bench.sh [OPTION of bench/report.py]...
#
# W4A16_BUILD   the build folder
# W4A16_PYTHON  Python with matplotlib, for the plots (default: python3)
set -eu
cd "$(dirname "$0")/.."

build=${W4A16_BUILD:-build/release}
python=${W4A16_PYTHON:-python3}
"$python" -c '' 2>/dev/null || python=python3

code=0
said=$("$python" bench/report.py --programs "$build" "$@") || code=$?
case $code in
0 | 1)
    [ -z "$said" ] && exit $code
    echo "$said"
    report=${said##* }
    mkdir -p "$build/plots"
    if "$python" tools/plot_report.py "$report" --plots "$build/plots"; then
        echo "plots: $build/plots; in the documents, too:"
        echo "    $python tools/plot_report.py $report --plots docs/plots --tables README.md docs/benchmarks.md"
    fi
    "$python" tools/plot_report.py "$report"
    exit $code
    ;;
3)
    echo "no GPU to measure: timing the CPU instead"
    "$build/cli/w4a16" bench --device cpu -m 1,2,4,8,16,32,64,128,512 -n 4096 -k 14336 --group-size 128 \
        --csv build/bench.csv --force
    ;;
*) exit $code ;;
esac
