// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda_block.cuh>
#include <kvslim/ops/expected_attention.hpp>
#include <kvslim/ops/query_moments.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int expected_threads = 128;
inline constexpr int expected_tile = 32;  ///< rows of the covariance, and channels, at a time

/// Mean rotation of one pair, and the mean's pair rotated by it.
template <class Text>
struct rotate_mean_body {
  Text text;
  ops::expected_options options;
  ops::moments_memory m;
  index_t pairs;

  __device__ void operator()(index_t at) const {
    index_t const r = at / pairs, i = at % pairs, heads = text.extents().kv_heads;
    float* const c = ops::expected_rotations(m, r) + i;
    float* const s = c + pairs;
    ops::mean_rotation(options, m.dim, text.next_position(r / heads, r % heads), i, *c, *s);
    auto const pair = options.rotation.pair(m.dim, i);
    ops::turn_pair(*c, *s, m.mean(r)[pair.a], m.mean(r)[pair.b]);
  }
};

/// One pair of rows of the covariance in one column, or the other way round.
struct rotate_covariance_body {
  rope rotation;
  ops::moments_memory m;
  index_t pairs, along, across;  // elements from channel to channel of a pair, and to the next one

  __device__ void operator()(index_t at) const {
    index_t const j = at % m.dim, i = at / m.dim % pairs, r = at / m.dim / pairs;
    float const* const c = ops::expected_rotations(m, r) + i;
    auto const pair = rotation.pair(m.dim, i);
    float* const x = m.covariance(r) + j * across;
    ops::turn_pair(c[0], c[pairs], x[pair.a * along], x[pair.b * along]);
  }
};

/// Logits of 128 tokens of a row, one a thread.
template <class Text>
KVSLIM_DETAIL_KERNEL void expected_logits_kernel(Text text, ops::expected_options options,
                                                 ops::moments_memory m, index_t blocks_of_row) {
  __shared__ float k[expected_tile][expected_threads + 1], cov[expected_tile][expected_tile];
  auto const& e = text.extents();
  int const me = static_cast<int>(threadIdx.x), dim = static_cast<int>(m.dim);
  for (index_t item = blockIdx.x; item < e.rows() * blocks_of_row; item += gridDim.x) {
    index_t const r = item / blocks_of_row, s = r / e.kv_heads, h = r % e.kv_heads,
                  n = text.tokens(s, h), first = item % blocks_of_row * expected_threads,
                  t = first + me;
    if (first >= n) continue;
    float linear = 0.0f, square = 0.0f;
    for (int w0 = 0; w0 < (options.covariance ? dim : 1); w0 += expected_tile) {
      float x[expected_tile] = {};
      for (int d0 = 0; d0 < dim; d0 += expected_tile) {
        __syncthreads();
        for (int at = me; at < expected_threads * expected_tile; at += expected_threads) {
          int const token = at / expected_tile, c = at % expected_tile;
          k[c][token] =
              first + token < n && d0 + c < dim ? text.key(s, h, first + token)[d0 + c] : 0.0f;
        }
        for (int at = me; options.covariance && at < expected_tile * expected_tile;
             at += expected_threads) {
          int const c = at / expected_tile, w = at % expected_tile;
          cov[c][w] = d0 + c < dim && w0 + w < dim
                          ? m.covariance(r)[static_cast<index_t>(d0 + c) * dim + w0 + w]
                          : 0.0f;
        }
        __syncthreads();
        for (int c = 0; c < expected_tile; ++c) {
          float const mine = k[c][me];
          if (w0 == 0 && d0 + c < dim) linear += m.mean(r)[d0 + c] * mine;
          if (options.covariance) unrolled<expected_tile>([&](int w) { x[w] += cov[c][w] * mine; });
        }
      }
      if (options.covariance && t < n) {
        auto const key = text.key(s, h, t);
        unrolled<expected_tile>([&](int w) {
          if (w0 + w < dim) square += x[w] * key[w0 + w];
        });
      }
    }
    if (t < n)
      ops::expected_logits(m, e, r)[t] = linear / sqrtf(static_cast<float>(dim)) +
                                         square / (2.0f * static_cast<float>(dim)) +
                                         text.logit_bias(s, h, t);
  }
}

