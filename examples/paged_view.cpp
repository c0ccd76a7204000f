// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// An engine's paged memory, viewed without a copy.

#include "support.hpp"

#include <kvslim/kvslim.hpp>

#include <cstdio>

// [readme: paged]
kvslim::status compress_pages(float const* kv, std::int32_t const* block_table,
                              std::int32_t const* lengths) {
  kvslim::index_t const num_blocks = 64, page_size = 16, kv_heads = 2, head_dim = 64;
  auto const plane = num_blocks * page_size * kv_heads * head_dim;  // elements; K's pages, then V's
  auto const cache = kvslim::adapt::vllm<float const>(
      {.k = kv,
       .v = kv + plane,
       .block_table = block_table,
       .lengths = lengths,
       .extent = {.sequences = 2, .kv_heads = kv_heads, .tokens = 400, .head_dim = head_dim},
       .page_size = page_size,
       .table_width = 25});
  auto const plan = kvslim::make_plan(
      kvslim::pipeline{kvslim::knorm{}, kvslim::top_k{{.budget = 128}}}, cache.extents());
  std::vector<std::byte> storage(plan.packed_bytes()), scratch(plan.workspace_bytes());
  kvslim::packed_cache packed(plan, storage);
  return kvslim::compress(kvslim::cpu{}, plan, cache, kvslim::evidence<>{}, packed, scratch);
}
// [readme: end]

int main() {
  std::vector<float> kv(2 * 64 * 16 * 2 * 64);
  for (std::size_t i = 0; i < kv.size(); ++i)
    kv[i] = static_cast<float>(i * 2654435761u % 1000) / 1000.0f;
  std::vector<std::int32_t> table(50);
  for (std::size_t i = 0; i < table.size(); ++i)
    table[i] = static_cast<std::int32_t>(i * 37 % 64);  // pages in any order
  std::int32_t const lengths[] = {400, 130};
  auto const done = compress_pages(kv.data(), table.data(), lengths);
  std::printf("%s\n", done.message);
  return done.ok() ? 0 : 1;
}
