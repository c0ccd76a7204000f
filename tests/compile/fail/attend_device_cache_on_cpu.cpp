// expect: compiler: attend
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

kvslim::status run(std::byte* device, kvslim::attend_request<> const& a) {
  auto const plan = kvslim::make_plan(kvslim::kivi<2>{}, {1, 1, 8, 8});
  return kvslim::attend(kvslim::cpu{}, kvslim::packed_cache(plan, device, 0, kvslim::cuda_space{}),
                        a);
}
