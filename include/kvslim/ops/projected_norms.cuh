// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/projected_norms.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int projected_threads = 128;
inline constexpr int projected_tile = 32;  ///< outputs, and channels, at a time

/// Norms of 128 tokens of a row, one a thread.
template <class Text>
KVSLIM_DETAIL_KERNEL void projected_norms_kernel(Text text, rows<cuda_space> weights,
                                                 index_t blocks_of_row, score_view out) {
  __shared__ float v[projected_tile][projected_threads + 1], w[projected_tile][projected_tile];
  auto const& e = text.extents();
  int const me = static_cast<int>(threadIdx.x);
  index_t const dim = e.value_width(), group = weights.heads / e.kv_heads;
  for (index_t item = blockIdx.x; item < e.rows() * blocks_of_row; item += gridDim.x) {
    index_t const r = item / blocks_of_row, s = r / e.kv_heads, h = r % e.kv_heads,
                  n = text.tokens(s, h), first = item % blocks_of_row * projected_threads,
                  t = first + me;
    float norm = 0.0f;
    for (index_t g = 0; g < group && first < n; ++g)
      for (index_t m = 0; m < weights.head_dim; m += projected_tile) {
        float x[projected_tile] = {};
        for (index_t d0 = 0; d0 < dim; d0 += projected_tile) {
          __syncthreads();
          for (int at = me; at < projected_threads * projected_tile; at += projected_threads) {
            int const token = at / projected_tile, c = at % projected_tile;
            v[c][token] =
                first + token < n && d0 + c < dim ? text.value(s, h, first + token)[d0 + c] : 0.0f;
          }
          for (int at = me; at < projected_tile * projected_tile; at += projected_threads) {
            int const c = at / projected_tile, i = at % projected_tile;
            w[c][i] = d0 + c < dim && m + i < weights.head_dim
                          ? weights.at(s % weights.sequences, h * group + g, d0 + c, m + i)
                          : 0.0f;
          }
          __syncthreads();
          for (int c = 0; c < projected_tile; ++c) {
            float const mine = v[c][me];
            unrolled<projected_tile>([&](int i) { x[i] += w[c][i] * mine; });
          }
        }
        float sum = 0.0f;
        unrolled<projected_tile>([&](int i) { sum += fabsf(x[i]); });
        norm += sum / static_cast<float>(group);
      }
    if (t < e.tokens) out.row(r)[t] = t < n ? norm : 0.0f;
  }
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::projected_norms_op, cuda> {
  template <class Text, class Space>
  static status run(cuda exec, Text const& text, rows<Space> const& weights, score_view out,
                    float*) {
    static_assert(std::same_as<Space, cuda_space>,
                  "kvslim: a CUDA executor was given a projection in host memory");
    auto const& e = text.extents();
    index_t const blocks = detail::div_up(e.tokens, detail::projected_threads);
    return detail::launch(exec, {detail::blocks_for(e.rows() * blocks), detail::projected_threads},
                          detail::projected_norms_kernel<Text>, text, weights, blocks, out);
  }
};

KVSLIM_END_NAMESPACE
