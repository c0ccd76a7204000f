#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# check.sh SOURCE INCLUDE BINARY COMPILER: no function of run/attend.hpp, nor of a codec or a kernel that it calls, has a frame above 8 KiB.
set -eu
source=$1 include=$2 binary=$3 compiler=$4
mkdir -p "$binary"
cd "$binary"
rm -f ./*.su
"$compiler" -std=c++20 -O2 -fstack-usage -I"$include" -c "$source" -o stack.o
[ -n "$(ls ./*.su 2>/dev/null)" ] || {
  echo "$compiler reports no stack usage"
  exit 77
}
# FILE:LINE:COLUMN:SIGNATURE<tab>BYTES<tab>KIND
cat ./*.su | awk -F'\t' '
  $1 ~ /run\/attend[a-z_]*\.hpp:/ { ++attend }
  $1 ~ /(run\/attend[a-z_]*|codec\/[a-z_]*|isa\/[a-z_]*|store\/packed_half|ops\/softmax)\.(hpp|inc):/ {
    kernels += $1 ~ /isa\/[a-z_]*\.inc:/
    if ($2 + 0 > most) { most = $2 + 0; name = $1 }
  }
  END {
    printf "%d frames of attend.hpp, %d of kernels; the largest of all is %d bytes: %s\n", attend, kernels, most, substr(name, 1, 200)
    exit attend == 0 || most > 8192
  }'
