// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// SnapKV's scoring, 32 query and 8 KV heads of 128, window 32, against the multiply-adds of its two
// passes at the rate that products of 64 queries and 6 keys in the first cache reach.

#include "support/beside.hpp"
#include "support/data.hpp"

using namespace kvslim;

namespace {

void attention_mass(benchmark::State& state) {
  index_t const tokens = state.range(0), heads = 32, window = 32;
  bench::cache const c({1, 8, tokens, 128}, heads);
  auto const view = c.view();
  text<std::remove_const_t<decltype(view)>> const seen{view, {}};
  rows<> const queries = dense_rows(c.q.data(), {1, heads, window, 128});
  auto const floats = static_cast<std::size_t>(ops::mass_floats(view.extents(), window));
  bench::buffer const scratch(floats * 4 * 8), small(64 * 1024);
  std::vector<float> out(static_cast<std::size_t>(8 * tokens));
  auto* const work = kvslim::detail::array_at<float>(scratch.data());
  float* const q = kvslim::detail::array_at<float>(small.data());
  float *const k = q + 64 * 128, *const logits = k + 6 * 128;
  index_t const products = 2 * heads * window * tokens / (64 * 6);
  bench::beside(
      state,
      [&] {
        if (!ops::attention_mass(cpu{}, seen, queries, {.kernel = 5}, {out.data(), tokens}, work))
          state.SkipWithError("attention_mass failed");
      },
      [&] {
        for (index_t i = 0; i < products; ++i) {
          ops::multiply_lanes(q, 64, k, 128, 6, logits, 64);
          benchmark::DoNotOptimize(logits);
        }
      });
}
BENCHMARK(attention_mass)
    ->ArgName("tokens")
    ->Arg(1024)
    ->Arg(16384)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
