#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# Builds and runs the benchmarks: attend and encode against their floors, on a GPU too where there
# is one; attend as built for every x86-64 beside the same built for this machine; beside an
# engine's own attention; what has another yardstick (attention over groups, rotations and outliers
# beside plain integers, selection beside std::nth_element, moving beside memmove, scoring beside
# multiply-adds, calls with little to do); then every method. --smoke: seconds, no figures.
# --against PATH: attend beside an engine's own attention too; PATH has llama.cpp's sources, a build
# of it, or is where it is installed, or has ik_llama.cpp's sources. May be given for several. Other
# arguments go to Google Benchmark.
set -eu
smoke='' against=''
while :; do
  case ${1:-} in
    --smoke) smoke=--smoke ;;
    --against)
      against=$against$(cd "${2:?--against needs the path of an engine}" && pwd)'
'
      shift
      ;;
    *) break ;;
  esac
  shift
done
cd "$(dirname "$0")/.."
sh cmake/packages.sh g++ cmake ninja-build libbenchmark-dev
cuda=-DKVSLIM_CUDA=OFF
if nvidia-smi -L >/dev/null 2>&1 && command -v nvcc >/dev/null; then
  cuda="-DKVSLIM_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native"
fi
build=build/bench-build${smoke:+-smoke}
# shellcheck disable=SC2086  # two options or one
configure() {
  cmake -S . -B "$1" -G Ninja -DKVSLIM_BUILD_TESTS=OFF -DKVSLIM_BUILD_EXAMPLES=OFF \
    -DKVSLIM_BENCH_SMOKE="${smoke:+ON}" -DKVSLIM_AGAINST="$2" $cuda
}
configure "$build" ""
cmake --build "$build"
# shellcheck disable=SC2086  # one option or none
if [ -x $build/bench/cuda/bench_cuda_floor ]; then
  on_gpu=$build/bench/cuda/bench_cuda_floor
else
  on_gpu=true
fi
for flags in native baseline; do
  $build/bench/bench_floor_$flags $smoke --dat build/floor_$flags.dat
done
if [ -z "$smoke" ] && sh cmake/packages.sh gnuplot-nox && command -v gnuplot >/dev/null; then
  gnuplot -c bench/floor.gnuplot build/floor_native.dat build/floor_native.png
  echo "wrote build/floor_native.png"
fi
$build/bench/bench_flags $smoke
$on_gpu $smoke
if [ -z "$against" ]; then
  echo "no --against PATH of llama.cpp or ik_llama.cpp: their attention is not measured"
fi
engine=0  # both have a library of one name, so each gets a build
printf '%s' "$against" | while IFS= read -r path; do
  engine=$((engine + 1))
  configure "$build-against-$engine" "$path"
  cmake --build "$build-against-$engine" --target bench_against
  "$build-against-$engine/bench/against/bench_against" $smoke
done
if [ -n "$smoke" ]; then
  $build/bench/bench_methods --benchmark_filter=1024 --benchmark_min_time=0.001
else
  $build/bench/bench_methods \
    --benchmark_filter='^(over_plain|top_keys|compact|serialize|attention_mass|(attend|append)_8_rows)(/|$)'
  $build/bench/bench_methods --benchmark_out=build/bench.json \
    --benchmark_out_format=json "$@"
fi
