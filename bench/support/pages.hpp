// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "support/data.hpp"

#include <benchmark/benchmark.h>

namespace bench {

/// One decoding step of a layer: an index chooses pages, which are attended. budget 0: all of it,
/// no choice. make_index: budget -> index.
template <class MakeIndex>
void page_step(benchmark::State& state, MakeIndex make_index) {
  using namespace kvslim;
  index_t const tokens = 32768, budget = state.range(0);
  cache const c({1, 8, tokens, 128}, 32);
  pipeline const policy{dense<f16>{}, make_index(budget)};
  run const r(policy, c);
  if (!r.compress(c)) return state.SkipWithError("compress failed");
  std::vector<std::byte> update(update_index_bytes(r.plan)), choose(select_pages_bytes(r.plan, 32)),
      scratch(attend_bytes(r.plan.layout(), 32));
  if (!update_index(cpu{}, r.plan, r.packed, update))
    return state.SkipWithError("update_index failed");
  index_t const most = most_spans(r.plan);
  std::vector<std::int32_t> begin_end(static_cast<std::size_t>(8 * most * 2)), counts(8);
  page_spans const spans{begin_end.data(), counts.data(), most};
  std::vector<float> const q(32 * 128, 0.3f);
  std::vector<float> out(32 * 128), lse(32);
  attend_request<> request{.q = dense_rows<host_space, float const>(q.data(), {1, 32, 1, 128}),
                           .out = dense_rows(out.data(), {1, 32, 1, 128}),
                           .lse = lse.data()};
  for (auto _ : state) {
    if (budget > 0) {
      if (!select_pages(cpu{}, r.plan, r.packed, request, spans, choose))
        state.SkipWithError("select_pages failed");
      request.visible = spans;
    }
    if (!attend(cpu{}, r.packed, request, scratch)) state.SkipWithError("attend failed");
  }
}

}  // namespace bench
