#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Format every C and CUDA file, or with --check only name those that would change. Needs clang-format 14: other
# versions format a few constructs differently.
set -eu
cd "$(dirname "$0")/.."
for tool in clang-format-14 clang-format none; do
    command -v $tool >/dev/null 2>&1 && $tool --version | grep -q 'version 14\.' && break
done
if [ $tool = none ]; then
    echo "clang-format 14 is missing: apt-get install clang-format-14" >&2
    exit 1
fi
# Tracked files, and new ones that git does not ignore; outside a checkout, everything but build/.
files=$(git ls-files -co --exclude-standard -- '*.c' '*.h' '*.cu' '*.cuh' 2>/dev/null ||
    find . -path ./build -prune -o \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) -print)
if [ "${1:-}" = --check ]; then
    # shellcheck disable=SC2086
    $tool --dry-run -Werror $files && echo "formatted: $(echo "$files" | wc -l) files"
else
    # shellcheck disable=SC2086
    $tool -i $files
fi
