#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# fast_math.sh NVCC INCLUDE SOURCE: with -use_fast_math, in what stores bytes, no instruction of a kernel, or of what it calls, approximates
# and no product of floats is joined to a sum: bytes are then the CPU's. (A product of floats in doubles is exact and may be joined; what
# affine_coder joins it names as such.)
set -eu
nvcc=$1 include=$2 source=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$nvcc" -std=c++20 -arch=compute_80 -use_fast_math -I"$include" -ptx "$source" -o "$work/ptx"
kernels=$(grep -c '^\.visible \.entry\|^\.entry' "$work/ptx")
[ "$kernels" -gt 20 ] || {
  echo "only $kernels kernels were compiled"
  exit 1
}
found=$(awk '/\.entry|\.func/ { kernel = $0 } / inline asm/ { named = /begin/ }
  kernel ~ /_GLOBAL__N|\.func/ && (/\.approx|div\.full/ || (/fma\.rn(\.ftz)?\.f32/ && !named)) { print kernel ": " $0 }' "$work/ptx")
echo "$kernels kernels"
[ -z "$found" ] || {
  echo "$found"
  exit 1
}
