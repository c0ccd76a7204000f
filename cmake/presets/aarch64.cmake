# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# The tests for AArch64, compiled on another machine and run by qemu: tests/aarch64.sh.
set(CMAKE_SYSTEM_NAME Linux CACHE STRING "")
set(CMAKE_SYSTEM_PROCESSOR aarch64 CACHE STRING "")
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++ CACHE STRING "")
set(CMAKE_CROSSCOMPILING_EMULATOR "qemu-aarch64-static;-L;/usr/aarch64-linux-gnu" CACHE STRING "")
set(CMAKE_BUILD_TYPE Release CACHE STRING "")
set(KVSLIM_BUILD_EXAMPLES OFF CACHE BOOL "")
set(KVSLIM_BUILD_BENCHMARKS OFF CACHE BOOL "")
set(KVSLIM_CUDA OFF CACHE STRING "")
