// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Queries that look at a text, on CUDA: a thread is a token, `tile_queries` queries at a time. The
/// softmax of a query over a row takes two reads of K: one for its maximum and sum in stretches of
/// tokens, which one small kernel puts together, and one for the probabilities.

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/exp.hpp>
#include <kvslim/ops/observe.hpp>

#include <cmath>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int tile_threads = 128;
/// Queries whose logits a thread holds, and channels in shared memory at a time.
inline constexpr int tile_queries = 32;
inline constexpr int tile_pitch = tile_threads + 1;

/// Queries first, first + 1, ... of a row's list: token after token of the window, and for each the
/// query heads [first_head, first_head + heads) of the KV head's group.
template <class Text>
struct softmax_tile {
  Text text;
  rows<cuda_space> queries;
  index_t first_head, heads;
  index_t first, count;
  float scale, soft_cap;
  float* stats;               // of row 0: [stretches][count] x {maximum, sum}
  index_t row_floats;         // from one row's statistics to the next's
  index_t stretch;            // tokens, a multiple of tile_threads
  index_t stretches_at_most;  // of the longest row

  [[nodiscard]] __device__ index_t tokens(index_t r) const {
    index_t const heads_of_k = text.extents().kv_heads;
    return text.tokens(r / heads_of_k, r % heads_of_k);
  }
  /// Tokens that query i sees of a row of n; none: 0 or less.
  [[nodiscard]] __device__ index_t visible(index_t i, index_t n) const {
    return n - queries.tokens + (first + i) / heads + 1;
  }
  [[nodiscard]] __device__ float* stats_of(index_t r, index_t at) const {
    return stats + r * row_floats + at * count * 2;
  }

  /// Logits of this thread's token t of row r with queries [i0, i0 + tile_queries); -inf where the
  /// query does not look. Every thread must call; begins with a barrier.
  __device__ void logits(index_t r, index_t t, index_t i0, float (&x)[tile_queries]) const {
    __shared__ float k[tile_queries * tile_pitch], q[tile_queries * tile_queries];
    auto const& e = text.extents();
    int const me = static_cast<int>(threadIdx.x), dim = static_cast<int>(e.head_dim);
    index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = tokens(r);
    index_t const group = queries.heads / e.kv_heads;
    for (float& sum : x) sum = 0.0f;
    for (int d0 = 0; d0 < dim; d0 += tile_queries) {
      __syncthreads();
      for (int at = me; at < tile_threads * tile_queries; at += tile_threads) {
        int const token = at / tile_queries, c = at % tile_queries;
        index_t const rank = t - me + token;
        k[c * tile_pitch + token] = rank < n && d0 + c < dim ? text.key(s, h, rank)[d0 + c] : 0.0f;
      }
      for (int at = me; at < tile_queries * tile_queries; at += tile_threads) {
        int const i = at / tile_queries, c = at % tile_queries;
        index_t const number = first + i0 + i;
        q[c * tile_queries + i] =
            i0 + i < count && d0 + c < dim
                ? queries.at(s, h * group + first_head + number % heads, number / heads, d0 + c)
                : 0.0f;
      }
      __syncthreads();
      for (int c = 0; c < tile_queries; ++c) {
        float const mine = k[c * tile_pitch + me];
        unrolled<tile_queries>([&](int i) { x[i] += q[c * tile_queries + i] * mine; });
      }
    }
    float const bias = t < n ? text.logit_bias(s, h, t) : 0.0f;
    unrolled<tile_queries>([&](int i) {
      bool const sees = i0 + i < count && t < n && t < visible(i0 + i, n);
      x[i] = sees ? soft_capped(soft_cap, x[i] * scale) + bias : -INFINITY;
    });
  }
};

