#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run a program and compare both its exit code and its output: expect.sh CODE TEXT PROGRAM [ARG...]
wanted=$1
text=$2
shift 2
output=$("$@" 2>&1)
code=$?
printf '%s\n' "$output"
[ "$code" = "$wanted" ] || { echo "exit code $code, not $wanted"; exit 1; }
case $output in
*"$text"*) ;;
*) echo "not in the output: $text"; exit 1 ;;
esac
