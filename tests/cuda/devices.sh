#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# devices.sh NVCC INCLUDE SOURCE [ARCHITECTURE...]: the source compiles without a warning for every device, each from PTX of its own, which
# is kept beside the machine code. Kernels that are launched with dynamic shared memory, up to all that a block has without opting in, keep no
# static one (fits are launched with less). Prints what each took, registers and spills. Minutes in all, so not part of the tests. From the
# project's root:
#   sh tests/cuda/devices.sh nvcc include tests/cuda/devices.cu
set -eu
nvcc=$1 include=$2 source=$3
shift 3
[ $# -gt 0 ] || set -- 80 89 90 100 120
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
wrong=0
for device in "$@"; do
  began=$(date +%s)
  "$nvcc" -std=c++20 -Werror=all-warnings -Xcompiler=-Wall,-Wextra,-Werror -Xptxas=-v -I"$include" \
    -gencode "arch=compute_$device,code=[sm_$device,compute_$device]" -c "$source" -o "$work/object" 2>"$work/log" || {
    cat "$work/log"
    exit 1
  }
  found=$(awk '/Compiling entry function/ { kernel = $0 }
    /Used .* bytes smem/ && kernel ~ /(encode|append|attend)_kernel/ { print kernel; print }' "$work/log")
  echo "sm_$device: $(($(date +%s) - began)) s, $(wc -c <"$work/object") bytes, $(grep -c 'Compiling entry' "$work/log") kernels," \
    "at most $(grep -o 'Used [0-9]* registers' "$work/log" | sort -k2n | tail -1 | cut -d' ' -f2) registers and" \
    "$(grep -o '[0-9]* bytes spill stores' "$work/log" | sort -n | tail -1 | cut -d' ' -f1) bytes spilled"
  [ -z "$found" ] || {
    echo "$found"
    wrong=1
  }
done
exit $wrong