/// Maximum and sum of exponentials of every query over one stretch. Blocks: [row, stretch].
template <class Text>
KVSLIM_DETAIL_KERNEL void softmax_sums_kernel(softmax_tile<Text> tile) {
  constexpr int warps = tile_threads / warp_threads;
  __shared__ float most_of[warps][tile_queries], total_of[warps][tile_queries];
  index_t const items = tile.text.extents().rows() * tile.stretches_at_most;
  unsigned const me = threadIdx.x, lane = me % warp_threads, warp = me / warp_threads;
  for (index_t item = blockIdx.x; item < items; item += gridDim.x) {
    index_t const r = item / tile.stretches_at_most, at = item % tile.stretches_at_most,
                  begin = at * tile.stretch, end = min(begin + tile.stretch, tile.tokens(r));
    if (begin >= end) continue;
    for (index_t i0 = 0; i0 < tile.count; i0 += tile_queries) {
      float most[tile_queries], total[tile_queries] = {};
      for (float& m : most) m = -INFINITY;
      for (index_t base = begin; base < end; base += tile_threads) {
        float x[tile_queries];
        tile.logits(r, base + me, i0, x);
        unrolled<tile_queries>([&](int i) {
          float const high = fmaxf(most[i], x[i]);
          if (high == -INFINITY) return;
          total[i] =
              total[i] * ops::exp_nonpositive(most[i] - high) + ops::exp_nonpositive(x[i] - high);
          most[i] = high;
        });
      }
      unrolled<tile_queries>([&](int i) {
        float const high = over_warp(most[i], [](float a, float b) { return fmaxf(a, b); });
        float const sum =
            over_warp(high == -INFINITY ? 0.0f : total[i] * ops::exp_nonpositive(most[i] - high),
                      [](float a, float b) { return a + b; });
        if (lane == 0) {
          most_of[warp][i] = high;
          total_of[warp][i] = sum;
        }
      });
      __syncthreads();
      if (me < tile_queries && i0 + me < tile.count) {
        float high = -INFINITY, sum = 0.0f;
        for (auto const& m : most_of) high = fmaxf(high, m[me]);
        for (int w = 0; w < warps && high > -INFINITY; ++w)
          sum += total_of[w][me] * ops::exp_nonpositive(most_of[w][me] - high);
        float* const out = tile.stats_of(r, at) + (i0 + me) * 2;
        out[0] = high;
        out[1] = sum;
      }
      __syncthreads();
    }
  }
}

/// One warp per query: the statistics of its stretches become its maximum and the inverse of its
/// sum (0: it saw nothing), those of the first stretch.
template <class Text>
KVSLIM_DETAIL_KERNEL void softmax_merge_kernel(softmax_tile<Text> tile) {
  constexpr index_t warps = tile_threads / warp_threads;
  index_t const items = tile.text.extents().rows() * tile.count;
  index_t const lane = threadIdx.x % warp_threads, step = gridDim.x * warps;
  for (index_t item = blockIdx.x * warps + threadIdx.x / warp_threads; item < items; item += step) {
    index_t const r = item / tile.count, i = item % tile.count,
                  stretches = div_up(tile.tokens(r), tile.stretch);
    float high = -INFINITY, sum = 0.0f;
    for (index_t at = lane; at < stretches; at += warp_threads)
      high = fmaxf(high, tile.stats_of(r, at)[i * 2]);
    high = over_warp(high, [](float a, float b) { return fmaxf(a, b); });
    for (index_t at = lane; at < stretches && high > -INFINITY; at += warp_threads) {
      float const* const x = tile.stats_of(r, at) + i * 2;
      sum += x[1] * ops::exp_nonpositive(x[0] - high);
    }
    sum = over_warp(sum, [](float a, float b) { return a + b; });
    if (lane == 0 && stretches > 0) {
      tile.stats_of(r, 0)[i * 2] = high;
      tile.stats_of(r, 0)[i * 2 + 1] = sum > 0.0f ? 1.0f / sum : 0.0f;
    }
    __syncwarp();
  }
}

/// Fills the statistics of a tile.
template <class Text>
[[nodiscard]] status launch_softmax(cuda exec, softmax_tile<Text> const& tile) {
  index_t const all = tile.text.extents().rows();
  if (auto const s = launch(exec, {blocks_for(all * tile.stretches_at_most), tile_threads},
                            softmax_sums_kernel<Text>, tile);
      !s)
    return s;
  index_t const blocks = div_up(all * tile.count, tile_threads / warp_threads);
  return launch(exec, {blocks_for(blocks), tile_threads}, softmax_merge_kernel<Text>, tile);
}

/// What a block needs of the statistics while it turns logits into probabilities.
struct tile_statistics {
  float most[tile_queries], inverse[tile_queries];

  /// Of query i0 of the tile and those `step` further on each. Call before logits(), whose barriers
  /// publish it, and a barrier before the next call.
  template <class Text>
  __device__ void load(softmax_tile<Text> const& tile, index_t r, index_t i0, index_t step = 1) {
    index_t const i = i0 + threadIdx.x * step;
    if (threadIdx.x >= tile_queries || i >= tile.count) return;
    float const* const of = tile.stats_of(r, 0) + i * 2;
    most[threadIdx.x] = of[0];
    inverse[threadIdx.x] = of[1];
  }
};

KVSLIM_END_CUDA_NAMESPACE
