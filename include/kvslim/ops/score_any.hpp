// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// What a scorer that wraps another asks of it, be it a token scorer or one in bulk.

#include <kvslim/ops/score_tokens.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Newest tokens that a scorer protects.
template <class Scorer>
[[nodiscard]] constexpr index_t recent_of(Scorer const& scorer) noexcept {
  if constexpr (Scorer::traits.bulk) return scorer.protected_recent();
  return 0;
}
/// Floats of scratch per row that it needs.
template <class Scorer>
[[nodiscard]] constexpr index_t floats_of(Scorer const& scorer, extents const& e) noexcept {
  if constexpr (Scorer::traits.bulk) return scorer.scratch_floats(e);
  return 0;
}
template <class Scorer>
[[nodiscard]] constexpr status check_scorer(Scorer const& scorer, extents const& e) noexcept {
  if constexpr (Scorer::traits.bulk) return scorer.check(e);
  return {};
}
template <class Scorer, class Text, class Evidence>
[[nodiscard]] status check_scorer(Scorer const& scorer, Text const& text,
                                  Evidence const& evidence) noexcept {
  if constexpr (Scorer::traits.bulk) return scorer.check(text, evidence);
  return {};
}

/// Scores of a scorer that observes nothing.
template <class Exec, class Scorer, class Text, class Evidence>
[[nodiscard]] status score_any(Exec const& exec, Scorer const& scorer, Text const& text,
                               Evidence const& evidence, score_view out, float* scratch) {
  if constexpr (Scorer::traits.bulk)
    return scorer.score(exec, text, evidence, out, scratch);
  else
    return score_tokens(exec, scorer, text, columns_by_rank<no_column>{}, out);
}

}  // namespace ops

KVSLIM_END_NAMESPACE
