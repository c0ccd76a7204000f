#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# Builds and runs all tests. Installs what it needs on Debian and Ubuntu when it may; says what is missing otherwise.
set -eu
cd "$(dirname "$0")/.."
sh cmake/packages.sh g++ cmake ninja-build catch2 nlohmann-json3-dev libcli11-dev libeigen3-dev pkg-config
cmake -S . -B build -G Ninja -DKVSLIM_BUILD_BENCHMARKS=OFF
cmake --build build
ctest --test-dir build --output-on-failure --no-tests=error -j "$(nproc)" "$@"
