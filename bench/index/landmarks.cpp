// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/pages.hpp"

using namespace kvslim;

namespace {

void step(benchmark::State& state) {
  bench::page_step(state, [](index_t budget) { return landmarks<>{{.budget = budget}}; });
}

[[maybe_unused]] auto const* const registered =
    benchmark::RegisterBenchmark("landmarks_step", step) -> ArgName("budget") -> Arg(0) -> Arg(512)
        -> Arg(1024) -> Arg(4096) -> Arg(16384) -> Unit(benchmark::kMillisecond);

}  // namespace
