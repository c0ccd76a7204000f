// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda_block.cuh>
#include <kvslim/ops/blend_scores.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Every thread of a block gets the norm of a row's scores.
inline __device__ ops::row_norm block_norm(float const* x, index_t n) {
  double count = 0.0, sum = 0.0, squares = 0.0;
  for (index_t t = threadIdx.x; t < n; t += block_threads)
    if (ops::is_ordinary(x[t])) {
      count += 1.0;
      sum += static_cast<double>(x[t]);
    }
  count = block_sum(count);
  sum = block_sum(sum);
  double const mean = count > 0.0 ? sum / count : 0.0;
  for (index_t t = threadIdx.x; t < n; t += block_threads)
    if (ops::is_ordinary(x[t])) {
      double const d = static_cast<double>(x[t]) - mean;
      squares += d * d;
    }
  return {static_cast<float>(mean), ops::inverse_deviation(count, block_sum(squares))};
}

/// One block per row.
template <class Text>
KVSLIM_DETAIL_KERNEL void blend_kernel(Text text, ops::blend_weights weights, score_view second,
                                       score_view scores) {
  auto const& e = text.extents();
  index_t const r = blockIdx.x, n = text.tokens(r / e.kv_heads, r % e.kv_heads);
  float* const mine = scores.row(r);
  float const* const other = second.row(r);
  ops::row_norm a{}, b{};
  if (weights.standard) {
    a = block_norm(mine, n);
    b = block_norm(other, n);
  }
  for (index_t t = threadIdx.x; t < n; t += block_threads)
    mine[t] = ops::blended(weights, a, b, mine[t], other[t]);
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::blend_scores_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, ops::blend_weights const& weights,
                    score_view second, score_view scores) {
    return detail::launch(exec, {text.extents().rows(), detail::block_threads},
                          detail::blend_kernel<Text>, text, weights, second, scores);
  }
};

KVSLIM_END_NAMESPACE
