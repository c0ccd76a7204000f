// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/score_tokens.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

template <class Scorer, class Text, class Columns>
struct score_tokens_body {
  Scorer scorer;
  Text text;
  Columns columns;
  score_view out;

  __device__ void operator()(index_t at) const {
    auto const& e = text.extents();
    index_t const r = at / e.tokens, i = at % e.tokens, s = r / e.kv_heads, h = r % e.kv_heads;
    out.row(r)[i] = i < text.tokens(s, h) ? ops::score_token(scorer, text, s, h, i, columns) : 0.0f;
  }
};

template <class Text>
struct gather_scores_body {
  Text text;
  float const* by_cell;
  score_view out;

  __device__ void operator()(index_t at) const {
    auto const& e = text.extents();
    index_t const r = at / e.tokens, i = at % e.tokens, s = r / e.kv_heads, h = r % e.kv_heads;
    out.row(r)[i] =
        i < text.tokens(s, h) ? by_cell[r * text.row_cells() + text.cell(s, h, i)] : 0.0f;
  }
};

template <class Text>
struct share_scores_body {
  Text text;
  ops::share_rule rule;
  score_view scores;

  __device__ void operator()(index_t at) const {
    auto const& e = text.extents();
    ops::share_score(text, rule, rule.rows.group_row(e, at / e.tokens), scores, at % e.tokens);
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// One thread per token.
template <>
struct implementation<ops::score_tokens_op, cuda> {
  template <class Scorer, class Text, class Columns>
  static status run(cuda exec, Scorer const& scorer, Text const& text, Columns const& columns,
                    score_view out) {
    auto const& e = text.extents();
    return detail::launch_for_each(
        exec, e.rows() * e.tokens,
        detail::score_tokens_body<Scorer, Text, Columns>{scorer, text, columns, out});
  }
};

template <>
struct implementation<ops::gather_scores_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, float const* by_cell, score_view out) {
    auto const& e = text.extents();
    return detail::launch_for_each(exec, e.rows() * e.tokens,
                                   detail::gather_scores_body<Text>{text, by_cell, out});
  }
};

/// One thread per rank of a group.
template <>
struct implementation<ops::share_scores_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, ops::share_rule const& rule, score_view scores) {
    auto const& e = text.extents();
    return detail::launch_for_each(exec, rule.rows.groups(e) * e.tokens,
                                   detail::share_scores_body<Text>{text, rule, scores});
  }
};

KVSLIM_END_NAMESPACE
