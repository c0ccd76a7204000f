// expect: compiler: tokens
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

auto run(std::byte* device) {
  auto const plan = kvslim::make_plan(kvslim::kivi<2>{}, {1, 1, 8, 8});
  kvslim::packed_cache const packed(plan, device, 0, kvslim::cuda_space{});
  return packed.tokens(0, 0);
}
