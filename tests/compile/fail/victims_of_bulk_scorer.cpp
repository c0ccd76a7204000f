// expect: kvslim: only token scorers choose victims
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

#include <vector>

kvslim::status run(std::vector<std::byte>& memory, std::int32_t* victims) {
  auto const plan = kvslim::make_plan(
      kvslim::pipeline{kvslim::snapkv{}, kvslim::top_k{{.budget = 4}}}, {1, 1, 8, 8});
  return kvslim::choose_victims(kvslim::cpu{}, plan, kvslim::packed_cache(plan, memory), victims,
                                memory);
}
