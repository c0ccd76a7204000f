#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# sass.sh NVCC INCLUDE SOURCE: what attention by matrix units costs on sm_90: twelve warps fit a multiprocessor (eight for eight heads over
# KIVI), no register is spilled anywhere, and one run of 32 tokens (128 channels of one KV head) takes at most as many instructions as stand
# below, for four query heads and for eight. Those are counted along one turn of the loop that holds all matrix instructions: of all ways through it that
# execute every one of them the shortest, which is that of a plain request; with attend_precision::fast eight heads leave out the second
# product of every weight. The two kernels of attention_mass that multiply keys (of f16) by a window's queries are held to twelve warps and no
# spill too, and to so many instructions for 16 queries and 128 channels of 32 keys. Skipped (77) where there is no cuobjdump; registers are checked all the same.
set -eu
nvcc=$1 include=$2 source=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$nvcc" -std=c++20 -arch=sm_90 -Xptxas -v -I"$include" -cubin "$source" -o "$work/cubin" 2>"$work/log" || {
  cat "$work/log"
  exit 1
}
awk '
  /Compiling entry function/ { kernel = /attend_kernel|product_sums_kernel|window_mass_kernel/ }
  /Compiling entry function/ { most = /channel_key/ && /Lb1EEEv/ ? 255 : 168 }
  kernel && /spill stores/ { print; for (i = 1; i < NF; ++i) if ($i == "spill" && $(i + 1) ~ /stores/ && $(i - 2) > 0) bad = 1 }
  kernel && /Used [0-9]+ registers/ {
    for (i = 1; i < NF; ++i) if ($i == "Used") { print "    " $(i + 1) " registers"; if ($(i + 1) > most) bad = 1; ++kernels }
  }
  END { if (kernels != 12) print "expected twelve kernels, not " kernels + 0; exit bad || kernels != 12 }' "$work/log"
dump=${KVSLIM_CUOBJDUMP:-$(dirname "$nvcc")/cuobjdump}
command -v "$dump" >/dev/null 2>&1 || dump=cuobjdump
command -v "$dump" >/dev/null 2>&1 || {
  echo "skipped: no cuobjdump to count instructions with (KVSLIM_CUOBJDUMP names one)"
  exit 77
}
"$dump" -sass "$work/cubin" | awk '
  function finish(  i, j, k, t, first, last, best, matrices, cost, found, limit) {
    if (kernel == "") return
    for (i = 0; i < n; ++i) all += text[i] ~ /HMMA/
    best = n + 1
    for (i = 0; i < n; ++i) {  # the shortest loop around all matrix instructions
      target[i] = -1
      if (text[i] !~ /BRA/ || text[i] ~ /BRA\.DIV/) continue
      k = text[i]
      sub(/^.*0x/, "", k)
      sub(/[^0-9a-f].*$/, "", k)
      if (!(k in place)) continue
      target[i] = place[k]
      if (target[i] > i || i - target[i] >= best) continue
      t = 0
      for (j = target[i]; j <= i; ++j) t += text[j] ~ /HMMA/
      if (t == all) { best = i - target[i]; first = target[i]; last = i }
    }
    split("", cost); split("", found)
    cost[first] = 0; found[first] = 0
    for (i = first; i <= last && best <= n; ++i) {
      if (!(i in cost)) continue
      k = cost[i] + 1
      t = found[i] + (text[i] ~ /HMMA/)
      if (i == last) { cost[i] = k; found[i] = t; break }
      if (target[i] > i && target[i] <= last) step(target[i], k, t, cost, found)
      if (target[i] < 0 || text[i] ~ /^@/ || text[i] ~ /BRA[.A-Z]* !?U?P[0-9]/) step(i + 1, k, t, cost, found)
    }
    form = kernel ~ /channel_key/ ? "KIVI 4" : kernel ~ /token_key/ ? "int 4" : kernel ~ /fp8_rows/ ? "fp8" : kernel ~ /slice_of_key/ ? "a slice of f16" : "f16"
    heads = kernel ~ /Lb1EEEv/ ? 8 : 4
    what = form ", " heads " heads"
    turn = "a run"
    if (kernel ~ /product_sums/) { form = what = "sums of a softmax"; heads = "" }
    if (kernel ~ /window_mass/) { form = what = "mass of tokens"; heads = "" }
    if (heads == "") turn = "16 queries"
    for (i = first; i <= last; ++i) spilt += text[i] ~ /(LDL|STL)/
    limit = most[heads == "" ? form : form " " heads]
    print what ": " cost[last] " instructions " turn " (at most " limit "), " found[last] " of them matrix products"
    if (best > n || found[last] != all || all < 32 || cost[last] > limit || spilt) bad = 1
    ++kernels
  }
  function step(to, k, t, cost, found) {
    if (to in cost && (found[to] > t || (found[to] == t && cost[to] <= k))) return
    cost[to] = k; found[to] = t
  }
  /Function :/ {
    finish()
    kernel = /attend_kernel|product_sums_kernel|window_mass_kernel/ ? $0 : ""
    n = all = spilt = 0
    split("", place); split("", text); split("", target)
  }
  kernel != "" && match($0, /^ *\/\*[0-9a-f]+\*\//) {
    address = substr($0, RSTART, RLENGTH)
    gsub(/[^0-9a-f]/, "", address)
    sub(/^0+/, "", address)
    line = substr($0, RSTART + RLENGTH)
    sub(/^ */, "", line)
    sub(/;.*$/, "", line)
    place[address] = n
    text[n++] = line
  }
  BEGIN {
    most["int 4 4"] = 450; most["int 4 8"] = 590
    most["KIVI 4 4"] = 850; most["KIVI 4 8"] = 1100
    most["fp8 4"] = 1020; most["fp8 8"] = 1110
    most["f16 4"] = 660; most["f16 8"] = 780
    most["a slice of f16 4"] = 550; most["a slice of f16 8"] = 640
    most["sums of a softmax"] = 230; most["mass of tokens"] = 170
  }
  END { finish(); if (kernels != 12) print "expected twelve kernels, not " kernels + 0; exit bad || kernels != 12 }'
