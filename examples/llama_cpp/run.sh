#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# kvslim inside llama.cpp, unforked: obtains the engine, builds the programs and runs them all.
#   --engine PATH   an installed llama.cpp (a CMake prefix) instead of building one
#   --model FILE    any GGUF that llama.cpp loads; default: the reference model
#   --threads LIST  numbers of threads to time attention with, such as 1,2; default: 1
#   --long          times 32,768 tokens too, and decodes 10,000 bytes with every scorer
#   --sanitize      instead of all that: 10,000 tokens with eviction and 10,000 with live attention,
#                   the programs under the address, leak and undefined-behaviour sanitizers
# The programs in build/llama_cpp/build/examples/llama_cpp take more options (--help).
set -eu
cd "$(dirname "$0")/../.."
version=0.3.36 # of llama-cpp-python, whose source distribution holds llama.cpp's sources
engine=""
model=""
threads=1
contexts=2048,8192
long_scorers=snapkv,keydiff
sanitize=""
while [ $# -gt 0 ]; do
  case $1 in
    --engine) engine=$(cd "$2" && pwd) && shift 2 ;;
    --model) model=$(cd "$(dirname "$2")" && pwd)/$(basename "$2") && shift 2 ;;
    --threads) threads=$2 && shift 2 ;;
    --long) contexts=2048,8192,32768 long_scorers="" && shift ;;
    --sanitize) sanitize=yes && shift ;;
    *) sed -n '/^#   /s/^# //p' "$0" >&2 && exit 1 ;;
  esac
done
out=$PWD/build/llama_cpp
mkdir -p "$out/saved"
if [ -z "$engine" ]; then
  engine=$out/engine
  sh cmake/packages.sh g++ cmake ninja-build nlohmann-json3-dev libcli11-dev libeigen3-dev python3-pip \
    python3-venv pkg-config libzstd-dev
  if [ ! -e "$engine/lib/cmake/llama/llama-config.cmake" ]; then
    if [ ! -e "$out/llama_cpp_python-$version.tar.gz" ]; then
      echo "fetching the sources of llama-cpp-python $version"
      python3 -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$out" \
        "llama-cpp-python==$version"
    fi
    tar -xzf "$out/llama_cpp_python-$version.tar.gz" -C "$out"
    echo "building llama.cpp, about 7 minutes on 2 cores"
    cmake -S "$out/llama_cpp_python-$version/vendor/llama.cpp" -B "$out/engine-build" -G Ninja \
      -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$engine" -DCMAKE_INSTALL_LIBDIR=lib \
      -DCMAKE_INSTALL_RPATH='$ORIGIN' -DGGML_NATIVE=ON -DGGML_OPENMP=OFF -DLLAMA_BUILD_APP=OFF \
      -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF \
      -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DCMAKE_C_FLAGS=-w -DCMAKE_CXX_FLAGS=-w \
      >"$out/engine-configure.log"
    cmake --build "$out/engine-build"
    cmake --install "$out/engine-build" >/dev/null
  fi
fi
# build FOLDER TARGET ARGUMENT...
build() {
  folder=$1
  target=$2
  shift 2
  cmake -S . -B "$folder" -G Ninja -DKVSLIM_BUILD_TESTS=OFF -DKVSLIM_BUILD_BENCHMARKS=OFF \
    -DKVSLIM_CUDA=OFF -DCMAKE_PREFIX_PATH="$engine" "$@"
  # shellcheck disable=SC2086
  cmake --build "$folder" --target $target
}
bin=$out/build/examples/llama_cpp
models=$PWD/examples/reference_model
if [ -n "$sanitize" ]; then
  build "$out/sanitized" "evict_generate attend_live" -DCMAKE_BUILD_TYPE=None \
    -DCMAKE_CXX_FLAGS="-O1 -g1 -DKVSLIM_DEBUG -fsanitize=address,undefined -fno-sanitize-recover=all"
  bin=$out/sanitized/examples/llama_cpp
  model=${model:-$models/kvslim-reference.gguf}
  "$bin/evict_generate" --model "$model" --texts 1 --keys 1 --scored 130 --scorers snapkv,keydiff \
    --generate 10000
  "$bin/attend_live" --model "$model" --texts 1 --scored 130 --codecs centred4,kivi4 \
    --generate 10000
  echo "no report of a sanitizer"
  exit 0
fi
build "$out/build" llama_cpp_programs
heads=${model:-$models/kvslim-reference-heads.gguf}
model=${model:-$models/kvslim-reference.gguf}
figures=$out/figures.txt
rm -f "$figures"
failed=""
# show TITLE PROGRAM ARGUMENT...: one that refuses a model does not keep the others from running.
show() {
  echo "== $1"
  name=$2
  shift 2
  "$bin/$name" "$@" || failed="$failed $name"
}
show "save_compressed: saved, stored in kvslim's codecs" save_compressed save "$out/saved" --model "$model"
show "and restored in a new process" save_compressed restore "$out/saved" --model "$model"
show "cache_kinds: what else llama.cpp saves" cache_kinds "$models/kvslim-reference.gguf" "$out"
show "evict_generate: a fixed budget of tokens, chosen over the engine's own cache" \
  evict_generate --model "$model" --generate 0
show "and for 10,000 tokens" evict_generate --model "$model" --texts 1 --keys 0 --generate 10000 \
  ${long_scorers:+--scorers $long_scorers}
show "attend_live: kvslim attends over what it stores, while the engine decodes" \
  attend_live --model "$model" --figures "$figures" --random "$out/random.gguf" \
  --contexts "$contexts" --threads "$threads"
show "head_masks: keep sets of every layer and head, emulated" head_masks --model "$heads"
for budget in 50 25; do
  show "masked, $budget % kept" head_masks --model "$model" --figures "$figures" --budget $budget
done
show "beside_own_loop: the same policies in the project's own comparison" \
  beside_own_loop "$figures" --model "$model"
rm -f "$out/random.gguf" "$out/windowed.gguf"
[ -z "$failed" ] || {
  echo "failed:$failed" >&2
  exit 1
}
