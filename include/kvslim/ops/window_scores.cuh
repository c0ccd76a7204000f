// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/window_scores.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

inline constexpr int window_threads = 128;  // a thread is a token
inline constexpr int window_chunk =
    32;  // queries whose logits a thread holds, and channels in shared memory at a time
inline constexpr int window_pitch = window_threads + 1;

/// Tokens of one block: so many that the blocks' maxima and sums fit beside the mass in
/// ops::window_scratch_floats.
[[nodiscard]] KVSLIM_HD constexpr index_t window_stretch(index_t window) noexcept {
  return window_threads * div_up(window, 64);
}

/// One query head of one row, seen by a block.
template <class Cache, class Queries>
struct window_block {
  Cache const& cache;
  Queries const& queries;
  index_t s, kv_head, q_head;

  __device__ window_block(Cache const& c, Queries const& q, index_t row, index_t g)
      : cache(c),
        queries(q),
        s(row / c.extent.kv_heads),
        kv_head(row % c.extent.kv_heads),
        q_head(kv_head * (q.heads / c.extent.kv_heads) + g) {}
  [[nodiscard]] __device__ index_t prefix() const { return cache.length(s) - queries.tokens; }

  /// Logits of this thread's token with queries [w0, w0 + window_chunk); -inf where the query must
  /// not look. Every thread must call.
  __device__ void logits(index_t t, index_t w0, float (&x)[window_chunk]) const {
    __shared__ float k[window_chunk * window_pitch], q[window_chunk * window_chunk];
    int const me = static_cast<int>(threadIdx.x), dim = static_cast<int>(cache.extent.head_dim);
    float const scale = 1.0f / sqrtf(static_cast<float>(dim));
    index_t const length = cache.length(s), window = queries.tokens;
    for (float& sum : x) sum = 0.0f;
    for (int d0 = 0; d0 < dim; d0 += window_chunk) {
      __syncthreads();
      for (int i = me; i < window_threads * window_chunk; i += window_threads) {
        int const token = i / window_chunk, c = i % window_chunk;
        index_t const at = t - me + token;
        k[c * window_pitch + token] =
            at < length && d0 + c < dim
                ? to_float(cache.k.row(s, kv_head, at)[(d0 + c) * cache.k.layout.channel])
                : 0.0f;
      }
      for (int i = me; i < window_chunk * window_chunk; i += window_threads) {
        int const w = i / window_chunk, c = i % window_chunk;
        q[c * window_chunk + w] =
            w0 + w < window && d0 + c < dim
                ? to_float(queries.row(s, q_head, w0 + w)[(d0 + c) * queries.layout.channel]) *
                      scale
                : 0.0f;
      }
      __syncthreads();
      for (int c = 0; c < window_chunk; ++c) {
        float const mine = k[c * window_pitch + me];
        unrolled<window_chunk>([&](int w) { x[w] += q[c * window_chunk + w] * mine; });
      }
    }
    bool const visible = t < length && cache.is_valid(s, t);
    float const weight = visible ? cache.weight(s, t) : 0.0f;
    unrolled<window_chunk>([&](int w) {
      x[w] = visible && w0 + w < window && t <= prefix() + w0 + w ? x[w] + weight : -INFINITY;
    });
  }
};

/// Maximum and sum of exponentials of every query over one block's tokens: stats
/// [row][stretch][window][2].
template <class Cache, class Queries>
__global__ void window_sums_kernel(Cache cache, Queries queries, index_t g, float* scratch,
                                   index_t row_floats, index_t stretches) {
  __shared__ float most_of[window_threads / warp_threads][window_chunk],
      total_of[window_threads / warp_threads][window_chunk];
  index_t const r = blockIdx.x / stretches, stretch = blockIdx.x % stretches,
                window = queries.tokens, size = window_stretch(window);
  window_block<Cache, Queries> const block(cache, queries, r, g);
  float* const stats = scratch + r * row_floats + cache.extent.tokens + stretch * window * 2;
  int const lane = static_cast<int>(threadIdx.x) % warp_threads,
            warp = static_cast<int>(threadIdx.x) / warp_threads;
  for (index_t w0 = 0; w0 < window; w0 += window_chunk) {
    float most[window_chunk], total[window_chunk] = {};
    for (float& m : most) m = -INFINITY;
    for (index_t t = stretch * size + threadIdx.x; t < (stretch + 1) * size; t += window_threads) {
      float x[window_chunk];
      block.logits(t, w0, x);
      unrolled<window_chunk>([&](int w) {
        float const high = fmaxf(most[w], x[w]);
        if (high == -INFINITY) return;
        total[w] =
            total[w] * ops::exp_nonpositive(most[w] - high) + ops::exp_nonpositive(x[w] - high);
        most[w] = high;
      });
    }
    unrolled<window_chunk>([&](int w) {
      float const high = over_warp(most[w], [](float a, float b) { return fmaxf(a, b); });
      float const sum =
          over_warp(high == -INFINITY ? 0.0f : total[w] * ops::exp_nonpositive(most[w] - high),
                    [](float a, float b) { return a + b; });
      if (lane == 0) {
        most_of[warp][w] = high;
        total_of[warp][w] = sum;
      }
    });
    __syncthreads();
    if (threadIdx.x < window_chunk && w0 + threadIdx.x < window) {
      float high = -INFINITY, sum = 0.0f;
      for (auto const& m : most_of) high = fmaxf(high, m[threadIdx.x]);
      for (int i = 0; i < window_threads / warp_threads && high > -INFINITY; ++i)
        sum += total_of[i][threadIdx.x] * ops::exp_nonpositive(most_of[i][threadIdx.x] - high);
      stats[(w0 + threadIdx.x) * 2] = high;
      stats[(w0 + threadIdx.x) * 2 + 1] = sum;
    }
  }
}

