#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# aarch64.sh [CTEST ARGUMENTS]: the unit tests compiled for AArch64, where the NEON kernels are used, and run by qemu's emulation of one process.
# For Debian and Ubuntu on another processor; installs what it needs when it may. An hour on two cores, so not part of the tests.
set -eu
cd "$(dirname "$0")/.."
sh cmake/packages.sh cmake ninja-build catch2 g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
cmake -C cmake/presets/aarch64.cmake -S . -B build/aarch64 -G Ninja
cmake --build build/aarch64 --target unit_tests builds_tests
# Left out: what is no unit test, and every float one by one, which takes the emulator hours.
ctest --test-dir build/aarch64 --output-on-failure --no-tests=error -j "$(nproc)" \
  -E '^(compile|cuda|exec\.openmp|exec\.races|fuzz|matrix\.complete|readme|style|unit\.exhaustive)' "$@"
