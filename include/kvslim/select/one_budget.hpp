// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// One budget for all rows of a group, layers included: whoever scores highest keeps most, with
// nothing guaranteed. For scores that mean the same in every layer, such as attention.
//
// Fidelity: within a layer this is Ada-KV's contest without a safeguard (arXiv:2407.11550, alpha
// 0);
//   across layers no paper defines it for every scorer. KVzip's "non-uniform" form
//   (arXiv:2505.23416) ranks over all layers likewise.

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// `budget` tokens per row on average, given to the rows of a group by a contest of their scores.
/// Sinks, and the newest tokens, are kept in every row and count.
/// Requires: budget >= 1, sinks and recent >= 0 (invalid_option), rows that divide the view's
/// (invalid_shape). Cost: one selection over all rows of a group together; storage is planned for
/// their sum, and for a row that wins it all.
struct one_budget {
  static constexpr quota_traits traits{.contests = true};

  struct options {
    index_t budget = 0;   ///< tokens kept per KV head on average, protected ones included
    row_group rows = {};  ///< that share: {layers, kv_heads}, say
    index_t sinks = 0;    ///< first tokens of every row, always kept
    index_t recent = 0;   ///< newest tokens of every row, always kept
  };
  options opt = {};

  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    if (opt.budget < 1 || opt.budget > extents::most_tokens || opt.sinks < 0 || opt.recent < 0)
      return detail::fail(errc::invalid_option,
                          "kvslim: one_budget needs a budget in [1, 2^30], sinks >= 0 and recent "
                          ">= 0");
    if (opt.rows.sequences < 1 || opt.rows.sequences > extents::most_rows ||
        opt.rows.kv_heads < 1 || opt.rows.kv_heads > extents::most_rows / opt.rows.sequences)
      return detail::fail(errc::invalid_option, "kvslim: one_budget needs rows of at least 1 x 1");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr row_group group() const noexcept { return opt.rows; }
  [[nodiscard]] KVSLIM_HD constexpr index_t most(extents const& e) const noexcept {
    return detail::min(e.tokens, total(e));
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t total(extents const&) const noexcept {
    return opt.budget * opt.rows.size();
  }
  [[nodiscard]] KVSLIM_HD constexpr contest open(extents const&, index_t recent) const noexcept {
    index_t const fixed = opt.sinks + detail::max(opt.recent, recent);
    return {.seats = opt.rows.size() * detail::max(0, opt.budget - fixed),
            .sinks = opt.sinks,
            .recent = opt.recent};
  }
  KVSLIM_HD constexpr void allocate(slice<row_facts const> facts, slice<quota> out) const noexcept {
    for (index_t i = 0; i < out.size; ++i) {
      index_t const recent = detail::max(opt.recent, facts[i].recent);
      out[i] = {.count = detail::min(opt.budget, opt.sinks + recent) + facts[i].winners,
                .sinks = opt.sinks,
                .recent = recent};
    }
  }
};
static_assert(quota_policy<one_budget>);

KVSLIM_END_NAMESPACE
