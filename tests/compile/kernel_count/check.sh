#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
#
# check.sh <source> <include folder> <compiler>: attention over one pair of codecs is compiled once
# (on CUDA a second time for eight heads), whatever pipelines filled the caches. Prints the size of
# what was compiled.
set -eu
source=$1 include=$2 compiler=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
expected=1
case $source in
*.cu)
  expected=2
  "$compiler" -std=c++20 -arch=sm_90 -cubin -I"$include" "$source" -o "$work/count"
  # Functions that a kernel calls are named after it, with a dollar sign.
  symbols=$(readelf -sW "$work/count" 2>/dev/null | grep FUNC | grep attend_kernel | grep -v '[$]' || true)
  ;;
*)
  "$compiler" -std=c++20 -O0 -I"$include" -c "$source" -o "$work/count"
  symbols=$(nm -C "$work/count" | grep -E ' [WwTt] kvslim::[a-z0-9_:]*status kvslim::v[a-z0-9_]*::attend<' || true)
  ;;
esac
count=$(printf '%s\n' "$symbols" | grep -c . || true)
echo "attention compiled $count times, $(wc -c <"$work/count") bytes"
if [ "$count" -ne "$expected" ]; then
  printf '%s\n' "$symbols"
  echo "expected $expected"
  exit 1
fi
