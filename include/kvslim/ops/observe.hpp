// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/concepts.hpp>
#include <kvslim/core/logit.hpp>
#include <kvslim/ops/window_scores.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Query vectors (query heads times queries) whose logits are held at a time; a multiple of 32.
inline constexpr index_t observed_together = 64;

/// Floats of scratch per row for observe_queries: a mass a token, then the queries, four keys,
/// statistics and the logits of window_tile tokens; at least what CUDA keeps statistics in.
[[nodiscard]] KVSLIM_HD constexpr index_t observe_floats(extents const& e) noexcept {
  return e.tokens + detail::max(observed_together * (e.head_dim + 3 + window_tile) + 4 * e.head_dim,
                                e.tokens + e.head_dim);
}

struct observe_queries_op {};

/// Fills the columns of a scorer from a window of queries, in text order, as decoding would: every
/// token is born, then each query's softmax over the tokens it sees, reduced over the query heads
/// of the KV head, is observed. Queries that a short row has no token for are skipped.
///
/// Shapes: queries [sequence, q_head, window, head_dim], the newest tokens of each row; columns
/// [rows, tokens] records by rank; scratch per row observe_floats.
/// Cost: 4 * q_heads * window * tokens * head_dim flop per sequence; K is read twice for 64 query
/// vectors, those of all query heads of a KV head together.
template <class Exec, class Scorer, class Text, class Space>
status observe_queries(Exec const& exec, Scorer const& scorer, Text const& text,
                       rows<Space> const& queries, logit_rule const& logit, std::byte* columns,
                       float* scratch) {
  return implementation<observe_queries_op, Exec>::run(exec, scorer, text, queries, logit, columns,
                                                       scratch);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::observe_queries_op, Exec> {
  template <class Scorer, class Text, class Space>
  static status run(Exec const& exec, Scorer const& scorer, Text const& text,
                    rows<Space> const& queries, logit_rule const& logit, std::byte* columns,
                    float* scratch) {
    using column = detail::column_of<Scorer>;
    auto const& e = text.extents();
    index_t const group = queries.heads / e.kv_heads, floats = ops::observe_floats(e);
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
      auto* const mine = static_cast<column*>(static_cast<void*>(columns)) + r * e.tokens;
      for (index_t t = 0; t < n; ++t) {
        std::int32_t const at = text.position(s, h, t);
        mine[t] = scorer.born(place{r, at, at, t + 1});
      }
      // As many queries as fit with all their heads, or one query and its heads in parts.
      index_t const heads = detail::min(group, ops::observed_together),
                    together = ops::observed_together / heads;
      float* const mass = scratch + r * floats;
      for (index_t w = detail::max(0, queries.tokens - n); w < queries.tokens; w += together)
        for (index_t g = 0; g < group; g += heads) {
          block const b{s,    h,
                        w,    detail::min(together, queries.tokens - w),
                        g,    detail::min(heads, group - g),
                        group};
          look(text, queries, logit, b, mass + e.tokens, [&](index_t t, float const* x) {
            std::int32_t const at = text.position(s, h, t);
            index_t const visible = n - queries.tokens + w + 1;  // by the block's first query
            for (index_t i = detail::max(0, t + 1 - visible); i < b.queries; ++i) {
              float const all = reduced(Scorer::traits.heads, x + i * b.heads, b, mass[t]);
              if (g + b.heads < group) continue;
              scorer.observe(mine[t], detail::reduce_end(Scorer::traits.heads, all, group),
                             place{r, at, text.position(s, h, visible + i - 1), visible + i, true});
            }
          });
        }
    });
    return {};
  }

 private:
  /// Queries [first, first + queries) of heads [head, head + heads) of a KV head's group.
  struct block {
    index_t sequence, kv_head, first, queries, head, heads, group;
  };

  /// What the heads of one query have paid so far; parts of a group meet in `mass`.
  static float reduced(reduce how, float const* x, block const& b, float& mass) noexcept {
    float sum = b.head == 0 ? x[0] : detail::reduce_step(how, mass, x[0]);
    for (index_t g = 1; g < b.heads; ++g) sum = detail::reduce_step(how, sum, x[g]);
    if (b.heads < b.group) mass = sum;
    return sum;
  }

  /// Calls use(rank, x) for every token that the block's last query sees, in order, x[i] being what
  /// query vector i (query after query, its heads together) pays to it. Two passes over K.
  template <class Text, class Space, class Use>
  static void look(Text const& text, rows<Space> const& queries, logit_rule const& logit,
                   block const& b, float* scratch, Use const& use_token) {
    index_t const s = b.sequence, h = b.kv_head, dim = text.extents().head_dim,
                  count = b.queries * b.heads, lanes = detail::round_up(count, 32),
                  visible = text.tokens(s, h) - queries.tokens + b.first + 1;  // by the first query
    float const scale = detail::logit_scale(logit, dim);
    float* const q = scratch;  // [dim, lanes]
    float *const most = q + lanes * dim, *const inverse = most + lanes,
                 *const peak = inverse + lanes;
    float *const k = peak + lanes, *const logits = k + 4 * dim;  // [4, dim], [window_tile, lanes]
    double total[ops::observed_together] = {};
    for (index_t i = 0; i < lanes; ++i) {
      if (i < count) queries.load(s, h * b.group + b.head + i % b.heads, b.first + i / b.heads, k);
      for (index_t d = 0; d < dim; ++d) q[d * lanes + i] = i < count ? k[d] * scale : 0.0f;
      most[i] = -INFINITY;
    }
    auto const tiles = [&](auto const& use) {
      for (index_t t = 0; t < visible + b.queries - 1; t += ops::window_tile) {
        index_t const n = detail::min(ops::window_tile, visible + b.queries - 1 - t);
        for (index_t i = 0; i < n; i += 4) {
          index_t const here = detail::min(4, n - i);
          for (index_t j = 0; j < here; ++j) text.key(s, h, t + i + j).load(k + j * dim);
          if (here == 4)
            ops::window_logits<4>(q, k, dim, lanes, logits + i * lanes);
          else
            for (index_t j = 0; j < here; ++j)
              ops::window_logits<1>(q, k + j * dim, dim, lanes, logits + (i + j) * lanes);
        }
        for (index_t i = 0; i < n; ++i) {
          float* const x = logits + i * lanes;
          float const bias = text.logit_bias(s, h, t + i);
          if (logit.soft_cap > 0.0f)
            for (index_t j = 0; j < count; ++j) x[j] = detail::soft_capped(logit.soft_cap, x[j]);
          for (index_t j = 0; j < lanes; ++j) x[j] += bias;
          // Earlier queries do not see it.
          for (index_t j = 0; j < detail::max(0, t + i + 1 - visible) * b.heads; ++j)
            x[j] = -INFINITY;
        }
        use(t, n);
      }
    };
    tiles([&](index_t, index_t n) {
      for (index_t j = 0; j < lanes; ++j) peak[j] = most[j];
      for (index_t i = 0; i < n; ++i)
        for (index_t j = 0; j < lanes; ++j)
          peak[j] = logits[i * lanes + j] > peak[j] ? logits[i * lanes + j] : peak[j];
      for (index_t j = 0; j < lanes; ++j) {
        total[j] *= static_cast<double>(ops::exp_nonpositive(most[j] - peak[j]));
        most[j] = peak[j];
        inverse[j] = 0.0f;
      }
      for (index_t i = 0; i < n; ++i)  // the tile's sum
        for (index_t j = 0; j < lanes; ++j)
          inverse[j] += ops::exp_nonpositive(logits[i * lanes + j] - most[j]);
      for (index_t j = 0; j < lanes; ++j) total[j] += static_cast<double>(inverse[j]);
    });
    for (index_t j = 0; j < lanes; ++j)  // a query that sees nothing gives nothing
      inverse[j] = total[j] > 0.0 ? static_cast<float>(1.0 / total[j]) : 0.0f;
    tiles([&](index_t t, index_t n) {
      for (index_t i = 0; i < n; ++i) {
        float* const x = logits + i * lanes;
        for (index_t j = 0; j < lanes; ++j)
          x[j] = ops::exp_nonpositive(x[j] - most[j]) * inverse[j];
        use_token(t + i, static_cast<float const*>(x));
      }
    });
  }
};

KVSLIM_END_NAMESPACE