/// One block per row: the softmax, added to the scores.
template <class Text>
KVSLIM_DETAIL_KERNEL void expected_softmax_kernel(Text text, ops::expected_options options,
                                                  index_t g, index_t group, ops::moments_memory m,
                                                  score_view out) {
  auto const& e = text.extents();
  index_t const r = blockIdx.x, n = text.tokens(r / e.kv_heads, r % e.kv_heads);
  float* const scores = out.row(r);
  float* const p = ops::expected_logits(m, e, r);
  for (index_t t = threadIdx.x; g == 0 && t < e.tokens; t += block_threads)
    scores[t] = t < min(n, options.sinks) ? ops::largest_float : 0.0f;
  float most = -INFINITY;
  for (index_t t = options.sinks + threadIdx.x; t < n; t += block_threads)
    most = p[t] > most ? p[t] : most;
  most = over_block(most, [](float a, float b) { return a > b ? a : b; });
  double total = 0.0;
  for (index_t t = options.sinks + threadIdx.x; t < n; t += block_threads) {
    p[t] = most == -INFINITY ? 0.0f : ops::exp_nonpositive(p[t] - most);
    total += static_cast<double>(p[t]);
  }
  total = block_sum(total);
  float const share =
      total > 0.0 ? static_cast<float>(1.0 / total) / static_cast<float>(group) : 0.0f;
  for (index_t t = options.sinks + threadIdx.x; t < n; t += block_threads)
    scores[t] += p[t] * share;
}

template <class Text>
struct expected_score_body {
  Text text;
  ops::expected_options options;
  score_view out;

  __device__ void operator()(index_t at) const {
    auto const& e = text.extents();
    index_t const r = at / e.tokens, t = at % e.tokens, s = r / e.kv_heads, h = r % e.kv_heads;
    if (t < options.sinks || t >= text.tokens(s, h)) return;
    auto const v = text.value(s, h, t);
    float& x = out.row(r)[t];
    x = ops::expected_score(options, x, sqrtf(ops::dot_channels(v, v, v.size())));
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::expected_attention_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, ops::expected_options const& o, index_t g,
                    index_t group, ops::moments_memory const& m, score_view out) {
    auto const& e = text.extents();
    index_t const rows = e.rows(), dim = m.dim, pairs = o.rotation.rotated(dim) / 2;
    if (auto const s = detail::launch_for_each(exec, rows * pairs,
                                               detail::rotate_mean_body<Text>{text, o, m, pairs});
        !s)
      return s;
    for (bool const columns : {false, true}) {
      detail::rotate_covariance_body const body{o.rotation, m, pairs, columns ? 1 : dim,
                                                columns ? dim : 1};
      if (!o.covariance) break;
      if (auto const s = detail::launch_for_each(exec, rows * pairs * dim, body); !s) return s;
    }
    index_t const blocks = detail::div_up(e.tokens, detail::expected_threads);
    if (auto const s =
            detail::launch(exec, {detail::blocks_for(rows * blocks), detail::expected_threads},
                           detail::expected_logits_kernel<Text>, text, o, m, blocks);
        !s)
      return s;
    if (auto const s =
            detail::launch(exec, {rows, detail::block_threads},
                           detail::expected_softmax_kernel<Text>, text, o, g, group, m, out);
        !s)
      return s;
    if (g < group - 1 || !o.value_norm) return {};
    return detail::launch_for_each(exec, rows * e.tokens,
                                   detail::expected_score_body<Text>{text, o, out});
  }
};

KVSLIM_END_NAMESPACE
