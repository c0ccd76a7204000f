// expect: kvslim: this scorer observes nothing
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

#include <vector>

kvslim::status run(std::vector<std::byte>& memory, kvslim::attend_request<> const& a) {
  auto const plan = kvslim::make_plan(kvslim::kivi<2>{}, {1, 1, 8, 8});
  return kvslim::observe(kvslim::cpu{}, kvslim::knorm{}, kvslim::packed_cache(plan, memory), a);
}
