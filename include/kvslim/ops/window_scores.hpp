// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <cmath>
#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/exp.hpp>
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

/// Tokens whose logits are held at a time.
inline constexpr index_t window_tile = 16;

/// Floats at the start of a row's scratch that window_mass works in.
[[nodiscard]] KVSLIM_HD constexpr index_t window_mass_floats(index_t head_dim,
                                                             index_t window) noexcept {
  return window * (head_dim + 3 + window_tile) + 4 * head_dim;
}

/// Floats of scratch that window_scores needs for each row: window_mass's, then mass and pooled
/// mass of every token.
[[nodiscard]] KVSLIM_HD constexpr index_t window_scratch_floats(extents const& e,
                                                                index_t window) noexcept {
  return window_mass_floats(e.head_dim, window) + 2 * e.tokens;
}

/// out[i][w] = q[w] . k[i] for `Tokens` keys [Tokens, dim] and all queries of the window, which lie
/// as [dim, window].
template <index_t Tokens>
inline void window_logits(float const* q, float const* k, index_t dim, index_t window,
                          float* out) noexcept {
  constexpr index_t chunk = 32;
  index_t w = 0;
  for (; w + chunk <= window; w += chunk) {
    float sum[Tokens][chunk] = {};
    for (index_t d = 0; d < dim; ++d)
      for (index_t i = 0; i < Tokens; ++i)
        for (index_t j = 0; j < chunk; ++j) sum[i][j] += q[d * window + w + j] * k[i * dim + d];
    for (index_t i = 0; i < Tokens; ++i)
      for (index_t j = 0; j < chunk; ++j) out[i * window + w + j] = sum[i][j];
  }
  for (; w < window; ++w)
    for (index_t i = 0; i < Tokens; ++i) {
      float sum = 0.0f;
      for (index_t d = 0; d < dim; ++d) sum += q[d * window + w] * k[i * dim + d];
      out[i * window + w] = sum;
    }
}

/// Mean attention that the window's queries of one query head pay to tokens [0, length - window),
/// the softmax running over all `length` tokens, causal inside the window. Two passes over K,
/// nothing of shape [window, tokens] is stored.
template <class Cache, class Queries>
inline void window_mass(Cache const& cache, Queries const& queries, index_t s, index_t kv_head,
                        index_t q_head, float* mass, float* scratch) noexcept {
  index_t const dim = cache.extent.head_dim, window = queries.tokens, length = cache.length(s),
                prefix = length - window;
  float const scale = 1.0f / std::sqrt(static_cast<float>(dim));
  float* const q = scratch;              // [dim, window]
  float* const most = q + window * dim;  // [window], likewise the next two
  float* const total = most + window;
  float* const peak = total + window;
  float* const k = peak + window;     // [4, dim]
  float* const logits = k + 4 * dim;  // [window_tile, window]
  for (index_t w = 0; w < window; ++w) {
    load_row(queries.row(s, q_head, w), queries.layout.channel, dim, k);
    for (index_t d = 0; d < dim; ++d) q[d * window + w] = k[d] * scale;
    most[w] = -INFINITY;
    total[w] = 0.0f;
  }
  // Calls use(tokens, n) for up to window_tile valid tokens below `end` at a time, their logits
  // being in `logits`.
  auto const tiles = [&](index_t end, auto const& use) {
    for (index_t t = 0; t < end;) {
      index_t tokens[window_tile], n = 0;
      for (; t < end && n < window_tile; ++t)
        if (cache.is_valid(s, t)) tokens[n++] = t;
      for (index_t i = 0; i < n;) {
        index_t const together = n - i >= 4 ? 4 : 1;
        for (index_t j = 0; j < together; ++j)
          load_row(cache.k, s, kv_head, tokens[i + j], dim, k + j * dim);
        if (together == 4)
          window_logits<4>(q, k, dim, window, logits + i * window);
        else
          window_logits<1>(q, k, dim, window, logits + i * window);
        i += together;
      }
      for (index_t i = 0; i < n; ++i) {
        float const weight = cache.weight(s, tokens[i]);
        index_t const first = detail::max(0, tokens[i] - prefix);  // earlier queries do not see it
        for (index_t w = 0; w < window; ++w)
          logits[i * window + w] = w < first ? -INFINITY : logits[i * window + w] + weight;
      }
      use(tokens, n);
    }
  };
  tiles(length, [&](index_t const*, index_t n) {
    for (index_t w = 0; w < window; ++w) peak[w] = most[w];
    for (index_t i = 0; i < n; ++i)
      for (index_t w = 0; w < window; ++w)
        peak[w] = logits[i * window + w] > peak[w] ? logits[i * window + w] : peak[w];
    for (index_t w = 0; w < window; ++w) total[w] *= exp_nonpositive(most[w] - peak[w]);
    for (index_t i = 0; i < n; ++i)
      for (index_t w = 0; w < window; ++w)
        total[w] += exp_nonpositive(logits[i * window + w] - peak[w]);
    for (index_t w = 0; w < window; ++w) most[w] = peak[w];
  });
  for (index_t w = 0; w < window; ++w) total[w] = 1.0f / (total[w] * static_cast<float>(window));
  for (index_t t = 0; t < prefix; ++t) mass[t] = 0.0f;
  tiles(prefix, [&](index_t const* tokens, index_t n) {
    for (index_t i = 0; i < n; ++i) {
      float* const x = logits + i * window;
      for (index_t w = 0; w < window; ++w) x[w] = exp_nonpositive(x[w] - most[w]);
      mass[tokens[i]] = dot(x, total, window);
    }
  });
}

struct window_scores_op {};

/// Attention of the last `window` queries to every earlier token: mean over the window, pooled
/// along tokens per query head, then reduced over the query heads of each KV head. Scores of the
/// window itself are left 0.
///
/// Shapes: queries [sequence, q_head, window, head_dim], the last positions of each sequence; out
/// [rows, tokens]. Requires: q_heads a multiple of kv_heads; window < every length (checked by the
/// caller). Cost: 4 * q_heads * window * tokens * head_dim flop per sequence; K is read twice per
/// query head. Source: arXiv:2404.14469, section 4.
template <class Exec, class Cache, class Queries>
status window_scores(Exec const& exec, Cache const& cache, Queries const& queries,
                     window_options options, score_view out, float* scratch) {
  return implementation<window_scores_op, Exec>::run(exec, cache, queries, options, out, scratch);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::window_scores_op, Exec> {
  template <class Cache, class Queries>
  static status run(Exec const& exec, Cache const& cache, Queries const& queries,
                    ops::window_options options, score_view out, float* scratch) {
    auto const e = cache.extent;
    index_t const group = queries.heads / e.kv_heads;
    index_t const row_floats = ops::window_scratch_floats(e, queries.tokens);
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads,
                    prefix = cache.length(s) - queries.tokens;
      float* const work = scratch + r * row_floats;
      float* const mass = work + ops::window_mass_floats(e.head_dim, queries.tokens);
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
            scores[t] += options.heads == head_reduction::mean
                             ? pooled[t] / static_cast<float>(group)
                             : pooled[t];
        }
      }
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
