#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# check_fail.sh SOURCE INCLUDE COMPILER...: the source must fail to compile; its first error holds the sentence of its first line
# ("compiler: WORD" where only the compiler can word it) and the sentence comes within 20 lines of output. A second line "flags:" adds some.
source=$1
include=$2
shift 2
expected=$(sed -n '1s/^\/\/ expect: //p' "$source")
flags=$(sed -n '2s/^\/\/ flags: //p' "$source")
for compiler in "$@"; do
  [ -n "$compiler" ] || continue
  case $source in
    *.cu) only="-cuda -o /dev/null" ;;
    *) only=-fsyntax-only ;;
  esac
  # shellcheck disable=SC2086
  if output=$("$compiler" -std=c++20 $flags $only -I"$include" "$source" 2>&1); then
    echo "$compiler: $source compiled"
    exit 1
  fi
  first=$(printf '%s\n' "$output" | grep -E 'error' | head -1)
  case "$expected" in
    "compiler: "*) word=${expected#compiler: } ;;
    *) word=$expected ;;
  esac
  case "$first" in
    *"$word"*) ;;
    *)
      echo "$compiler: the first error of $source is not ours: $first"
      exit 1
      ;;
  esac
  printf '%s\n' "$output" | head -20 | grep -qF "$word" || {
    echo "$compiler: the sentence comes after 20 lines"
    exit 1
  }
  echo "$compiler: $first"
done
