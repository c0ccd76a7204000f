// expect: kvslim: this pipeline has no scorer
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

#include <vector>

kvslim::status run(kvslim::archetype::cache cache, std::vector<std::byte>& memory) {
  auto const plan = kvslim::make_plan(kvslim::kivi<2>{}, cache.extents());
  return kvslim::score(kvslim::cpu{}, plan, cache, kvslim::evidence<>{}, {}, memory);
}
