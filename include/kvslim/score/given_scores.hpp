// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Scores the caller already has: attention mass accumulated by an engine, or the scores of several
// layers reduced into one set for granularity `union_`.
//
// Fidelity: no paper; the numbers are used as they are.

#include <kvslim/ops/score_tokens.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Uses evidence `token_scores` [sequence, kv_head, cell]. Cost: one copy of the scores.
struct given_scores {
  static constexpr scorer_traits<no_column, needs_token_scores> traits{.bulk = true};

  [[nodiscard]] constexpr status check(extents const&) const noexcept { return {}; }
  [[nodiscard]] constexpr index_t protected_recent() const noexcept { return 0; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const&) const noexcept { return 0; }

  template <class Text, class Evidence>
  [[nodiscard]] status check(Text const&, Evidence const& evidence) const noexcept {
    if (evidence.template get<needs_token_scores>().data == nullptr)
      return detail::fail(errc::invalid_pointer, "kvslim: given_scores' scores are a null pointer");
    return {};
  }

  template <class Exec, class Text, class Evidence>
  [[nodiscard]] status score(Exec const& exec, Text const& text, Evidence const& evidence,
                             score_view out, float*) const {
    return ops::gather_scores(exec, text, evidence.template get<needs_token_scores>().data, out);
  }
};
static_assert(scorer<given_scores>);

KVSLIM_END_NAMESPACE
