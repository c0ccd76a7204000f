// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/mean_direction.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int mean_threads = 128;

/// One block per (row, stretch): threads are tokens while lengths are taken, then channels, which
/// add up keys in text order.
template <class Text>
KVSLIM_DETAIL_KERNEL void mean_stretch_kernel(Text text, bool unit_keys, float* scratch,
                                              index_t stretches) {
  __shared__ float unit[ops::mean_stretch];
  auto const& e = text.extents();
  index_t const r = blockIdx.x / stretches, stretch = blockIdx.x % stretches;
  index_t const s = r / e.kv_heads, h = r % e.kv_heads, first = stretch * ops::mean_stretch;
  index_t const n = min(ops::mean_stretch, text.tokens(s, h) - first);
  for (index_t i = threadIdx.x; i < n; i += mean_threads) {
    float squares = 0.0f;
    if (unit_keys)
      for (float const x : text.key(s, h, first + i)) squares += x * x;
    unit[i] = unit_keys ? ops::to_unit(sqrtf(squares), ops::normalized_least) : 1.0f;
  }
  __syncthreads();
  float* const out = scratch + r * ops::mean_direction_floats(e) + stretch * e.head_dim;
  for (index_t d = threadIdx.x; d < e.head_dim; d += mean_threads) {
    float sum = 0.0f;
    for (index_t i = 0; i < n; ++i) sum += text.key(s, h, first + i)[d] * unit[i];
    out[d] = sum;
  }
}

/// One block per row: the mean of its stretches, then its direction.
template <class Text>
KVSLIM_DETAIL_KERNEL void mean_direction_kernel(Text text, float* out, float const* scratch,
                                                index_t stretches) {
  auto const& e = text.extents();
  index_t const r = blockIdx.x, dim = e.head_dim;
  auto const n = static_cast<float>(max(1, text.tokens(r / e.kv_heads, r % e.kv_heads)));
  float* const mean = out + r * dim;
  for (index_t d = threadIdx.x; d < dim; d += mean_threads) {
    float sum = 0.0f;
    for (index_t i = 0; i < stretches; ++i)
      sum += scratch[r * ops::mean_direction_floats(e) + i * dim + d] / n;
    mean[d] = sum;
  }
  __syncthreads();
  float squares = 0.0f;
  for (index_t d = 0; d < dim; ++d) squares += mean[d] * mean[d];
  float const unit = ops::to_unit(sqrtf(squares), ops::cosine_least);
  __syncthreads();  // all have read what each now changes
  for (index_t d = threadIdx.x; d < dim; d += mean_threads) mean[d] *= unit;
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::mean_direction_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, bool unit_keys, float* out, float* scratch) {
    auto const& e = text.extents();
    index_t const stretches = detail::div_up(e.tokens, ops::mean_stretch);
    if (auto const s =
            detail::launch(exec, {e.rows() * stretches, detail::mean_threads},
                           detail::mean_stretch_kernel<Text>, text, unit_keys, scratch, stretches);
        !s)
      return s;
    return detail::launch(exec, {e.rows(), detail::mean_threads},
                          detail::mean_direction_kernel<Text>, text, out, scratch, stretches);
  }
};

KVSLIM_END_NAMESPACE
