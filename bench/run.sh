#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# Builds and runs the benchmarks: attend and encode against their floors, on a GPU too where there
# is one, then every method by itself. --smoke: seconds, no figures.
set -eu
cd "$(dirname "$0")/.."
sh cmake/packages.sh g++ cmake ninja-build libbenchmark-dev
cuda=-DKVSLIM_CUDA=OFF
if nvidia-smi -L >/dev/null 2>&1 && command -v nvcc >/dev/null; then
  cuda="-DKVSLIM_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native"
fi
# shellcheck disable=SC2086  # two options or one
cmake -S . -B build/bench-build -G Ninja -DKVSLIM_BUILD_TESTS=OFF -DKVSLIM_BUILD_EXAMPLES=OFF \
  $cuda
cmake --build build/bench-build
on_gpu() {
  if [ -x build/bench-build/bench/cuda/bench_cuda_floor ]; then
    build/bench-build/bench/cuda/bench_cuda_floor "$@"
  fi
}
if [ "${1:-}" = --smoke ]; then
  build/bench-build/bench/bench_floor --smoke
  on_gpu --smoke
  build/bench-build/bench/bench_methods --benchmark_filter=1024 --benchmark_min_time=0.001
else
  build/bench-build/bench/bench_floor
  on_gpu
  build/bench-build/bench/bench_methods --benchmark_out=build/bench.json \
    --benchmark_out_format=json "$@"
fi
