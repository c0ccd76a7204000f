#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# format.sh SOURCE: every source is as clang-format 14 with the repository's .clang-format would write it. Exits with 77 (skipped) where
# that version is not installed: others decide a few lines differently.
set -eu
cd "$1"
tool=""
for name in clang-format-14 clang-format; do
  if command -v "$name" >/dev/null 2>&1 && "$name" --version | grep -q 'version 14\.'; then
    tool=$name
    break
  fi
done
[ -n "$tool" ] || {
  echo "skipped: clang-format 14 is not installed"
  exit 77
}
find include tests bench examples \( -name '*.hpp' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' -o -name '*.h' -o -name '*.inc' \) -print0 |
  xargs -0 "$tool" --dry-run --Werror
