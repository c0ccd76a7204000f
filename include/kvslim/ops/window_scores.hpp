// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <cmath>
#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/pool.hpp>
#include <kvslim/ops/rows.hpp>

KVSLIM_BEGIN_NAMESPACE

/// How the query heads of one KV head become one score.
enum class head_reduction : std::uint8_t { mean, maximum, sum };

namespace ops {

struct window_options {
  pooling kind = pooling::average;
  index_t kernel = 1;  ///< odd; 1 means no pooling
  head_reduction heads = head_reduction::mean;
};

/// Floats of scratch that window_scores needs for each row.
[[nodiscard]] KVSLIM_HD constexpr index_t window_scratch_floats(extents const& e, index_t window) noexcept {
  return window * (e.head_dim + 2) + e.head_dim + 2 * e.tokens;
}

/// Mean attention that the window's queries of one query head pay to tokens [0, length - window), the softmax running over
/// all `length` tokens, causal inside the window. Two passes over K, nothing of shape [window, tokens] is stored.
template <class Cache, class Queries>
inline void window_mass(Cache const& cache, Queries const& queries, index_t s, index_t kv_head, index_t q_head, float* mass,
                        float* scratch) noexcept {
  index_t const dim = cache.extent.head_dim, window = queries.tokens, length = cache.length(s), prefix = length - window;
  float const scale = 1.0f / std::sqrt(static_cast<float>(dim));
  float* const q = scratch;
  float* const most = q + window * dim;
  float* const total = most + window;
  float* const k = total + window;
  for (index_t w = 0; w < window; ++w) {
    load_row(queries.row(s, q_head, w), queries.layout.channel, dim, q + w * dim);
    for (index_t d = 0; d < dim; ++d) q[w * dim + d] *= scale;
    most[w] = -INFINITY;
    total[w] = 0.0f;
  }
  for (index_t t = 0; t < length; ++t) {
    if (!cache.is_valid(s, t)) continue;
    load_row(cache.k, s, kv_head, t, dim, k);
    for (index_t w = detail::max(0, t - prefix); w < window; ++w) {
      float const x = dot(q + w * dim, k, dim) + cache.weight(s, t);
      if (x > most[w]) {
        total[w] *= std::exp(most[w] - x);
        most[w] = x;
      }
      total[w] += std::exp(x - most[w]);
    }
  }
  for (index_t t = 0; t < prefix; ++t) {
    mass[t] = 0.0f;
    if (!cache.is_valid(s, t)) continue;
    load_row(cache.k, s, kv_head, t, dim, k);
    for (index_t w = 0; w < window; ++w) mass[t] += std::exp(dot(q + w * dim, k, dim) + cache.weight(s, t) - most[w]) / total[w];
    mass[t] /= static_cast<float>(window);
  }
}

struct window_scores_op {};

/// Attention of the last `window` queries to every earlier token: mean over the window, pooled along tokens per query head,
/// then reduced over the query heads of each KV head. Scores of the window itself are left 0.
///
/// Shapes: queries [sequence, q_head, window, head_dim], the last positions of each sequence; out [rows, tokens].
/// Requires: q_heads a multiple of kv_heads; window < every length (checked by the caller).
/// Cost: 4 * q_heads * window * tokens * head_dim flop per sequence; K is read twice per query head.
/// Source: arXiv:2404.14469, section 4.
template <class Exec, class Cache, class Queries>
status window_scores(Exec const& exec, Cache const& cache, Queries const& queries, window_options options, score_view out, float* scratch) {
  return implementation<window_scores_op, Exec>::run(exec, cache, queries, options, out, scratch);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::window_scores_op, Exec> {
  template <class Cache, class Queries>
  static status run(Exec const& exec, Cache const& cache, Queries const& queries, ops::window_options options, score_view out,
                    float* scratch) {
    auto const e = cache.extent;
    index_t const group = queries.heads / e.kv_heads;
    index_t const row_floats = ops::window_scratch_floats(e, queries.tokens);
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, prefix = cache.length(s) - queries.tokens;
      float* const work = scratch + r * row_floats;
      float* const mass = work + queries.tokens * (e.head_dim + 2) + e.head_dim;
      float* const pooled = mass + e.tokens;
      float* const scores = out.row(r);
      for (index_t t = 0; t < e.tokens; ++t) scores[t] = 0.0f;
      for (index_t g = 0; g < group; ++g) {
        ops::window_mass(cache, queries, s, h, h * group + g, mass, work);
        ops::pool(options.kind, mass, prefix, options.kernel, pooled);
        for (index_t t = 0; t < prefix; ++t) {
          if (options.heads == head_reduction::maximum)
            scores[t] = scores[t] > pooled[t] ? scores[t] : pooled[t];
          else
            scores[t] += options.heads == head_reduction::mean ? pooled[t] / static_cast<float>(group) : pooled[t];
        }
      }
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
