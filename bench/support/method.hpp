// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The benchmark every method gets: compress one layer; report time, the fraction of a copy's rate,
// bytes, bits, workspace and quality.

#include "support/beside.hpp"
#include "support/data.hpp"

#include <benchmark/benchmark.h>

#include <cstring>
#include <string>

namespace bench {

/// Bits that the codecs' blocks take for one number, whatever tails, tables and headers add.
template <class Run>
double coded_bits(Run const& r) {
  auto const& layout = r.packed.layout();
  auto const& e = layout.extent;
  auto const of_token = [&](auto const& codec, index_t dim) {
    auto const sizes = codec.sizes(dim, e.tokens);
    return 8.0 * static_cast<double>(sizes.block_bytes) /
           static_cast<double>(sizes.block_tokens * kvslim::detail::group_of(codec).size());
  };
  return (of_token(layout.key, e.head_dim) + of_token(layout.value, e.value_width())) /
         static_cast<double>(e.head_dim + e.value_width());
}

#if defined(KVSLIM_BENCH_SMOKE)
inline constexpr int copy_rounds = 1;  // nobody reads its figures
#else
inline constexpr int copy_rounds = 5;
#endif

/// MakePolicy: tokens -> policy. Axes: tokens, and what lies in the cache; 8 KV heads, 32 query
/// heads, head_dim 128, f16, dense.
template <class MakePolicy>
void method(benchmark::State& state, MakePolicy make, content what) {
  index_t const tokens = state.range(0);
  cache const c({1, 8, tokens, 128}, 32, what);
  run const r(make(tokens), c);
  auto const compress = [&] {
    if (!r.compress(c)) state.SkipWithError("compress failed");
  };
  for (auto _ : state) compress();
  auto const numbers = static_cast<double>(c.extent.rows() * 2 * 128);  // of a token of all heads
  double const source = 2.0 * numbers * static_cast<double>(tokens);
  state.SetBytesProcessed(static_cast<std::int64_t>(source) * state.iterations());

  std::vector<kvslim::f16> to(c.k.size() * 2);
  std::vector<double> of_copy;
  for (int i = 0; i < copy_rounds; ++i) {
    double const copied = processor_seconds([&] {
      std::memcpy(to.data(), c.k.data(), c.k.size() * 2);
      std::memcpy(to.data() + c.k.size(), c.v.data(), c.v.size() * 2);
      benchmark::ClobberMemory();
    });
    of_copy.push_back(copied / processor_seconds(compress));
  }
  state.counters["of_copy"] = median(of_copy);

  double kept = 0;
  for (index_t h = 0; h < c.extent.kv_heads; ++h)
    kept += static_cast<double>(r.packed.tokens(0, h)) / static_cast<double>(c.extent.kv_heads);
  auto const bytes = static_cast<double>(r.packed.bytes());
  state.counters["bytes_per_token"] = bytes / static_cast<double>(tokens);
  state.counters["ratio"] = source / bytes;
  state.counters["bits_coded"] = coded_bits(r);
  state.counters["bits_real"] = 8.0 * bytes / (numbers * kept);
  state.counters["workspace_bytes"] = static_cast<double>(r.plan.workspace_bytes());
  state.counters["attention_error"] = attention_error(r, c);
}

/// Registers the method's benchmark; returns a value so that a file can do so from an initialiser.
template <class MakePolicy>
int add(char const* name, MakePolicy make) {
  for (auto const& [what, suffix] : contents) {
    auto* const one = benchmark::RegisterBenchmark(
        (std::string(name) + suffix).c_str(),
        [make, what = what](benchmark::State& state) { method(state, make, what); });
    one->ArgName("tokens")->Unit(benchmark::kMillisecond);
    if (what == content::usual) one->Arg(1024);
    one->Arg(4096);
  }
  return 0;
}

}  // namespace bench
