#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# shared_memory.sh PTX...: kernels that are launched with shared memory of a size known at the launch keep none besides, because `launch` may
# ask for all that a block can have, but those below, beside which theirs has room. The emulator does not count what kernels keep.
set -eu
awk '
  # What a kernel may keep: 48 KiB less the most it is launched with.
  function room(name) {
    if (name ~ /keep_best_kernel/) return 16384  # 8192 words are held
    if (name ~ /window_mass_kernel/) return 24576  # cut_mass: 6144 floats
    if (name ~ /10fit_kernel/) return 5120  # fit_static_bytes
    return 0
  }
  function visit(name, i) {
    if (seen[name] == entry) return
    seen[name] = entry
    if (name in bytes) kept += bytes[name]
    if (name in dynamic) launched = 1
    for (i = 1; i <= used[name]; ++i) visit(uses[name, i])
  }
  FNR == 1 { within = "" }
  /^[ \t]*(\.extern |\.visible |\.weak )*\.shared / {
    size = /\.[bus]64 / ? 8 : /\.[bus]32 |\.f32 / ? 4 : 1
    match($0, /_Z[A-Za-z0-9_$]+/)
    name = substr($0, RSTART, RLENGTH)
    rest = substr($0, RSTART + RLENGTH)
    if (rest ~ /^\[\]/) dynamic[name] = 1
    else bytes[name] = rest ~ /^\[/ ? size * (substr(rest, 2) + 0) : size
    next
  }
  /^[ \t]*(\.visible |\.weak |\.extern )*\.(entry|func)/ && match($0, /_Z[A-Za-z0-9_$]+/) {
    within = substr($0, RSTART, RLENGTH)
    if (/\.entry/) entries[FILENAME " " within] = within
    next
  }
  /^[};]/ { within = "" }
  within != "" {
    for (rest = $0; match(rest, /_Z[A-Za-z0-9_$]+/); rest = substr(rest, RSTART + RLENGTH)) {
      name = substr(rest, RSTART, RLENGTH)
      if (known[within, name]++ == 0) uses[within, ++used[within]] = name
    }
  }
  END {
    for (entry in entries) {
      kept = launched = 0
      visit(entries[entry])
      ++kernels
      if (launched) ++sized
      if (launched && kept > room(entries[entry])) {
        print entries[entry] ": " kept " bytes besides"
        bad = 1
      }
    }
    print kernels " kernels, " sized " of them with shared memory of a size known at the launch"
    exit bad || sized < 20
  }' "$@"
