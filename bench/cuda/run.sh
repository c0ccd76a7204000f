#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The kvslim authors
# What waits for a GPU, in order: the tests, compute-sanitizer's tools over them, the benchmark. The log and its CSV go to
# bench/results, named after date and device. Every step has its own time limit, and a failure stops none of the others.
#
#   sh bench/cuda/run.sh                  builds what is missing, then runs all on this machine's GPU
#   sh bench/cuda/run.sh --build 90       builds alone, for sm_90, where no GPU is needed; build/gpu can then be carried
#   sh bench/cuda/run.sh tests memcheck   some steps: tests, memcheck, racecheck, synccheck, bench
set -eu
cd "$(dirname "$0")/../.."
build=build/gpu
tests="ops encode fit attend runs rebuilt life batch sweep choices backend"

build_for() {
  # shellcheck disable=SC2046,SC2086  # words
  cmake -S . -B $build -G Ninja -DCMAKE_BUILD_TYPE=Release -DKVSLIM_CUDA=ON -DKVSLIM_BUILD_EXAMPLES=OFF \
    -DKVSLIM_GPU_ELSEWHERE=ON -DCMAKE_CUDA_ARCHITECTURES="$1" &&
    cmake --build $build --target bench_cuda_floor $(for t in $tests; do echo "cuda_$t"; done)
}
if [ "${1:-}" = --build ]; then
  build_for "${2:?--build needs an architecture, 90 for example}"
  exit
fi
if ! device=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1) || [ -z "$device" ]; then
  echo "bench/cuda/run.sh: no GPU here (nvidia-smi finds none), so nothing was run" >&2
  exit 77
fi
[ -x $build/bench/cuda/bench_cuda_floor ] || build_for native

name=$(date +%F)-$(printf '%s' "${device%%,*}" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-')
log=bench/results/$name.txt
failed=''
{
  echo "device and driver: $device"
  echo "date: $(date -u '+%F %R') UTC"
  echo "commit: $(git describe --always --dirty 2>/dev/null || echo unknown)"
} | tee "$log"

# step NAME SECONDS COMMAND...
step() {
  what=$1 limit=$2 began=$(date +%s) result=0
  shift 2
  timeout "$limit" "$@" >$build/step.log 2>&1 || result=$?
  tail -n 200 $build/step.log
  echo "$what: exit $result, $(($(date +%s) - began)) s" | tee -a "$log"
  [ $result -eq 0 ] || failed="$failed $what"
}
wanted() {
  case " $steps " in *" $1 "*) true ;; *) false ;; esac
}
steps=${*:-tests memcheck racecheck synccheck bench}
if wanted tests; then
  for t in $tests; do step "test $t" 120 $build/tests/cuda/cuda_"$t"; done
fi
for tool in memcheck racecheck synccheck; do
  wanted $tool || continue
  if ! command -v compute-sanitizer >/dev/null; then
    echo "$tool: not run, no compute-sanitizer here" | tee -a "$log"
    failed="$failed $tool"
    continue
  fi
  # One cache of the test of the ops, which takes its name: the tools slow kernels down a hundredfold.
  step "$tool ops" 240 compute-sanitizer --tool $tool --error-exitcode 9 $build/tests/cuda/cuda_ops ragged
  [ $tool = memcheck ] || continue
  for t in encode fit attend batch life; do
    step "$tool $t" 240 compute-sanitizer --tool $tool --error-exitcode 9 $build/tests/cuda/cuda_$t
  done
done
if wanted bench; then
  step bench 480 $build/bench/cuda/bench_cuda_floor --csv "bench/results/$name.csv"
  cat $build/step.log >>"$log"
fi
echo "written: $log"
[ -z "$failed" ] || {
  echo "failed:$failed" | tee -a "$log"
  exit 1
}
