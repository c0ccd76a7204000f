// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// All tokens whose score reaches a threshold, however many: what dynamic memory sparsification
// (DMS) keeps. "Inference-Time Hyper-Scaling with KV Cache Compression", arXiv:2506.05345.
// NVIDIA/kvpress 0.5.5, dms_press.py; the authors' trained evictors are scores like any other.
//
// Fidelity: kvpress decides once for each token, when it leaves the window, by the score it had on
// arrival. That is what choose_victims() does with a score that does not change (knorm); with one
// that does, a token may go later.
// Fidelity: kvpress scores a new token from itself alone, so scorers that look at the whole cache
// differ.

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// What scores at least `least`, beside sinks and the newest. Also while decoding: call
/// choose_victims() and evict() until no row names a victim.
/// Requires: a least that is a number, budget, sinks and recent >= 0 (invalid_option). Cost: none
/// beyond the selection's; without a budget storage for all tokens. Source: arXiv:2506.05345.
struct at_least {
  static constexpr quota_traits traits{};

  struct options {
    float least = 0.0f;    ///< lowest score that stays
    index_t budget = 0;    ///< at most so many tokens per row; 0: all
    index_t sinks = 0;     ///< first tokens, always kept
    index_t recent = 128;  ///< newest tokens, always kept (kvpress)
  };
  options opt = {};

  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    if (opt.least != opt.least || opt.budget < 0 || opt.budget > extents::most_tokens ||
        opt.sinks < 0 || opt.recent < 0)
      return detail::fail(errc::invalid_option,
                          "kvslim: at_least needs a least that is a number, and budget, sinks and "
                          "recent >= 0");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr row_group group() const noexcept { return {}; }
  /// Without a budget a row has no bound, not even while it grows.
  [[nodiscard]] KVSLIM_HD constexpr index_t most(extents const&) const noexcept {
    return opt.budget > 0 ? opt.budget : extents::most_tokens;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t total(extents const& e) const noexcept {
    return most(e);
  }
  KVSLIM_HD constexpr void allocate(slice<row_facts const>, slice<quota> out) const noexcept {
    for (quota& q : out)
      q = {.count = opt.budget > 0 ? opt.budget : extents::most_tokens,
           .sinks = opt.sinks,
           .recent = opt.recent,
           .least = opt.least};
  }
};
static_assert(quota_policy<at_least>);

KVSLIM_END_NAMESPACE
