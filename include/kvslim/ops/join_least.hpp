// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// All that a quota evicts from a row joins one of its kept tokens, the one that it would miss
/// least.

#include <kvslim/ops/assign.hpp>
#include <kvslim/ops/select.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

struct join_least_op {};

/// Targets of every (row, rank): evicted tokens join the kept token of the lowest score, the one
/// that would have gone next. Protected and pinned tokens and those that a bias of -inf hides are
/// not joined; where no other is kept, and where a bias of -inf hides what goes, nothing is.
/// Strength: 0.
template <class Exec, class Text>
status join_least(Exec const& exec, Text const& text, score_view scores, fate const* fates,
                  folding const& out) {
  return implementation<join_least_op, Exec>::run(exec, text, scores, fates, out);
}

/// One row of it.
template <class Text>
KVSLIM_HD inline void join_least_row(Text const& text, score_view scores, fate const* fates,
                                     folding const& out, index_t r) noexcept {
  auto const& e = text.extents();
  index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h), row = r * e.tokens;
  auto const visible = [&](index_t t) { return text.logit_bias(s, h, t) > -INFINITY; };
  float const* const score = scores.row(r);
  index_t least = -1;
  for (index_t t = 0; t < n; ++t) {
    if (fates[row + t] != fate::kept || !visible(t)) continue;
    if (least < 0 || order_key(score[t], t) < order_key(score[least], least)) least = t;
  }
  for (index_t t = 0; t < n; ++t) {
    bool const stays = fates[row + t] != fate::evicted;
    out.target[row + t] = static_cast<std::int32_t>(stays ? t : visible(t) ? least : -1);
    out.strength[row + t] = 0.0f;
  }
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::join_least_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, score_view scores, fate const* fates,
                    folding const& out) {
    exec.for_each(text.extents().rows(),
                  [=](index_t r) { ops::join_least_row(text, scores, fates, out, r); });
    return {};
  }
};

KVSLIM_END_NAMESPACE
