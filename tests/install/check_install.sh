#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks on an installed tree: check_install.sh CHECK ARGUMENT... (see CMakeLists.txt). CC is the compiler that built
# the library, LIBDIR where the tree has its libraries.
set -eu
check=$1
shift

fail() {
    echo "$*" >&2
    exit 1
}

case $check in
install) # BUILD TREE: install under one prefix, then move the tree, which must not matter
    rm -rf "$2" "$2.first"
    cmake --install "$1" --prefix "$2.first"
    mv "$2.first" "$2"
    ;;
files) # TREE
    tree=$1
    for file in include/w4a16.h "$LIBDIR/libw4a16.so" "$LIBDIR/libw4a16.a" "$LIBDIR/pkgconfig/w4a16.pc" \
        "$LIBDIR/cmake/w4a16/w4a16Config.cmake" "$LIBDIR/cmake/w4a16/w4a16ConfigVersion.cmake" bin/w4a16 \
        share/man/man1/w4a16.1 share/doc/w4a16/LICENSE; do
        [ -s "$tree/$file" ] || fail "missing in the installed tree: $file"
    done
    [ "$(find "$tree/include" -type f | wc -l)" = 1 ] || fail "w4a16.h is to be the only installed header"
    ! grep -rlI "$tree.first" "$tree" || fail "these installed files name the prefix they were installed under"
    ;;
exports) # TREE: the shared library exports exactly the functions that the header declares
    sed '/^#/d; s|//.*||' "$1/include/w4a16.h" | tr '\n' ' ' | sed 's|/\*[^*]*\*\+\([^/*][^*]*\*\+\)*/||g' |
        grep -oE 'W4A16_API [^;(]*\(' | grep -oE '[a-z0-9_]+\($' | tr -d '(' | sort >"$1.declared"
    nm -D --defined-only "$1/$LIBDIR/libw4a16.so" | awk '$2 != "A" { print $3 }' | sed 's/@.*//' | sort >"$1.exported"
    [ "$(wc -l <"$1.declared")" -gt 40 ] || fail "found only $(wc -l <"$1.declared") declarations in w4a16.h"
    diff -u "$1.declared" "$1.exported" || fail "- declared in w4a16.h only, + exported by libw4a16.so only"
    echo "$(wc -l <"$1.exported") functions declared and exported"
    ;;
soname) # TREE MAJOR: the soname, and no library that a user would not expect
    readelf -d "$1/$LIBDIR/libw4a16.so" >"$1.dynamic"
    grep -q "SONAME.*\[libw4a16\.so\.$2\]" "$1.dynamic" || fail "the soname is not libw4a16.so.$2"
    ! grep NEEDED "$1.dynamic" | grep -vE '\[(libjansson|libgomp|libomp|libm|libc|libdl|libpthread|ld-linux[a-z0-9-]*)\.so' ||
        fail "unexpected dependencies"
    ! grep -E 'RPATH|RUNPATH' "$1.dynamic" || fail "the library has a search path"
    ;;
pkg_config_shared) # TREE SOURCE
    PKG_CONFIG_PATH=$1/$LIBDIR/pkgconfig
    export PKG_CONFIG_PATH
    # shellcheck disable=SC2046 # the words are wanted
    $CC -std=c11 -Wall -Wextra -Werror "$2" $(pkg-config --cflags --libs w4a16) -o "$1.pkg_config_shared"
    LD_LIBRARY_PATH=$1/$LIBDIR "$1.pkg_config_shared"
    ;;
pkg_config_static) # TREE SOURCE: with no shared library to fall back on
    rm -rf "$1.static"
    cp -R "$1" "$1.static"
    rm "$1.static/$LIBDIR"/libw4a16.so*
    PKG_CONFIG_PATH=$1.static/$LIBDIR/pkgconfig
    export PKG_CONFIG_PATH
    # shellcheck disable=SC2046
    $CC -std=c11 -Wall -Wextra -Werror "$2" $(pkg-config --static --cflags --libs w4a16) -o "$1.static/pkg_config_static"
    "$1.static/pkg_config_static"
    ;;
header) # COMPILER STANDARD LANGUAGE HEADER: the header alone
    "$1" "-std=$2" -Wall -Wextra -Wpedantic -Werror -fsyntax-only -x "$3" "$4"
    ;;
*)
    fail "unknown check: $check"
    ;;
esac
