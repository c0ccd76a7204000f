// expect: kvslim: a CUDA executor was given a host view
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.cuh>

kvslim::status run(float* host, std::byte* memory) {
  auto const cache = kvslim::dense_cache(host, host, {1, 1, 8, 8});
  auto const plan = kvslim::make_plan(
      kvslim::pipeline{kvslim::knorm{}, kvslim::top_k{{.budget = 4}}}, cache.extents());
  kvslim::packed_cache const packed(plan, memory, 0, kvslim::cuda_space{});
  return kvslim::compress(kvslim::cuda{nullptr}, plan, cache, kvslim::evidence<>{}, packed,
                          {memory, 0});
}
