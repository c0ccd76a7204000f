// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda_block.cuh>
#include <kvslim/ops/gate.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// One block per row: the tokens whose keys reach a threshold keep their scores.
template <class Text>
KVSLIM_DETAIL_KERNEL void gate_scores_kernel(Text text, gate rule, score_view doubts,
                                             score_view out) {
  auto const& e = text.extents();
  index_t const r = blockIdx.x, n = text.tokens(r / e.kv_heads, r % e.kv_heads);
  float const* const doubt = doubts.row(r);
  auto const each = [&](auto const& use) {
    for (index_t i = threadIdx.x; i < n; i += block_threads)
      if (ops::may_go(text, rule, r, i)) use(ops::order_key(-doubt[i], i));
  };
  index_t may = 0;
  each([&](std::uint64_t) { ++may; });
  may = block_sum(may);
  std::uint64_t threshold = 0;
  if (rule.open <= 0)
    threshold = ~std::uint64_t{0};  // above every key
  else if (rule.open < may)
    threshold = block_threshold(rule.open, each);
  for (index_t i = threadIdx.x; i < n; i += block_threads)
    if (!ops::may_go(text, rule, r, i) || ops::order_key(-doubt[i], i) < threshold)
      out.row(r)[i] = INFINITY;
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::gate_scores_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, gate const& rule, score_view doubts,
                    std::uint64_t*, score_view out) {
    return detail::launch(exec, {text.extents().rows(), detail::block_threads},
                          detail::gate_scores_kernel<Text>, text, rule, doubts, out);
  }
};

KVSLIM_END_NAMESPACE