/// Mean probability of every token of the prefix: mass [row][tokens]. Reads K a second time instead
/// of storing [window, tokens].
template <class Cache, class Queries>
__global__ void window_mass_kernel(Cache cache, Queries queries, index_t g, float* scratch,
                                   index_t row_floats, index_t stretches) {
  __shared__ float most[window_chunk], inverse[window_chunk];
  index_t const r = blockIdx.x / stretches, stretch = blockIdx.x % stretches,
                window = queries.tokens, size = window_stretch(window);
  window_block<Cache, Queries> const block(cache, queries, r, g);
  float* const mass = scratch + r * row_floats;
  float const* const stats = mass + cache.extent.tokens;
  for (index_t t = stretch * size + threadIdx.x; t < (stretch + 1) * size; t += window_threads) {
    float sum = 0.0f;
    for (index_t w0 = 0; w0 < window; w0 += window_chunk) {
      if (threadIdx.x < window_chunk && w0 + threadIdx.x < window) {
        auto const of = [&](index_t i) { return stats + (i * window + w0 + threadIdx.x) * 2; };
        float high = -INFINITY, total = 0.0f;
        for (index_t i = 0; i < stretches; ++i) high = fmaxf(high, of(i)[0]);
        for (index_t i = 0; i < stretches && high > -INFINITY; ++i)
          total += of(i)[1] * ops::exp_nonpositive(of(i)[0] - high);
        most[threadIdx.x] = high;
        inverse[threadIdx.x] = 1.0f / (total * static_cast<float>(window));
      }
      float x[window_chunk];
      block.logits(t, w0, x);  // its barriers publish most and inverse
      unrolled<window_chunk>([&](int w) {
        if (x[w] > -INFINITY) sum += ops::exp_nonpositive(x[w] - most[w]) * inverse[w];
      });
      __syncthreads();
    }
    if (t < block.prefix()) mass[t] = sum;
  }
}

/// Pools the mass of query head g along tokens and adds it to the scores of its KV head.
template <class Cache>
struct window_pool_body {
  Cache cache;
  ops::window_options options;
  score_view out;
  float const* scratch;
  index_t row_floats, window, g, group;

  __device__ void operator()(index_t i) const {
    auto const& e = cache.extent;
    index_t const r = i / e.tokens, t = i % e.tokens,
                  prefix = cache.length(r / e.kv_heads) - window, half = options.kernel / 2;
    float& score = out.row(r)[t];
    if (g == 0) score = 0.0f;
    if (t >= prefix) return;
    float const* const mass = scratch + r * row_floats;
    float sum = 0.0f, most = mass[t];
    for (index_t j = max(0, t - half); j <= min(prefix - 1, t + half); ++j) {
      sum += mass[j];
      most = fmaxf(most, mass[j]);
    }
    float const pooled =
        options.kind == pooling::average ? sum / static_cast<float>(options.kernel) : most;
    if (options.heads == head_reduction::maximum)
      score = fmaxf(score, pooled);
    else
      score += options.heads == head_reduction::mean ? pooled / static_cast<float>(group) : pooled;
  }
};

}  // namespace detail

/// The CUDA side of window_scores; same arguments, device memory. Three kernels for each query head
/// of a group.
template <>
struct implementation<ops::window_scores_op, cuda> {
  template <class Cache, class Queries>
  static status run(cuda exec, Cache const& cache, Queries const& queries,
                    ops::window_options options, score_view out, float* scratch) {
    auto const& e = cache.extent;
    index_t const row_floats = ops::window_scratch_floats(e, queries.tokens),
                  stretches = detail::div_up(e.tokens, detail::window_stretch(queries.tokens));
    index_t const group = queries.heads / e.kv_heads;
    auto const blocks = static_cast<unsigned>(e.rows() * stretches);
    for (index_t g = 0; g < group; ++g) {
      detail::window_sums_kernel<<<blocks, detail::window_threads, 0, exec.stream>>>(
          cache, queries, g, scratch, row_floats, stretches);
      if (auto const s = detail::cuda_result(cudaPeekAtLastError()); !s) return s;
      detail::window_mass_kernel<<<blocks, detail::window_threads, 0, exec.stream>>>(
          cache, queries, g, scratch, row_floats, stretches);
      if (auto const s = detail::cuda_result(cudaPeekAtLastError()); !s) return s;
      detail::window_pool_body<Cache> const pool{cache,      options,        out, scratch,
                                                 row_floats, queries.tokens, g,   group};
      if (auto const s = detail::launch_for_each(exec, e.rows() * e.tokens, pool); !s) return s;
    }
    return {};
  }
};

KVSLIM_END_NAMESPACE
