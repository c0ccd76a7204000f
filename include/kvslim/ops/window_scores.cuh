// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/cuda.cuh>
#include <kvslim/ops/window_scores.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

inline constexpr int window_threads = 128;

/// One block per row, threads over tokens. Every thread keeps its own running maximum and sum of one query row; they are combined in
/// shared memory, and a second pass over K adds the probabilities.
template <class Cache, class Queries>
__global__ void window_scores_kernel(Cache cache, Queries queries, ops::window_options options, score_view out, float* scratch,
                                     index_t row_floats) {
  __shared__ float most_of[window_threads], total_of[window_threads];
  auto const& e = cache.extent;
  index_t const r = blockIdx.x, s = r / e.kv_heads, h = r % e.kv_heads, dim = e.head_dim;
  index_t const window = queries.tokens, length = cache.length(s), prefix = length - window, group = queries.heads / e.kv_heads;
  float const scale = 1.0f / sqrtf(static_cast<float>(dim));
  float* const mass = scratch + r * row_floats + ops::window_mass_floats(dim, window);
  float* const pooled = mass + e.tokens;
  float* const scores = out.row(r);
  for (index_t t = threadIdx.x; t < e.tokens; t += blockDim.x) scores[t] = 0.0f;
  for (index_t g = 0; g < group; ++g) {
    for (index_t t = threadIdx.x; t < prefix; t += blockDim.x) mass[t] = 0.0f;
    for (index_t w = 0; w < window; ++w) {
      auto const* const q = queries.row(s, h * group + g, w);
      auto const logit = [&](index_t t) {
        auto const* const k = cache.k.row(s, h, t);
        float sum = 0.0f;
        for (index_t d = 0; d < dim; ++d) sum += to_float(q[d * queries.layout.channel]) * scale * to_float(k[d * cache.k.layout.channel]);
        return sum + cache.weight(s, t);
      };
      float most = -INFINITY, total = 0.0f;
      for (index_t t = threadIdx.x; t <= prefix + w; t += blockDim.x) {
        if (!cache.is_valid(s, t)) continue;
        float const x = logit(t);
        if (x > most) {
          total *= expf(most - x);
          most = x;
        }
        total += expf(x - most);
      }
      most_of[threadIdx.x] = most;
      total_of[threadIdx.x] = total;
      __syncthreads();
      if (threadIdx.x == 0) {
        for (int i = 1; i < window_threads; ++i) {
          float const high = fmaxf(most_of[0], most_of[i]);
          if (high == -INFINITY) continue;
          total_of[0] = total_of[0] * expf(most_of[0] - high) + total_of[i] * expf(most_of[i] - high);
          most_of[0] = high;
        }
      }
      __syncthreads();
      float const high = most_of[0], all = total_of[0] * static_cast<float>(window);
      for (index_t t = threadIdx.x; t < prefix; t += blockDim.x)
        if (cache.is_valid(s, t)) mass[t] += expf(logit(t) - high) / all;
      __syncthreads();
    }
    index_t const half = options.kernel / 2;
    for (index_t t = threadIdx.x; t < prefix; t += blockDim.x) {
      float sum = 0.0f, most = mass[t];
      for (index_t i = max(0, t - half); i <= min(prefix - 1, t + half); ++i) {
        sum += mass[i];
        most = fmaxf(most, mass[i]);
      }
      pooled[t] = options.kind == pooling::average ? sum / static_cast<float>(options.kernel) : most;
      if (options.heads == head_reduction::maximum)
        scores[t] = fmaxf(scores[t], pooled[t]);
      else
        scores[t] += options.heads == head_reduction::mean ? pooled[t] / static_cast<float>(group) : pooled[t];
    }
    __syncthreads();
  }
}

}  // namespace detail

/// The CUDA side of window_scores; same arguments, device memory.
template <>
struct implementation<ops::window_scores_op, cuda> {
  template <class Cache, class Queries>
  static status run(cuda exec, Cache const& cache, Queries const& queries, ops::window_options options, score_view out, float* scratch) {
    index_t const row_floats = ops::window_scratch_floats(cache.extent, queries.tokens);
    detail::window_scores_kernel<<<static_cast<unsigned>(cache.extent.rows()), detail::window_threads, 0, exec.stream>>>(
        cache, queries, options, out, scratch, row_floats);
    return detail::cuda_result(cudaPeekAtLastError());
  }
};

KVSLIM_END_NAMESPACE
