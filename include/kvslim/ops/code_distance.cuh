// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda_block.cuh>
#include <kvslim/ops/code_distance.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// One block per bit of a sequence's anchor.
template <class Pages>
KVSLIM_DETAIL_KERNEL void code_anchor_kernel(Pages pages, ops::code_rule rule,
                                             std::uint8_t* anchor) {
  index_t const length = rule.length(pages), s = blockIdx.x / length, b = blockIdx.x % length;
  index_t const n = rule.pages_of(pages, s);
  index_t set = 0;
  for (index_t p = threadIdx.x; p < n; p += block_threads) set += rule.bit(pages, s, p, b) ? 1 : 0;
  set = block_sum(set);
  if (threadIdx.x == 0) anchor[blockIdx.x] = rule.has(b, set, n) ? 1 : 0;
}

/// Distance of one page. Index: [sequence, page].
struct code_distance_body {
  ops::open_pages pages;
  ops::code_rule rule;
  std::uint8_t const* anchor;
  std::int32_t* distances;

  __device__ void operator()(index_t at) const {
    index_t const s = at / pages.extent.tokens, p = at % pages.extent.tokens;
    if (p >= rule.pages_of(pages, s)) return;
    index_t const length = rule.length(pages);
    std::int32_t differ = 0;
    for (index_t b = 0; b < length; ++b)
      differ += rule.bit(pages, s, p, b) != (anchor[s * length + b] != 0) ? 1 : 0;
    distances[at] = differ;
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::code_distance_op, cuda> {
  static status run(cuda exec, ops::open_pages const& pages, ops::code_rule const& rule,
                    std::uint8_t* anchor, std::int32_t* distances) {
    auto const& e = pages.extent;
    if (auto const s =
            detail::launch(exec, {e.sequences * rule.length(pages), detail::block_threads},
                           detail::code_anchor_kernel<ops::open_pages>, pages, rule, anchor);
        !s)
      return s;
    return detail::launch_for_each(exec, e.sequences * e.tokens,
                                   detail::code_distance_body{pages, rule, anchor, distances});
  }
};

KVSLIM_END_NAMESPACE
