#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copy programs and the libraries that they need, less the system's own, into one folder; Python scripts as they are.
#   bundle.sh FOLDER PROGRAM...
# A program finds them there by its path $ORIGIN, or with LD_LIBRARY_PATH=FOLDER.
set -eu
folder=$1
shift
mkdir -p "$folder"
for program in "$@"; do
    cp "$program" "$folder/"
    case $program in *.py) continue ;; esac
    ldd "$program" | sed -n 's/^[[:space:]]*\(lib[^ ]*\) => \([^ ]*\) .*/\1 \2/p' | while read -r name path; do
        case $name in
        libc.so.* | libm.so.* | libpthread.so.* | libdl.so.*) ;;
        *) cp -L "$path" "$folder/$name" ;;
        esac
    done
done
ls -l "$folder"
