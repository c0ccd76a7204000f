# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# Everything but benchmarks, with the library's assertions: quick to build, slow to run.
set(CMAKE_BUILD_TYPE Debug CACHE STRING "")
set(CMAKE_CXX_FLAGS "-O1 -DKVSLIM_DEBUG" CACHE STRING "")
set(KVSLIM_BUILD_BENCHMARKS OFF CACHE BOOL "")
set(KVSLIM_CUDA OFF CACHE STRING "")
set(KVSLIM_BATCHES OFF CACHE BOOL "")  # one test file is one unit: little to compile after an edit
