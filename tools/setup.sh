#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Set-up for a fresh Debian machine; quiet and quick where nothing is missing.
#
#   tools/setup.sh packages       what building and testing need
#   tools/setup.sh packages ci    also what formatting, sanitizers and fuzzing need (clang and its tools)
#   tools/setup.sh python         numpy, safetensors, matplotlib in build/venv, as pinned in tools/requirements.txt
#
# Packages are installed where this user may (root, or sudo without a password); otherwise the one line to type is
# printed and the exit code is 1. Without a network `python` only says so (with CI=true: exit code 1).
set -u
cd "$(dirname "$0")/.." || exit 1

has() { command -v "$1" >/dev/null 2>&1; }
compiles() { echo 'int main(void) { return 0; }' | "$@" -x c - -o /dev/null 2>/dev/null; }
pkg() { has pkg-config && pkg-config --exists "$1"; }
python_with_venv() {
    for python in python3 /usr/bin/python3; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return 0
        fi
    done
    return 1
}

missing_packages() {
    compiles gcc || compiles "${CC:-gcc}" || echo gcc libc6-dev
    has cmake || echo cmake
    has ninja || echo ninja-build
    has pkg-config || echo pkg-config
    pkg jansson || echo libjansson-dev
    pkg cmocka || echo libcmocka-dev
    python_with_venv >/dev/null || echo python3 python3-venv
    [ "$1" = ci ] || return 0
    compiles g++ || echo g++
    compiles clang || echo clang
    has clang-format-14 || { has clang-format && clang-format --version | grep -q 'version 14\.'; } || echo clang-format-14
    compiles clang -fsanitize=address || echo libclang-rt-14-dev
    compiles clang -fopenmp || echo libomp-dev
}

install_packages() {
    # shellcheck disable=SC2046 # the words are wanted
    set -- $(missing_packages "$1")
    [ $# -gt 0 ] || return 0
    if ! has apt-get; then
        echo "missing: the equivalents of the Debian packages $*; please install them" >&2
        return 1
    elif [ "$(id -u)" = 0 ]; then
        as_root=
    elif has sudo && sudo -n true 2>/dev/null; then
        as_root="sudo -n"
    else
        echo "Some packages are missing. Please type this, then try again:" >&2
        echo "    sudo apt-get update && sudo apt-get install -y $*" >&2
        return 1
    fi
    echo "installing Debian packages: $*"
    mkdir -p build
    if $as_root apt-get update -qq >build/apt.log 2>&1 &&
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >>build/apt.log 2>&1; then
        return 0
    fi
    tail -n 5 build/apt.log >&2
    echo "apt-get failed (build/apt.log). Please type: apt-get update && apt-get install -y $*" >&2
    return 1
}

install_python() {
    venv=build/venv
    cmp -s tools/requirements.txt $venv/requirements.txt &&
        $venv/bin/python -c 'import numpy, safetensors, matplotlib' 2>/dev/null && return 0
    python=$(python_with_venv) || { echo "no Python 3.11 or later with venv" >&2; return 1; }
    echo "installing $(grep -v '^#' tools/requirements.txt | tr '\n' ' ')into $venv"
    mkdir -p build
    if "$python" -m venv --clear $venv >build/pip.log 2>&1 &&
        $venv/bin/python -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 20 \
            --only-binary :all: -r tools/requirements.txt >>build/pip.log 2>&1; then
        cp tools/requirements.txt $venv/requirements.txt
        return 0
    fi
    tail -n 3 build/pip.log >&2
    return 1
}

case "${1:-}" in
packages)
    install_packages "${2:-}"
    ;;
python)
    install_python && exit 0
    echo "Python packages could not be installed (build/pip.log): tests that need them are skipped" >&2
    [ "${CI:-}" = true ] && exit 1
    exit 0
    ;;
*)
    sed -n '3,10s/^# \{0,1\}//p' "$0" >&2
    exit 1
    ;;
esac
