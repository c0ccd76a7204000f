// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Scores the caller already has: attention mass accumulated by an engine, or the scores of several
// layers reduced into one set for granularity `union_`.
//
// Fidelity: no paper; the numbers are used as they are.

#include <kvslim/ops/copy_scores.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Uses evidence `token_scores` [sequence, kv_head, token]. Cost: one copy of the scores.
struct given_scores {
  using stage = scorer_tag;
  using needs = needs_list<needs_token_scores>;

  [[nodiscard]] constexpr index_t protected_recent() const noexcept { return 0; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const&) const noexcept { return 0; }

  template <class Cache, class Evidence>
  [[nodiscard]] status check(Cache const&, Evidence const& evidence) const noexcept {
    if (detail::find_scores(evidence).data == nullptr)
      return detail::fail(errc::invalid_pointer, "kvslim: given_scores' scores are a null pointer");
    return {};
  }

  template <class Exec, class Cache, class Evidence>
  [[nodiscard]] status score(Exec const& exec, Cache const& cache, Evidence const& evidence,
                             score_view out, float*) const {
    return ops::copy_scores(exec, detail::find_scores(evidence).data,
                            cache.extent.rows() * cache.extent.tokens, out.data);
  }
};
static_assert(scorer<given_scores>);

KVSLIM_END_NAMESPACE
