// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The best quarter of a row's scores against std::nth_element on indices, which is no floor:
// `of_floor` says how many times as fast it is; and moving them to the front against memmove.

#include "support/beside.hpp"
#include "support/data.hpp"

#include <cstring>
#include <numeric>

using namespace kvslim;

namespace {

struct chosen {
  bench::cache c;
  std::vector<std::uint64_t> keys;
  std::vector<fate> fates;
  std::vector<std::int32_t> ranks, cells;
  std::vector<index_t> begins = {0, 0};

  explicit chosen(index_t tokens)
      : c({1, 1, tokens, 128}, 1),
        keys(static_cast<std::size_t>(tokens)),
        fates(keys.size()),
        ranks(keys.size()),
        cells(keys.size()) {}
  void choose(benchmark::State& state) {
    auto const view = c.view();
    text<std::remove_const_t<decltype(view)>> const seen{view, {}};
    quota const q{.count = c.extent.tokens / 4};
    if (!ops::keep_best(cpu{}, seen, {c.scores.data(), c.extent.tokens}, slice<quota const>{&q, 1},
                        keys.data(), fates.data()))
      state.SkipWithError("keep_best failed");
  }
  [[nodiscard]] keep_set list(benchmark::State& state) {
    auto const view = c.view();
    text<std::remove_const_t<decltype(view)>> const seen{view, {}};
    keep_set keep{};
    keep.begins = begins.data();
    keep.ranks = ranks.data();
    keep.cells = cells.data();
    keep.room = c.extent.tokens;
    if (!ops::list_kept(cpu{}, seen, fates.data(), keep)) state.SkipWithError("list_kept failed");
    return keep;
  }
};

void top_keys(benchmark::State& state) {
  chosen x(state.range(0));
  std::vector<std::uint32_t> indices(x.keys.size());
  bench::beside(
      state,
      [&] {
        std::fill(x.fates.begin(), x.fates.end(), fate::evicted);
        x.choose(state);
      },
      [&] {
        std::iota(indices.begin(), indices.end(), 0u);
        std::nth_element(indices.begin(), indices.begin() + state.range(0) / 4, indices.end(),
                         [&](auto a, auto b) { return x.c.scores[a] > x.c.scores[b]; });
        benchmark::DoNotOptimize(indices.data());
      });
}
BENCHMARK(top_keys)->ArgName("tokens")->Arg(1024)->Arg(65536)->UseManualTime()->Unit(
    benchmark::kMicrosecond);

void compact(benchmark::State& state) {
  chosen x(state.range(0));
  x.choose(state);
  keep_set const keep = x.list(state);
  std::size_t const half = x.c.k.size() * sizeof(f16);
  bench::buffer const source(2 * half), target(2 * half);  // aligned, as engines' memory is
  std::memcpy(source.data(), x.c.k.data(), half);
  std::memcpy(source.data() + half, x.c.v.data(), half);
  auto const view_of = [&](bench::buffer const& b) {
    auto* const k = static_cast<f16*>(static_cast<void*>(b.data()));
    return dense_cache(k, k + x.c.k.size(), x.c.extent);
  };
  auto const view = view_of(source), to = view_of(target);
  auto const bytes = static_cast<std::size_t>(keep.count(0) * 128 * 2);
  bench::beside(
      state,
      [&] {
        if (!ops::compact(cpu{}, view, to, keep)) state.SkipWithError("compact failed");
      },
      [&] {
        std::memmove(target.data(), source.data(), bytes);
        std::memmove(target.data() + half, source.data() + half, bytes);
        benchmark::DoNotOptimize(target.data());
      });
}
BENCHMARK(compact)->ArgName("tokens")->Arg(1024)->Arg(131072)->UseManualTime()->Unit(
    benchmark::kMicrosecond);

void serialize(benchmark::State& state) {
  bench::cache const c({1, 8, state.range(0), 128}, 32);
  bench::run const r(pipeline{kivi<4>{}}, c);
  if (!r.compress(c)) state.SkipWithError("compress failed");
  bench::buffer const out(r.packed.bytes());
  bench::beside(
      state,
      [&] {
        if (!kvslim::serialize(r.packed, out.data(), out.size()))
          state.SkipWithError("serialize failed");
      },
      [&] {
        std::memcpy(out.data(), r.storage.data(), out.size());
        benchmark::DoNotOptimize(out.data());
      });
}
BENCHMARK(serialize)->ArgName("tokens")->Arg(1024)->Arg(16384)->UseManualTime()->Unit(
    benchmark::kMicrosecond);

}  // namespace
