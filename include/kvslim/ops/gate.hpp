// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/score_tokens.hpp>
#include <kvslim/ops/select.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// What a scorer doubts, as a score.
template <class Scorer>
struct doubts_of {
  static constexpr auto traits = Scorer::traits;
  Scorer scorer;

  KVSLIM_HD float score(auto const& token) const { return scorer.doubt(token); }
};

}  // namespace detail

namespace ops {

struct gate_scores_op {};

/// Scores of tokens that may not go become infinite. Of those that may by their place, the `open`
/// with the lowest doubt keep theirs: earlier tokens among equals, NaN is the largest doubt. `keys`
/// is scratch, [rows, tokens].
template <class Exec, class Text>
status gate_scores(Exec const& exec, Text const& text, gate const& rule, score_view doubts,
                   std::uint64_t* keys, score_view out) {
  return implementation<gate_scores_op, Exec>::run(exec, text, rule, doubts, keys, out);
}

/// Whether rank i of a row is one that may go by its place.
template <class Text>
[[nodiscard]] KVSLIM_HD inline bool may_go(Text const& text, gate const& rule, index_t r,
                                           index_t i) noexcept {
  index_t const heads = text.extents().kv_heads, s = r / heads, h = r % heads;
  return i >= rule.sinks && i < text.tokens(s, h) - rule.recent && !text.pinned(s, h, i);
}

/// score_tokens, then the gate of a scorer that has one, with scratch of [rows, tokens] x 3.
template <class Exec, class Scorer, class Text, class Columns>
status score_gated(Exec const& exec, Scorer const& scorer, Text const& text, Columns const& columns,
                   [[maybe_unused]] float* scratch, score_view out) {
  if (auto const s = score_tokens(exec, scorer, text, columns, out); !s) return s;
  if constexpr (Scorer::traits.gates) {
    auto const& e = text.extents();
    auto* const keys = static_cast<std::uint64_t*>(static_cast<void*>(scratch));
    score_view const doubts{scratch + 2 * e.rows() * e.tokens, e.tokens};
    detail::doubts_of<Scorer> const doubt{scorer};
    if (auto const s = score_tokens(exec, doubt, text, columns, doubts); !s) return s;
    return gate_scores(exec, text, scorer.gate(), doubts, keys, out);
  }
  return {};
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::gate_scores_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, gate const& rule, score_view doubts,
                    std::uint64_t* keys, score_view out) {
    auto const& e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const n = text.tokens(r / e.kv_heads, r % e.kv_heads);
      std::uint64_t* const row = keys + r * e.tokens;
      index_t may = 0;
      for (index_t i = 0; i < n; ++i) {
        if (ops::may_go(text, rule, r, i))
          row[may++] = ops::order_key(-doubts.row(r)[i], i);
        else
          out.row(r)[i] = INFINITY;
      }
      index_t const open = detail::max(0, detail::min(rule.open, may));
      ops::top_keys(row, may, open);
      for (index_t i = open; i < may; ++i) out.row(r)[ops::key_index(row[i])] = INFINITY;
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
