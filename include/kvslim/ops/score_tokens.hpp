// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/concepts.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// One token's score. `columns(row, rank, cell)` gives what the scorer has observed of it.
template <class Scorer, class Text, class Columns>
[[nodiscard]] KVSLIM_HD inline float score_token(Scorer const& scorer, Text const& text, index_t s,
                                                 index_t h, index_t rank, Columns const& columns) {
  using column = detail::column_of<Scorer>;
  if constexpr (std::is_empty_v<column>)
    return static_cast<float>(scorer.score(token_ref<Text, column>(text, s, h, rank)));
  else
    return static_cast<float>(scorer.score(token_ref<Text, column>(
        text, s, h, rank, columns(s * text.extents().kv_heads + h, rank, text.cell(s, h, rank)))));
}

struct score_tokens_op {};

/// The library's loop over a token scorer: out by rank, 0 beyond a row's tokens. Cost: the
/// scorer's.
template <class Exec, class Scorer, class Text, class Columns>
status score_tokens(Exec const& exec, Scorer const& scorer, Text const& text,
                    Columns const& columns, score_view out) {
  return implementation<score_tokens_op, Exec>::run(exec, scorer, text, columns, out);
}

struct gather_scores_op {};

/// Scores that the caller gave by cell, in text order.
template <class Exec, class Text>
status gather_scores(Exec const& exec, Text const& text, float const* by_cell, score_view out) {
  return implementation<gather_scores_op, Exec>::run(exec, text, by_cell, out);
}

/// How the rows of a group come to one score.
struct share_rule {
  row_group rows = {};
  reduce how = reduce::mean;
  bool leads = false;  ///< only the first sequence of a group (its first layer) has a say
};

struct share_scores_op {};

/// Every row of a group gets the group's mean (sum, maximum) score of each rank, over the rows that
/// have a say and hold a token of that rank: they then keep the same tokens. A rank that none of
/// those holds comes last.
template <class Exec, class Text>
status share_scores(Exec const& exec, Text const& text, share_rule const& rule, score_view scores) {
  return implementation<share_scores_op, Exec>::run(exec, text, rule, scores);
}

/// The shared score of one rank, written to the rows that hold it.
template <class Text>
KVSLIM_HD inline void share_score(Text const& text, share_rule const& rule, index_t first,
                                  score_view scores, index_t rank) {
  auto const& e = text.extents();
  float sum = rule.how == reduce::maximum ? -INFINITY : 0.0f;
  index_t holders = 0;
  auto const each = [&](index_t members, auto const& use) {
    for (index_t m = 0; m < members; ++m) {
      index_t const r = rule.rows.member_row(e, first, m);
      if (rank < text.tokens(r / e.kv_heads, r % e.kv_heads)) use(scores.row(r)[rank]);
    }
  };
  each(rule.leads ? rule.rows.kv_heads : rule.rows.size(), [&](float x) {
    sum = detail::reduce_step(rule.how, sum, x);
    ++holders;
  });
  float const shared = holders == 0 ? -INFINITY : detail::reduce_end(rule.how, sum, holders);
  each(rule.rows.size(), [&](float& x) { x = shared; });
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::score_tokens_op, Exec> {
  template <class Scorer, class Text, class Columns>
  static status run(Exec const& exec, Scorer const& scorer, Text const& text,
                    Columns const& columns, score_view out) {
    auto const& e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
      float* const scores = out.row(r);
      for (index_t i = 0; i < n; ++i) scores[i] = ops::score_token(scorer, text, s, h, i, columns);
      for (index_t i = n; i < e.tokens; ++i) scores[i] = 0.0f;
    });
    return {};
  }
};

template <host_executor Exec>
struct implementation<ops::gather_scores_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, float const* by_cell, score_view out) {
    auto const& e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
      for (index_t i = 0; i < e.tokens; ++i)
        out.row(r)[i] = i < n ? by_cell[r * text.row_cells() + text.cell(s, h, i)] : 0.0f;
    });
    return {};
  }
};

template <host_executor Exec>
struct implementation<ops::share_scores_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, ops::share_rule const& rule,
                    score_view scores) {
    auto const& e = text.extents();
    exec.for_each(rule.rows.groups(e), [=](index_t g) {
      index_t const first = rule.rows.group_row(e, g);
      for (index_t i = 0; i < e.tokens; ++i) ops::share_score(text, rule, first, scores, i);
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
