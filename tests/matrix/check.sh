#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# check.sh SOURCE: every method has a row in the matrix.
set -eu
cd "$1"
missing=0
for header in include/kvslim/score/*.hpp include/kvslim/select/*.hpp include/kvslim/keep/*.hpp include/kvslim/merge/*.hpp \
  include/kvslim/reposition/*.hpp include/kvslim/quant/*.hpp; do
  [ -f "$header" ] || continue
  method=$(basename "$header" .hpp)
  grep -q "^$method | " tests/matrix/methods.txt || {
    echo "$header has no row in tests/matrix/methods.txt"
    missing=1
  }
done
exit $missing
