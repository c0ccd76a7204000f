# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors

# Script: writes UNIT, one source that compiles all of SOURCES. Their #include lines come first; then each file, in a
# namespace of its own, where those lines find their headers read already.
set(includes)
set(bodies)
set(number 0)
foreach(source IN LISTS SOURCES)
  file(STRINGS ${source} lines REGEX "^#include ")
  list(APPEND includes ${lines})
  string(APPEND bodies "namespace batched_${number} {\n#include \"${source}\"\n}  // namespace\n")
  math(EXPR number "${number} + 1")
endforeach()
list(REMOVE_DUPLICATES includes)
list(JOIN includes "\n" includes)
file(WRITE ${UNIT} "// Made by cmake/batch_unit.cmake.\n${includes}\n\n${bodies}")
