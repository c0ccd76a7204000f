// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/concepts.hpp>
#include <kvslim/core/logit.hpp>
#include <kvslim/ops/exp.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

struct observe_queries_op {};

/// Fills the columns of a scorer from a window of queries, in text order, as decoding would: every
/// token is born, then each query's softmax over the tokens it sees, reduced over the query heads
/// of the KV head, is observed. Queries that a short row has no token for are skipped.
///
/// Shapes: queries [sequence, q_head, window, head_dim], the newest tokens of each row; columns
/// [rows, tokens] records by rank; scratch per row 2 * tokens + head_dim floats.
/// Cost: 2 * q_heads * window * tokens * head_dim flop per sequence.
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
    index_t const group = queries.heads / e.kv_heads, floats = 2 * e.tokens + e.head_dim;
    float const scale = detail::logit_scale(logit, e.head_dim);
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
      auto* const mine = static_cast<column*>(static_cast<void*>(columns)) + r * e.tokens;
      float* const mass = scratch + r * floats;
      float* const p = mass + e.tokens;
      float* const q = p + e.tokens;
      for (index_t t = 0; t < n; ++t) {
        std::int32_t const at = text.position(s, h, t);
        mine[t] = scorer.born(place{r, at, at, t + 1});
      }
      for (index_t w = detail::max(0, queries.tokens - n); w < queries.tokens; ++w) {
        index_t const visible = n - queries.tokens + w + 1;
        for (index_t g = 0; g < group; ++g) {
          queries.load(s, h * group + g, w, q);
          float most = -INFINITY;
          for (index_t t = 0; t < visible; ++t) {
            auto const key = text.key(s, h, t);
            float sum = 0.0f;
            for (index_t d = 0; d < e.head_dim; ++d) sum += q[d] * key[d];
            p[t] = detail::soft_capped(logit.soft_cap, sum * scale) + text.logit_bias(s, h, t);
            most = p[t] > most ? p[t] : most;
          }
          double total = 0.0;
          for (index_t t = 0; t < visible; ++t) {
            p[t] = most == -INFINITY ? 0.0f : ops::exp_nonpositive(p[t] - most);
            total += static_cast<double>(p[t]);
          }
          float const inverse = total > 0.0 ? static_cast<float>(1.0 / total) : 0.0f;
          for (index_t t = 0; t < visible; ++t) {
            float const x = p[t] * inverse;
            mass[t] = g == 0 ? x : detail::reduce_step(Scorer::traits.heads, mass[t], x);
          }
        }
        std::int32_t const now = text.position(s, h, visible - 1);
        for (index_t t = 0; t < visible; ++t)
          scorer.observe(mine[t], detail::reduce_end(Scorer::traits.heads, mass[t], group),
                         place{r, text.position(s, h, t), now, visible, true});
      }
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
