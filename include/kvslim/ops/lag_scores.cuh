// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda_block.cuh>
#include <kvslim/ops/lag_scores.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Adds one side's softmax to the scores of a partition: threads are channels while the next
/// partition, row(lag) and on, is measured, then tokens. `z` holds a float for every token.
template <class Row>
__device__ void lag_side(ops::lag_partitions const& parts, index_t dim, float share, float* scores,
                         float* z, Row const& row) {
  __shared__ float least[extents::most_channels], inverse[extents::most_channels];
  int mine = 0;
  for (index_t d = threadIdx.x; d < dim; d += block_threads) {
    float low = INFINITY, high = -INFINITY;
    for (index_t t = 0; t < parts.lag; ++t) {
      float const x = row(parts.lag + t)[d];
      low = x < low ? x : low;
      high = x > high ? x : high;
    }
    least[d] = low;
    inverse[d] = ops::lag_inverse(low, high);
    mine += inverse[d] > 0.0f ? 1 : 0;
  }
  int const used = block_sum(mine);
  float most = -INFINITY;
  for (index_t t = threadIdx.x; t < parts.lag; t += block_threads) {
    z[t] = ops::lag_deviation(row(t), least, inverse, dim, used);
    most = z[t] > most ? z[t] : most;
  }
  most = over_block(most, [](float a, float b) { return a > b ? a : b; });
  double total = 0.0;
  for (index_t t = threadIdx.x; t < parts.lag; t += block_threads)
    total += static_cast<double>(z[t] = ops::exp_nonpositive(z[t] - most));
  float const scale = share * static_cast<float>(1.0 / block_sum(total));
  for (index_t t = threadIdx.x; t < parts.lag; t += block_threads) scores[t] += z[t] * scale;
}

/// One block per (row, partition); what no partition scores is written by the row's first.
template <class Text>
KVSLIM_DETAIL_KERNEL void lag_kernel(Text text, ops::lag_partitions parts, index_t most,
                                     score_view out, float* scratch) {
  auto const& e = text.extents();
  for (index_t item = blockIdx.x; item < e.rows() * most; item += gridDim.x) {
    index_t const r = item / most, p = item % most, s = r / e.kv_heads, h = r % e.kv_heads,
                  n = text.tokens(s, h), begin = parts.sinks + p * parts.lag,
                  scored = parts.sinks + parts.scored(n) * parts.lag;
    float* const scores = out.row(r);
    if (p == 0)
      for (index_t t = threadIdx.x; t < e.tokens; t += block_threads)
        if (t < parts.sinks || t >= scored) scores[t] = t < n ? parts.unscored(t, n) : 0.0f;
    if (p >= parts.scored(n)) continue;
    float* const z = scratch + r * ops::lag_score_floats(e) + begin;
    for (index_t t = threadIdx.x; t < parts.lag; t += block_threads) scores[begin + t] = 0.0f;
    lag_side(parts, e.head_dim, parts.share(false), scores + begin, z,
             [&](index_t t) { return text.key(s, h, begin + t); });
    lag_side(parts, e.value_width(), parts.share(true), scores + begin, z,
             [&](index_t t) { return text.value(s, h, begin + t); });
    if (!parts.ranked) continue;
    for (index_t t = threadIdx.x; t < parts.lag; t += block_threads)
      z[t] = ops::lag_number(scores[begin + t]);
    __syncthreads();
    for (index_t t = threadIdx.x; t < parts.lag; t += block_threads)
      scores[begin + t] =
          static_cast<float>(ops::lag_rank(z, parts.lag, t)) / static_cast<float>(parts.lag);
    __syncthreads();
  }
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::lag_scores_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, ops::lag_partitions const& parts, score_view out,
                    float* scratch) {
    auto const& e = text.extents();
    index_t const most = detail::max(1, parts.scored(e.tokens));
    return detail::launch(exec, {detail::blocks_for(e.rows() * most), detail::block_threads},
                          detail::lag_kernel<Text>, text, parts, most, out, scratch);
  }
};

KVSLIM_END_NAMESPACE
