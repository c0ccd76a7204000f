// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/representatives.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// One warp per row: distances are counted, then every candidate's place in order is where its
/// distance begins and how many before it have the same.
template <class Pages>
KVSLIM_DETAIL_KERNEL void representatives_kernel(Pages pages, std::int32_t const* distances,
                                                 int longest, spacing how) {
  KVSLIM_DETAIL_DYNAMIC_SHARED(shared);
  int* const next = reinterpret_cast<int*>(shared);  // [longest + 1]: place of the next one
  auto const& e = pages.extent;
  index_t const r = blockIdx.x, count = pages.counts[r];
  std::int32_t const* const distance = distances + r / e.kv_heads * e.tokens;
  fate* const fates = pages.fates + r * e.tokens;
  int const lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i <= longest; i += warp_threads) next[i] = 0;
  __syncwarp();
  int n = 0;
  for (index_t p = lane; p < count; p += warp_threads)
    if (fates[p] == fate::evicted) {
      atomicAdd(next + distance[p], 1);
      ++n;
    }
  n = over_warp(n, [](int a, int b) { return a + b; });
  __syncwarp();
  if (lane == 0)
    for (int i = 0, before = 0; i <= longest; ++i) {
      int const here = next[i];
      next[i] = before;
      before += here;
    }
  __syncwarp();
  for (index_t base = 0; base < count; base += warp_threads) {
    index_t const p = base + lane;
    bool const mine = p < count && fates[p] == fate::evicted;
    int const d = mine ? distance[p] : -1;
    int before = 0, after = 0;
    for (int other = 0; other < warp_threads; ++other) {
      bool const same = __shfl_sync(0xffffffffu, d, other) == d;
      before += same && other < lane ? 1 : 0;
      after += same && other > lane ? 1 : 0;
    }
    int const place = mine ? next[d] + before : 0;
    __syncwarp();
    if (mine && after == 0) next[d] = place + 1;
    if (mine && ops::is_representative(how, place, n, pages.representatives[r]))
      fates[p] = fate::kept;
    __syncwarp();
  }
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::keep_representatives_op, cuda> {
  static status run(cuda exec, ops::open_pages const& pages, std::int32_t const* distances,
                    index_t longest, spacing how, std::uint64_t*) {
    return detail::launch(
        exec, {pages.extent.rows(), detail::warp_threads, (longest + 1) * index_t{sizeof(int)}},
        detail::representatives_kernel<ops::open_pages>, pages, distances,
        static_cast<int>(longest), how);
  }
};

KVSLIM_END_NAMESPACE
