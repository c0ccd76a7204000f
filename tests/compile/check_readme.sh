#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# check_readme.sh SOURCE: the README's code blocks are those of the examples, and its method table names exactly the methods that have
# a header, a test and a benchmark.
set -eu
cd "$1"
fail() {
  echo "$1"
  exit 1
}
for story in compose:compose scorer:custom_scorer paged:paged_view; do
  sed -n "/\[readme: ${story%%:*}\]/,/\[readme: end\]/p" "examples/${story##*:}.cpp" | sed '1d;$d' >/tmp/kvslim_readme_$$
  [ -s /tmp/kvslim_readme_$$ ] || fail "examples/${story##*:}.cpp has no [readme: ${story%%:*}] part"
  awk -v marker="<!-- ${story%%:*} -->" '$0 == marker {on = 1; next} on && /^```cpp/ {code = 1; next} code && /^```/ {exit} code' README.md >/tmp/kvslim_block_$$
  cmp -s /tmp/kvslim_readme_$$ /tmp/kvslim_block_$$ || fail "README.md's block '${story%%:*}' is not examples/${story##*:}.cpp's"
done
rm -f /tmp/kvslim_readme_$$ /tmp/kvslim_block_$$
for header in $(find include/kvslim/score include/kvslim/select include/kvslim/merge include/kvslim/quant include/kvslim/reposition -name '*.hpp'); do
  method=$(basename "$header" .hpp)
  grep -q "Fidelity" "$header" || fail "$header has no Fidelity line"
  grep -rqw "$method" tests/unit || fail "no test names $method"
  ls bench/*/"$method".cpp >/dev/null 2>&1 || fail "no benchmark is named $method"
  grep -q "^| \[\`$method\`\]($header)" README.md || fail "README.md's table has no row for $method"
done
grep -o '^| \[`[a-z0-9_]*`\]([^)]*)' README.md | sed 's/.*(\(.*\))/\1/' | while read -r header; do
  [ -f "$header" ] || fail "README.md's table promises $header, which does not exist"
done
