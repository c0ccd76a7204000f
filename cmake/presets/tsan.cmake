# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# Tests under the thread sanitizer: the CUDA kernels run as threads (tests/cuda/emulated), and a
# missing barrier is a data race.
set(CMAKE_BUILD_TYPE Debug CACHE STRING "")
set(CMAKE_CXX_FLAGS "-O1 -DKVSLIM_DEBUG -fsanitize=thread" CACHE STRING "")
set(KVSLIM_BUILD_BENCHMARKS OFF CACHE BOOL "")
set(KVSLIM_CUDA OFF CACHE STRING "")
