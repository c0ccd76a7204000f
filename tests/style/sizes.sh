#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# sizes.sh SOURCE: no line under include/ is longer than 100 columns, no file there longer than 500 lines, and every source names its licence.
set -eu
cd "$1"
faults=$(
  find include -type f | sort | while read -r header; do
    awk -v file="$header" 'length($0) > 100 { print file ":" NR ": " length($0) " columns" } END { if (NR > 500) print file ": " NR " lines" }' "$header"
  done
  find include tests \( -name '*.hpp' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.cu' \) | sort | while read -r source; do
    head -4 "$source" | grep -q "SPDX-License-Identifier: Apache-2.0" || echo "$source: no licence line"
  done
)
[ -z "$faults" ] || {
  echo "$faults"
  exit 1
}
