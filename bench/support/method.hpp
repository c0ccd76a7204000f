// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The benchmark every method gets: compress one layer; report time, bytes, workspace and quality.

#include "support/data.hpp"

#include <benchmark/benchmark.h>

namespace bench {

/// MakePolicy: tokens -> policy. Axes: tokens; 8 KV heads, 32 query heads, head_dim 128, f16,
/// dense.
template <class MakePolicy>
void method(benchmark::State& state, MakePolicy make) {
  index_t const tokens = state.range(0);
  cache const c({1, 8, tokens, 128}, 32);
  run const r(make(tokens), c);
  for (auto _ : state)
    if (!r.compress(c)) state.SkipWithError("compress failed");
  double const source = 2.0 * 2.0 * static_cast<double>(c.extent.rows() * tokens * 128);
  state.SetBytesProcessed(static_cast<std::int64_t>(source) * state.iterations());
  state.counters["bytes_per_token"] =
      static_cast<double>(r.packed.bytes()) / static_cast<double>(tokens);
  state.counters["ratio"] = source / static_cast<double>(r.packed.bytes());
  state.counters["workspace_bytes"] = static_cast<double>(r.plan.workspace_bytes());
  state.counters["attention_error"] = attention_error(r, c);
}

/// Registers the method's benchmark; returns a value so that a file can do so from an initialiser.
template <class MakePolicy>
int add(char const* name, MakePolicy make) {
  benchmark::RegisterBenchmark(name, [make](benchmark::State& state) { method(state, make); })
      ->ArgName("tokens")
      ->Arg(1024)
      ->Arg(4096)
      ->Unit(benchmark::kMillisecond);
  return 0;
}

}  // namespace bench
