#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# Builds the comparison, runs it on the reference model and plots quality against bytes. Arguments
# go to the program (see --help): for example --model other.gguf --context 1024.
set -eu
cd "$(dirname "$0")/.."
sh cmake/packages.sh g++ cmake ninja-build nlohmann-json3-dev libcli11-dev libeigen3-dev gnuplot-nox
cmake -S . -B build/demo-build -G Ninja -DKVSLIM_BUILD_TESTS=OFF -DKVSLIM_BUILD_BENCHMARKS=OFF \
  -DKVSLIM_CUDA=OFF
cmake --build build/demo-build --target compare
mkdir -p build/demo
build/demo-build/examples/compare --out build/demo "$@"
if command -v gnuplot >/dev/null 2>&1; then
  gnuplot -c examples/report.gnuplot build/demo/report.dat build/demo/report.png
  echo "wrote build/demo/report.json and build/demo/report.png"
else
  echo "wrote build/demo/report.json (no gnuplot, so no report.png)"
fi
