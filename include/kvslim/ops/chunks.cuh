// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda_block.cuh>
#include <kvslim/ops/chunks.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// One block per row: protected tokens are counted, then threads are chunks.
template <class Text>
KVSLIM_DETAIL_KERNEL void make_chunks_kernel(Text text, score_view scores,
                                             slice<quota const> quotas, fate const* fates,
                                             ops::chunks out) {
  auto const& e = text.extents();
  index_t const r = blockIdx.x, n = text.tokens(r / e.kv_heads, r % e.kv_heads);
  fate const* const mine = fates + r * e.tokens;
  index_t sure = 0;
  for (index_t i = threadIdx.x; i < n; i += block_threads) sure += mine[i] != fate::evicted ? 1 : 0;
  sure = block_sum(sure);
  if (threadIdx.x == 0) out.set_row(r, n, sure, quotas[r].count);
  for (index_t c = threadIdx.x; c < div_up(n, out.size); c += block_threads) {
    out.scores[r * out.extent.tokens + c] = out.score_of(c, n, scores.row(r), mine);
    out.fates[r * out.extent.tokens + c] = fate::evicted;
  }
}

template <class Text>
struct keep_chunks_body {
  Text text;
  ops::chunks of;
  fate* fates;

  __device__ void operator()(index_t at) const {
    index_t const tokens = text.extents().tokens;
    ops::keep_of_chunk(text, of, fates, at / tokens, at % tokens);
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::make_chunks_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, score_view scores, slice<quota const> quotas,
                    fate const* fates, ops::chunks const& out) {
    return detail::launch(exec, {text.extents().rows(), detail::block_threads},
                          detail::make_chunks_kernel<Text>, text, scores, quotas, fates, out);
  }
};

template <>
struct implementation<ops::keep_chunks_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, ops::chunks const& of, fate* fates) {
    auto const& e = text.extents();
    return detail::launch_for_each(exec, e.rows() * e.tokens,
                                   detail::keep_chunks_body<Text>{text, of, fates});
  }
};

KVSLIM_END_NAMESPACE
