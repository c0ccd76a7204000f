// expect: kvslim: a CPU executor was given a device view
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

#include <vector>

kvslim::status run(float* device, std::vector<std::byte>& memory) {
  auto const cache = kvslim::dense_cache<kvslim::cuda_space>(device, device, {1, 1, 8, 8});
  auto const plan = kvslim::make_plan(
      kvslim::pipeline{kvslim::knorm{}, kvslim::top_k{{.budget = 4}}}, cache.extents());
  return kvslim::compress(kvslim::cpu{}, plan, cache, kvslim::evidence<>{},
                          kvslim::packed_cache(plan, memory), memory);
}
