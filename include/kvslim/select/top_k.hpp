// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The plain quota: `budget` tokens for every row, sinks and the newest first, the rest by score.
//
// Fidelity: references protect tokens by overwriting scores; here protected tokens are kept by
// their
//   place in the text. If the budget cannot hold them all, sinks go first, then the newest.

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Requires: budget >= 1, sinks and recent >= 0 (invalid_option). A budget above the length keeps
/// everything. Cost: none beyond the selection's.
struct top_k {
  static constexpr quota_traits traits{};

  struct options {
    index_t budget = 0;  ///< tokens kept per KV head, protected ones included
    index_t sinks = 0;   ///< first tokens, always kept
    index_t recent = 0;  ///< newest tokens, always kept
  };
  options opt = {};

  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    if (opt.budget < 1)
      return detail::fail(errc::invalid_option, "kvslim: top_k needs a budget of at least 1");
    if (opt.sinks < 0 || opt.recent < 0)
      return detail::fail(errc::invalid_option, "kvslim: top_k needs sinks >= 0 and recent >= 0");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr row_group group() const noexcept { return {}; }
  [[nodiscard]] KVSLIM_HD constexpr index_t most(extents const&) const noexcept {
    return opt.budget;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t total(extents const&) const noexcept {
    return opt.budget;
  }
  KVSLIM_HD constexpr void allocate(slice<row_facts const>, slice<quota> out) const noexcept {
    for (quota& q : out) q = {.count = opt.budget, .sinks = opt.sinks, .recent = opt.recent};
  }
};
static_assert(quota_policy<top_k>);

KVSLIM_END_NAMESPACE
