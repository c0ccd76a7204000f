// expect: kvslim: choose_victims needs a pipeline with a scorer and a quota
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

#include <vector>

kvslim::status run(std::vector<std::byte>& memory, std::int32_t* victims) {
  auto const plan = kvslim::make_plan(kvslim::kivi<2>{}, {1, 1, 8, 8});
  return kvslim::choose_victims(kvslim::cpu{}, plan, kvslim::packed_cache(plan, memory), victims,
                                memory);
}
