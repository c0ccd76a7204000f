// expect: kvslim: the quota's table lies in other memory than the cache
// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include <kvslim/kvslim.hpp>

kvslim::status run(float const* k, std::int32_t const* counts, kvslim::keep_set& keep) {
  auto const cache = kvslim::dense_cache(k, k, {1, 1, 8, 8});
  auto const plan = kvslim::make_plan(
      kvslim::pipeline{kvslim::knorm{},
                       kvslim::head_table<kvslim::cuda_space>{{.counts = counts, .most = 4}}},
      cache.extents());
  return kvslim::select(kvslim::cpu{}, plan, cache, kvslim::evidence<>{}, keep, {});
}
