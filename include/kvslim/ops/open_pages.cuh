// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda_block.cuh>
#include <kvslim/ops/open_pages.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// One block per row: open tokens are listed in order, then threads are pages.
template <class Text>
KVSLIM_DETAIL_KERNEL void open_pages_kernel(Text text, score_view scores, slice<quota const> quotas,
                                            fate* fates, ops::open_pages pages) {
  auto const& e = text.extents();
  index_t const r = blockIdx.x, n = text.tokens(r / e.kv_heads, r % e.kv_heads);
  index_t const begin = r * e.tokens, count = quotas[r].count;
  fate* const mine = fates + begin;
  index_t sure = 0;
  for (index_t i = threadIdx.x; i < n; i += block_threads) {
    if (mine[i] != fate::evicted)
      ++sure;
    else if (count >= n)
      mine[i] = fate::kept;
    pages.marks[begin + i] = mine[i];
  }
  sure = block_sum(sure);
  index_t const open = block_list(
      n, n, [&](index_t i) { return mine[i] == fate::evicted; },
      [&](index_t i, index_t place) { pages.ranks[begin + place] = static_cast<std::int32_t>(i); });
  if (threadIdx.x == 0) pages.set_row(r, open, sure, count);
  __syncthreads();
  for (index_t p = threadIdx.x; p < pages.counts[r]; p += block_threads) {
    pages.sums[begin + p] = pages.sum_of(r, p, scores.row(r));
    pages.fates[begin + p] = fate::evicted;
  }
}

/// Keeps one token if its page is kept. Index: [row, open token].
struct keep_pages_body {
  ops::open_pages pages;
  fate* fates;

  __device__ void operator()(index_t at) const {
    index_t const tokens = pages.extent.tokens, r = at / tokens, i = at % tokens;
    if (i >= pages.counts[r] * pages.split.size) return;
    if (pages.fates[r * tokens + i / pages.split.size] == fate::kept)
      fates[r * tokens + pages.rank(r, i)] = fate::kept;
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::open_pages_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, score_view scores, slice<quota const> quotas,
                    fate* fates, ops::open_pages const& pages) {
    return detail::launch(exec, {text.extents().rows(), detail::block_threads},
                          detail::open_pages_kernel<Text>, text, scores, quotas, fates, pages);
  }
};

template <>
struct implementation<ops::keep_pages_op, cuda> {
  static status run(cuda exec, ops::open_pages const& pages, fate* fates) {
    return detail::launch_for_each(exec, pages.extent.rows() * pages.extent.tokens,
                                   detail::keep_pages_body{pages, fates});
  }
};

KVSLIM_END_NAMESPACE
