# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# Tests and examples under the address and undefined-behaviour sanitizers.
set(CMAKE_BUILD_TYPE Debug CACHE STRING "")
set(CMAKE_CXX_FLAGS
  "-O1 -DKVSLIM_DEBUG -fsanitize=address,undefined -fno-sanitize-recover=all"
  CACHE STRING "")
set(KVSLIM_BUILD_BENCHMARKS OFF CACHE BOOL "")
set(KVSLIM_CUDA OFF CACHE STRING "")
