#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# Builds and runs the benchmarks: attend and encode against their floors, then every method by itself. --smoke: seconds, no figures.
set -eu
cd "$(dirname "$0")/.."
sh cmake/packages.sh g++ cmake ninja-build libbenchmark-dev
cmake -S . -B build/bench-build -G Ninja -DKVSLIM_BUILD_TESTS=OFF -DKVSLIM_BUILD_EXAMPLES=OFF -DKVSLIM_CUDA=OFF
cmake --build build/bench-build
if [ "${1:-}" = --smoke ]; then
  build/bench-build/bench/bench_floor --smoke
  build/bench-build/bench/bench_methods --benchmark_filter=1024 --benchmark_min_time=0.001
else
  build/bench-build/bench/bench_floor
  build/bench-build/bench/bench_methods --benchmark_out=build/bench.json --benchmark_out_format=json "$@"
fi
