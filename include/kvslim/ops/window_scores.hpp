// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/exp.hpp>
#include <kvslim/ops/pool.hpp>
#include <kvslim/ops/rows.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

struct window_options {
  pooling kind = pooling::average;
  index_t kernel = 1;  ///< odd; 1 means no pooling
  reduce heads = reduce::mean;
  bool reduce_first = false;  ///< query heads are reduced before pooling, not after
  bool by_visible = false;    ///< a query counts as often as it sees earlier tokens
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
template <std::size_t Tokens>
inline void window_logits(float const* q, float const* k, index_t dim, index_t window,
                          float* out) noexcept {
  constexpr auto tokens = static_cast<index_t>(Tokens);
  constexpr std::size_t lanes = 32;
  constexpr auto chunk = static_cast<index_t>(lanes);
  index_t w = 0;
  for (; w + chunk <= window; w += chunk) {
    float sum[Tokens][lanes] = {};
    for (index_t d = 0; d < dim; ++d)
      for (index_t i = 0; i < tokens; ++i)
        for (index_t j = 0; j < chunk; ++j) sum[i][j] += q[d * window + w + j] * k[i * dim + d];
    for (index_t i = 0; i < tokens; ++i)
      for (index_t j = 0; j < chunk; ++j) out[i * window + w + j] = sum[i][j];
  }
  for (; w < window; ++w)
    for (index_t i = 0; i < tokens; ++i) {
      float sum = 0.0f;
      for (index_t d = 0; d < dim; ++d) sum += q[d * window + w] * k[i * dim + d];
      out[i * window + w] = sum;
    }
}

/// Attention that the window's queries of one query head pay to ranks [0, n - window), the softmax
/// running over all n tokens, causal inside the window: calls use(rank, x, share) in order, query w
/// having paid x[w] * share[w] times the window; x may be changed. Two passes over K, nothing of
/// shape [window, tokens] is stored. Requires: window < n.
template <class Text, class Queries, class Use>
inline void window_attention(Text const& text, Queries const& queries, index_t s, index_t kv_head,
                             index_t q_head, float* scratch, Use const& use_token) noexcept {
  index_t const dim = text.extents().head_dim, window = queries.tokens;
  index_t const length = text.tokens(s, kv_head), prefix = length - window;
  float const scale = 1.0f / std::sqrt(static_cast<float>(dim));
  float* const q = scratch;              // [dim, window]
  float* const most = q + window * dim;  // [window], likewise the next two
  float* const total = most + window;
  float* const peak = total + window;
  float* const k = peak + window;     // [4, dim]
  float* const logits = k + 4 * dim;  // [window_tile, window]
  for (index_t w = 0; w < window; ++w) {
    queries.load(s, q_head, w, k);
    for (index_t d = 0; d < dim; ++d) q[d * window + w] = k[d] * scale;
    most[w] = -INFINITY;
    total[w] = 0.0f;
  }
  // Calls use(first rank, n) for up to window_tile tokens below `end` at a time, their logits being
  // in `logits`.
  auto const tiles = [&](index_t end, auto const& use) {
    for (index_t t = 0; t < end; t += window_tile) {
      index_t const n = detail::min(window_tile, end - t);
      for (index_t i = 0; i < n;) {
        index_t const together = n - i >= 4 ? 4 : 1;
        for (index_t j = 0; j < together; ++j) text.key(s, kv_head, t + i + j).load(k + j * dim);
        if (together == 4)
          window_logits<4>(q, k, dim, window, logits + i * window);
        else
          window_logits<1>(q, k, dim, window, logits + i * window);
        i += together;
      }
      for (index_t i = 0; i < n; ++i) {
        float const bias = text.logit_bias(s, kv_head, t + i);
        index_t const first = detail::max(0, t + i - prefix);  // earlier queries do not see it
        for (index_t w = 0; w < window; ++w)
          logits[i * window + w] = w < first ? -INFINITY : logits[i * window + w] + bias;
      }
      use(t, n);
    }
  };
  tiles(length, [&](index_t, index_t n) {
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
  for (index_t w = 0; w < window; ++w)  // a query that sees nothing gives nothing
    total[w] = total[w] > 0.0f ? 1.0f / (total[w] * static_cast<float>(window)) : 0.0f;
  tiles(prefix, [&](index_t t, index_t n) {
    for (index_t i = 0; i < n; ++i) {
      float* const x = logits + i * window;
      for (index_t w = 0; w < window; ++w) x[w] = exp_nonpositive(x[w] - most[w]);
      use_token(t + i, x, static_cast<float const*>(total));
    }
  });
}

/// How much query w of a window behind `prefix` tokens counts.
[[nodiscard]] KVSLIM_HD constexpr float query_weight(window_options const& o, index_t prefix,
                                                     index_t w) noexcept {
  return o.by_visible ? static_cast<float>(prefix + w) : 1.0f;
}

/// Mean attention of the window to each of those ranks.
template <class Text, class Queries>
inline void window_mass(Text const& text, Queries const& queries, window_options const& options,
                        index_t s, index_t kv_head, index_t q_head, float* mass,
                        float* scratch) noexcept {
  index_t const window = queries.tokens, prefix = text.tokens(s, kv_head) - window;
  window_attention(text, queries, s, kv_head, q_head, scratch,
                   [&](index_t t, float* x, float const* share) {
                     for (index_t w = 0; w < window && options.by_visible; ++w)
                       x[w] *= query_weight(options, prefix, w);
                     mass[t] = dot(x, share, window);
                   });
}

struct window_scores_op {};

/// Attention of the newest `window` queries to every earlier token: mean over the window, pooled
/// along the text per query head, then reduced over the query heads of each KV head (or first
/// reduced, then pooled). Scores of the window itself, and of rows no longer than it, are 0.
///
/// Shapes: queries [sequence, q_head, window, head_dim], the newest tokens of each sequence; out
/// [rows, tokens] by rank. Requires: q_heads a multiple of kv_heads. Cost: 4 * q_heads * window *
/// tokens * head_dim flop per sequence; K is read twice per query head. Source: arXiv:2404.14469,
/// section 4.
template <class Exec, class Text, class Queries>
status window_scores(Exec const& exec, Text const& text, Queries const& queries,
                     window_options options, score_view out, float* scratch) {
  return implementation<window_scores_op, Exec>::run(exec, text, queries, options, out, scratch);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::window_scores_op, Exec> {
  template <class Text, class Queries>
  static status run(Exec const& exec, Text const& text, Queries const& queries,
                    ops::window_options options, score_view out, float* scratch) {
    auto const e = text.extents();
    index_t const group = queries.heads / e.kv_heads;
    index_t const row_floats = ops::window_scratch_floats(e, queries.tokens);
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads;
      index_t const prefix = detail::max(0, text.tokens(s, h) - queries.tokens);
      float* const work = scratch + r * row_floats;
      float* const mass = work + ops::window_mass_floats(e.head_dim, queries.tokens);
      float* const pooled = mass + e.tokens;
      float* const scores = out.row(r);
      for (index_t t = 0; t < e.tokens; ++t) scores[t] = 0.0f;
      float const* const each = options.reduce_first ? mass : pooled;
      for (index_t g = 0; g < group && prefix > 0; ++g) {
        ops::window_mass(text, queries, options, s, h, h * group + g, mass, work);
        if (!options.reduce_first) ops::pool(options.kind, mass, prefix, options.kernel, pooled);
        for (index_t t = 0; t < prefix; ++t) {
          float const add =
              options.heads == reduce::mean ? each[t] / static_cast<float>(group) : each[t];
          scores[t] = detail::reduce_step(options.heads, scores[t], add);
        }
      }
      if (!options.reduce_first || prefix == 0) return;
      ops::pool(options.kind, scores, prefix, options.kernel, pooled);
      for (index_t t = 0; t < prefix; ++t) scores[t] = pooled[t];
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
