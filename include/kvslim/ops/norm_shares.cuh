// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda_block.cuh>
#include <kvslim/ops/norm_shares.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Squared norms of one token's key and value.
template <class Text>
struct squared_norms_body {
  Text text;
  float* scratch;

  __device__ void operator()(index_t at) const {
    auto const& e = text.extents();
    index_t const r = at / e.tokens, t = at % e.tokens, s = r / e.kv_heads, h = r % e.kv_heads;
    if (t >= text.tokens(s, h)) return;
    auto const k = text.key(s, h, t);
    auto const v = text.value(s, h, t);
    float* const keys = scratch + r * ops::norm_share_floats(e);
    keys[t] = ops::dot_channels(k, k, k.size());
    keys[e.tokens + t] = ops::dot_channels(v, v, v.size());
  }
};

/// One block per row.
template <class Text>
KVSLIM_DETAIL_KERNEL void norm_shares_kernel(Text text, ops::share_options o, score_view out,
                                             float const* scratch) {
  auto const& e = text.extents();
  index_t const r = blockIdx.x, n = text.tokens(r / e.kv_heads, r % e.kv_heads);
  float* const scores = out.row(r);
  float const* const keys = scratch + r * ops::norm_share_floats(e);
  double all = 0.0;
  for (index_t t = threadIdx.x; t < n; t += block_threads) {
    scores[t] = ops::combine_shares(o, keys, keys + e.tokens, t, n);
    all += static_cast<double>(scores[t]);
  }
  all = block_sum(all);
  for (index_t t = threadIdx.x; t < n; t += block_threads)
    scores[t] = t < o.sinks ? 1.0f : ops::share_of(scores[t], static_cast<float>(all));
  for (index_t t = n + threadIdx.x; t < e.tokens; t += block_threads) scores[t] = 0.0f;
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::norm_shares_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, ops::share_options const& o, score_view out,
                    float* scratch) {
    auto const& e = text.extents();
    if (auto const s = detail::launch_for_each(exec, e.rows() * e.tokens,
                                               detail::squared_norms_body<Text>{text, scratch});
        !s)
      return s;
    return detail::launch(exec, {e.rows(), detail::block_threads}, detail::norm_shares_kernel<Text>,
                          text, o, out, scratch);
  }
};

KVSLIM_END_NAMESPACE
