// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/attention_mass.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Floats of scratch per row for observe_queries: a mass a token, then what a block of queries
/// works in; at least what CUDA keeps statistics in.
[[nodiscard]] KVSLIM_HD constexpr index_t observe_floats(extents const& e) noexcept {
  return e.tokens + detail::max(share_floats(e.head_dim, lanes_together), e.tokens + e.head_dim);
}

struct observe_queries_op {};

/// Fills the columns of a scorer from a window of queries, in text order, as decoding would: every
/// token is born, then each query's softmax over the tokens it sees, reduced over the query heads
/// of the KV head, is observed. Queries that a short row has no token for are skipped.
///
/// Shapes: queries [sequence, q_head, window, head_dim], the newest tokens of each row; columns
/// [rows, tokens] records by rank; scratch per row observe_floats.
/// Cost: 4 * q_heads * window * tokens * head_dim flop per sequence; K is read twice for 128 query
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
      index_t const heads = detail::min(group, ops::lanes_together),
                    together = ops::lanes_together / heads;
      float* const mass = scratch + r * floats;
      for (index_t w = detail::max(0, queries.tokens - n); w < queries.tokens; w += together)
        for (index_t g = 0; g < group; g += heads) {
          ops::query_block const b{s,
                                   h,
                                   w,
                                   detail::min(together, queries.tokens - w),
                                   h * group + g,
                                   detail::min(heads, group - g)};
          index_t const visible = n - queries.tokens + w + 1,  // by the block's first query
              length = visible + b.queries - 1;
          auto const tell = [&](index_t t, float const* x) {
            std::int32_t const at = text.position(s, h, t);
            for (index_t i = detail::max(0, t + 1 - visible); i < b.queries; ++i) {
              float const all = reduced(Scorer::traits.heads, x + i, b, g == 0, mass[t]);
              if (g + b.heads < group) continue;
              scorer.observe(mine[t], detail::reduce_end(Scorer::traits.heads, all, group),
                             place{r, at, text.position(s, h, visible + i - 1), visible + i, true});
            }
          };
          ops::attention_shares(
              text, queries, logit, b, length, length, mass + e.tokens,
              [](index_t) { return 1.0f; },
              [&](index_t t, index_t m, float const* x) {
                for (index_t i = 0; i < m; ++i) tell(t + i, x + i * b.lanes());
              });
        }
    });
    return {};
  }

 private:
  /// What the heads of one query have paid so far; parts of a group meet in `mass`.
  static float reduced(reduce how, float const* x, ops::query_block const& b, bool first,
                       float& mass) noexcept {
    float sum = first ? x[0] : detail::reduce_step(how, mass, x[0]);
    for (index_t g = 1; g < b.heads; ++g) sum = detail::reduce_step(how, sum, x[g * b.queries]);
    return mass = sum;
  }
};

KVSLIM_END_NAMESPACE
