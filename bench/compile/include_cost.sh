#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# CPU seconds that including a header costs above an empty unit: best of three, syntax only. include_cost.sh [COMPILER]
set -eu
cd "$(dirname "$0")/../.."
compiler=${1:-g++}
unit=$(mktemp -d)
cost() {
  printf '%s\n' "$1" >"$unit/unit.cpp"
  for _ in 1 2 3; do
    (ulimit -t 60 && /bin/sh -c "\"$compiler\" -std=c++20 -fsyntax-only -Iinclude \"$unit/unit.cpp\"; times" | sed -n 2p)
  done | sed 's/\([0-9]*\)m\([0-9.]*\)s \([0-9]*\)m\([0-9.]*\)s/\1 \2 \3 \4/' | awk '{t = $1 * 60 + $2 + $3 * 60 + $4; if (NR == 1 || t < best) best = t} END {printf "%.2f", best}'
}
empty=$(cost '')
printf '%-44s %s\n' header "CPU s above an empty unit"
for header in core/pipeline.hpp score/knorm.hpp score/snapkv.hpp select/top_k.hpp merge/kvmerger.hpp quant/kivi.hpp store/compress.hpp store/attend.hpp kvslim.hpp; do
  printf '%-44s %s\n' "kvslim/$header" "$(awk -v a="$(cost "#include <kvslim/$header>")" -v b="$empty" 'BEGIN {printf "%.2f", a - b}')"
done
rm -rf "$unit"
