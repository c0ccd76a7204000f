#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# CPU seconds that including a header costs above an empty unit, best of three, beside its budget;
# fails above 1.5 times the budget. Host headers are only parsed; with nvcc on the path, .cuh are
# compiled for sm_90. include_cost.sh [COMPILER]
set -eu
cd "$(dirname "$0")/../.."
compiler=${1:-g++}
unit=$(mktemp -d)
trap 'rm -rf "$unit"' EXIT
over=0
# cost FILE TEXT COMMAND...: best of three
cost() {
  file=$unit/$1
  printf '%s\n' "$2" >"$file"
  shift 2
  for _ in 1 2 3; do
    /bin/sh -c "$* -std=c++20 -Iinclude \"$file\" && times" | sed -n 2p
  done | sed 's/\([0-9]*\)m\([0-9.]*\)s \([0-9]*\)m\([0-9.]*\)s/\1 \2 \3 \4/' | awk '
    {t = $1 * 60 + $2 + $3 * 60 + $4; if (NR == 1 || t < best) best = t}
    END {if (NR != 3) exit 1; printf "%.2f", best}'
}
# row HEADER BUDGET FILE EMPTY COMMAND...
row() {
  header=$1 budget=$2 file=$3 empty=$4
  shift 4
  seconds=$(cost "$file" "#include <kvslim/$header>" "$@") || {
    echo "kvslim/$header does not compile alone"
    exit 1
  }
  above=$(awk -v a="$seconds" -v b="$empty" 'BEGIN {printf "%.2f", a - b}')
  printf '%-34s %8s %8s\n' "kvslim/$header" "$above" "$budget"
  awk -v a="$above" -v b="$budget" 'BEGIN {exit a > 1.5 * b}' || over=1
}
printf '%-34s %8s %8s\n' "header ($compiler)" "CPU s" budget
empty=$(cost unit.cpp '' "$compiler" -fsyntax-only)
row core/pipeline.hpp 0.3 unit.cpp "$empty" "$compiler" -fsyntax-only
for folder in score select keep merge reposition quant; do
  for header in include/kvslim/"$folder"/*.hpp; do
    [ -f "$header" ] || continue
    row "${header#include/kvslim/}" 0.4 unit.cpp "$empty" "$compiler" -fsyntax-only
  done
done
row kvslim.hpp 0.8 unit.cpp "$empty" "$compiler" -fsyntax-only
if command -v nvcc >/dev/null 2>&1; then
  nvcc="nvcc -arch=sm_90 -c -o $unit/unit.o"
  empty=$(cost unit.cu '' "$nvcc")
  row ops/select.cuh 7 unit.cu "$empty" "$nvcc"
  row run/attend.cuh 1.0 unit.cu "$empty" "$nvcc"
  row kvslim.cuh 9 unit.cu "$empty" "$nvcc"
fi
exit $over
