// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// For an engine that moves its own cells: select() says what stays and compact() closes the gaps in
// place. And the other way round: an engine's own choice of cells, stored by a codec of kvslim's.

#include "support.hpp"

#include <kvslim/kvslim.hpp>

#include <cstdio>

// [readme: keep]
/// Which cells stay, then the move itself; afterwards row r holds keep.count(r) tokens.
kvslim::status shrink_in_place(auto cache, kvslim::index_t budget) {
  auto const plan = kvslim::make_plan(
      kvslim::pipeline{kvslim::knorm{}, kvslim::top_k{{.budget = budget, .sinks = 4}}},
      cache.extents());
  std::vector<std::byte> memory(plan.keep_bytes()), scratch(plan.select_bytes());
  auto keep = plan.keep(memory);
  if (auto s = kvslim::select(kvslim::cpu{}, plan, cache, kvslim::evidence<>{}, keep, scratch); !s)
    return s;
  return kvslim::ops::compact(kvslim::cpu{}, cache, cache, keep);
}

/// Every eighth cell, as an engine with reasons of its own might decide, stored in 4 bits.
kvslim::status store_own_choice(auto cache) {
  kvslim::extents const e = cache.extents();
  std::vector<std::int64_t> begins{0};
  std::vector<std::int32_t> cells;
  for (kvslim::index_t r = 0; r < e.rows(); ++r) {
    for (kvslim::index_t t = 0; t < e.tokens; t += 8) cells.push_back(static_cast<std::int32_t>(t));
    begins.push_back(std::ssize(cells));
  }
  kvslim::keep_set const keep{.begins = begins.data(), .cells = cells.data()};
  auto const plan = kvslim::make_plan(kvslim::int_per_token<4>{}, e, {.positions = true});
  std::vector<std::byte> storage(plan.packed_bytes()), scratch(plan.encode_bytes());
  kvslim::packed_cache packed(plan, storage);
  auto const done = kvslim::encode(kvslim::cpu{}, plan, cache, keep, packed, scratch);
  std::printf("%lld tokens in %zu bytes, the last at position %d\n",
              static_cast<long long>(packed.tokens(0, 0)), packed.bytes(),
              packed.position(0, 0, packed.slots(0, 0) - 1));
  return done;
}
// [readme: end]

int main() {
  kvslim::extents const e{.sequences = 1, .kv_heads = 2, .tokens = 512, .head_dim = 64};
  std::vector<float> k(2 * 512 * 64), v(k.size());
  for (std::size_t i = 0; i < k.size(); ++i) {
    k[i] = static_cast<float>(i * 2654435761u % 1000) / 1000.0f;
    v[i] = static_cast<float>(i / 64);  // the row's number
  }
  auto const cache = kvslim::dense_cache(k.data(), v.data(), e);
  auto const stored = store_own_choice(cache);
  auto const moved = shrink_in_place(cache, 64);
  std::printf("%s, %s: cells 0 to 63 of head 0 now hold tokens 0 to %.0f\n", stored.message,
              moved.message, static_cast<double>(v[63 * 64]));
  bool ascends = true;
  for (std::size_t t = 1; t < 64; ++t) ascends = ascends && v[t * 64] > v[(t - 1) * 64];
  return stored && moved && ascends && v[0] == 0.0f ? 0 : 1;
}
