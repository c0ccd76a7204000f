// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Keeps the `budget` best tokens of every row, sinks and the newest tokens first, in ascending
// order.
//
// Fidelity: references protect tokens by overwriting scores; here protected tokens are kept by
// index. If the budget cannot
//   hold them all, sinks go first, then the newest.

#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/top_k.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Which rows share one keep set, selected by the mean of their scores: none, the heads of a layer,
/// or the heads of a group of layers.
enum class granularity : std::uint8_t { per_head, per_layer, union_ };

/// Requires: budget >= 1, sinks and recent >= 0, layers that divide the sequences (invalid_option).
/// A budget above the length keeps everything. Cost: linear in tokens; workspace 8 bytes per token.
struct top_k {
  using stage = selector_tag;

  struct options {
    index_t budget = 0;  ///< tokens kept per KV head, protected ones included
    index_t sinks = 0;   ///< first tokens, always kept
    index_t recent = 0;  ///< newest tokens, always kept
    kvslim::granularity granularity = kvslim::granularity::per_head;
    index_t layers =
        1;  ///< with union_: so many consecutive sequences of the view are one sequence's layers
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr index_t capacity(index_t tokens) const noexcept {
    return opt.budget < tokens ? opt.budget : tokens;
  }
  /// Consecutive sequences whose rows share a keep set; 0: every row has its own.
  [[nodiscard]] KVSLIM_HD constexpr index_t shared_sequences() const noexcept {
    return opt.granularity == granularity::union_      ? opt.layers
           : opt.granularity == granularity::per_layer ? 1
                                                       : 0;
  }

  [[nodiscard]] constexpr status check(extents const& e) const noexcept {
    if (opt.layers < 1 || (opt.layers > 1 && (opt.granularity != granularity::union_ ||
                                              e.sequences % opt.layers != 0)))
      return detail::fail(
          errc::invalid_option,
          "kvslim: top_k layers needs granularity union_ and must divide the view's sequences");
    if (opt.budget < 1)
      return detail::fail(errc::invalid_option,
                          "kvslim: top_k needs a budget of at least one token");
    if (opt.sinks < 0 || opt.recent < 0)
      return detail::fail(errc::invalid_option, "kvslim: top_k needs sinks >= 0 and recent >= 0");
    return {};
  }

  /// Writes row.flags. A token whose flag was 255 on entry (invalid) is never kept.
  void select(selection_row row) const noexcept {
    index_t room = opt.budget;
    auto const protect = [&](index_t t) {
      if (room > 0 && row.flags[t] == 0) {
        row.flags[t] = 2;
        --room;
      }
    };
    index_t const sinks = detail::min(opt.sinks, row.tokens);
    index_t const recent = detail::min(detail::max(opt.recent, row.protected_recent), row.tokens);
    for (index_t t = 0; t < sinks; ++t) protect(t);
    for (index_t i = 0; i < recent; ++i) protect(row.tokens - 1 - i);
    index_t count = 0;
    for (index_t t = 0; t < row.tokens; ++t)
      if (row.flags[t] == 0) row.keys[count++] = ops::order_key(row.scores[t], t);
    room = detail::min(room, count);
    ops::top_keys(row.keys, count, room);
    for (index_t i = 0; i < room; ++i) row.flags[ops::key_index(row.keys[i])] = 1;
  }
};
static_assert(selector<top_k>);

KVSLIM_END_NAMESPACE
