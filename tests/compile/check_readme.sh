#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# check_readme.sh SOURCE: every C++ block of README.md and CONTRIBUTING.md is word for word a part
# of an example, every marked part is quoted, the README's method table names exactly the methods
# that have a header, a Fidelity line, a test file and a benchmark of its name and a CUDA test,
# every path that a document names exists, and the library does none of the things that README
# promises it never does.
set -eu
cd "$1"
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
fail() {
  echo "$1"
  exit 1
}
# A document's block "<!-- name -->" is the part between "// [label: name]" and "// [label: end]".
check_blocks() {
  document=$1 label=$2
  mkdir "$parts/$label" "$parts/$label.doc"
  awk -v to="$parts/$label.doc/" -v document="$document" '
    on && /^```/ {on = 0; close(file); next}
    on {print >file; next}
    /^```cpp/ {
      if (last !~ /^<!-- [a-z_]+ -->$/) {
        print document ": a C++ block without a marker <!-- name -->"; bad = 1; exit
      }
      split(last, word, " "); file = to word[2]; printf "" >file; on = 1; next
    }
    {last = $0}
    END {exit bad}' "$document" || exit 1
  for file in examples/*.cpp; do
    awk -v to="$parts/$label/" -v start="// [$label: " '
      index($0, start "end]") == 1 {on = 0; next}
      index($0, start) == 1 {
        name = substr($0, length(start) + 1); sub(/]$/, "", name); on = 1; next
      }
      on {print >(to name)}' "$file"
  done
  diff -r "$parts/$label" "$parts/$label.doc" ||
    fail "$document and the examples marked [$label: ...] differ, see above"
  [ -n "$(ls "$parts/$label")" ] || fail "no example is marked [$label: ...]"
}
check_blocks README.md readme
check_blocks .github/CONTRIBUTING.md contributing

for folder in score select keep merge reposition quant prune; do
  for header in include/kvslim/"$folder"/*.hpp; do
    [ -f "$header" ] || continue
    method=$(basename "$header" .hpp)
    grep -q "Fidelity" "$header" || fail "$header has no Fidelity line"
    [ -f "tests/unit/$folder/${method}_test.cpp" ] ||
      fail "$method has no test file tests/unit/$folder/${method}_test.cpp"
    grep -qw "$method" tests/cuda/*.cu || fail "no CUDA test names $method"
    ls bench/*/"$method".cpp >/dev/null 2>&1 || fail "no benchmark is named $method"
    grep -q "^| \[\`$method\`\]($header)" README.md ||
      fail "README.md's table has no row for $method"
  done
done
grep -o '^| \[`[a-z0-9_]*`\]([^)]*)' README.md | sed 's/.*(\(.*\))/\1/' | while read -r header; do
  [ -f "$header" ] || fail "README.md's table promises $header, which does not exist"
done

# Every path that a document names exists: links, words that begin with a folder of the top level,
# and sources by the end of their path.
find README.md .github bench examples include tests -name '*.md' | while read -r document; do
  folder=$(dirname "$document")
  grep -oE '\]\([^) ]+\)' "$document" | sed 's/^](//; s/)$//; s/#.*//' | grep -v '^https*:' |
    while read -r path; do
      [ -z "$path" ] || [ -e "$folder/$path" ] || echo "$document links to $path"
    done
  tr -cs 'A-Za-z0-9_./<>*{}-' '\n' <"$document" | sed 's/\.*$//' | grep -v '[<>*{}]' | sort -u |
    while read -r path; do
      case $path in
        tests/* | include/* | bench/* | examples/* | cmake/* | .github/* | .ci/*)
          [ -e "$path" ] || echo "$document names $path" ;;
        .hpp | .cuh | *llama.cpp) ;;  # kinds of files, and other projects
        *.hpp | *.cuh | *.cpp | *.cu)
          [ -n "$(find include tests examples bench -path "*/$path")" ] ||
            echo "$document names $path" ;;
      esac
    done
done >"$parts/missing"
[ ! -s "$parts/missing" ] || fail "$(cat "$parts/missing"): no such file"

# README, "Promises": nothing allocates, throws, prints or synchronises.
words='new|malloc|throw|try|catch|typeid|dynamic_cast|printf|fprintf|puts|thread_local'
calls='cudaMalloc[A-Za-z]*|cuda[A-Za-z]*Synchronize'
types='vector|string|cout|cerr|unique_ptr|shared_ptr|function|map'
never="\\b($words|$calls)\\b|std::($types)\\b"
find include -name '*.hpp' -o -name '*.cuh' | while read -r header; do
  if sed 's|"[^"]*"||g; s|//.*||' "$header" | grep -nE "$never"; then
    fail "$header does what README promises that nothing in include/ does"
  fi
done
