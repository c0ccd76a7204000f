// expect: kvslim: the scorer reads evidence that was not passed
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

#include <vector>

kvslim::status run(kvslim::archetype::cache cache, std::vector<std::byte>& memory) {
  auto const plan = kvslim::make_plan(
      kvslim::pipeline{kvslim::snapkv{}, kvslim::top_k{{.budget = 4}}}, cache.extents());
  return kvslim::compress(kvslim::cpu{}, plan, cache, kvslim::evidence<>{},
                          kvslim::packed_cache(plan, memory), memory);
}
