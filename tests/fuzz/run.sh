#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# Fuzzes the parsers with sanitizers for the given seconds each (default 600), starting from the kept seeds. Needs clang with compiler-rt.
# Random lives of stored caches are a program of their own: build/tests/fuzz/fuzz_life --seconds 7200 --seed 1.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-600}
mkdir -p build/fuzz
for parser in serialize gguf safetensors llama_cpp; do
  extra=""
  [ $parser = gguf ] && extra="examples/inference/gguf.cpp examples/inference/tokenizer.cpp"
  [ $parser = safetensors ] && extra="examples/kvslim_run/safetensors.cpp"
  # shellcheck disable=SC2086
  clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -Iinclude -Iexamples tests/fuzz/$parser.cpp $extra -o build/fuzz/$parser
  mkdir -p build/fuzz/corpus_$parser
  build/fuzz/$parser -max_total_time="$seconds" -max_len=20000 -rss_limit_mb=4096 -print_final_stats=1 -artifact_prefix=build/fuzz/ build/fuzz/corpus_$parser tests/fuzz/seeds/$parser \
    >build/fuzz/$parser.log 2>&1 &
done
wait
tail -n 12 build/fuzz/*.log
! grep -l "SUMMARY: " build/fuzz/*.log
