// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// DynamicKV lets all tokens of all layers compete and gives each layer the share that it wins, the
// same for its heads. "DynamicKV: Task-Aware Adaptive KV Cache Compression for Long Context LLMs",
// arXiv:2412.14838, algorithm 1. Authors' code: DreamMr/DynamicKV 8ab3c08,
// kv_compression/token_drop/methods/dynamic_v11.py, DynamicKVClusterV11.
//
// Fidelity: the authors' arithmetic: wins are divided by the number of layers and rounded down,
// what that loses goes to the last layer; shares are scaled to the total and rounded down, what is
// left goes to the last layer again. Fidelity: the authors redistribute after every fourth layer,
// to hold less while the prompt is read; what stays in the end is decided by the last round, which
// alone is made here, for any number of layers. Where a round would give a layer more than an
// earlier one left it, the authors store part of the window twice. Fidelity: the authors keep K and
// V of every query head; here the rows are KV heads. Fidelity: their scores are SnapKV's, summed
// over the window, which selects the same: `snapkv{{.window = 16, .pool = 7}}`.

#include <kvslim/core/concepts.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

/// One budget for all layers of a request by a contest of all their scores. The sequences of a view
/// are layers, one request after the other. What the scorer protects (its window) counts and takes
/// no part.
/// Requires: budget >= 1, largest >= 1 (invalid_option), layers and kv_heads that divide the view's
/// (invalid_shape). Cost: one selection over all layers together; storage for a layer that wins it
/// all. Source: arXiv:2412.14838.
struct dynamickv {
  static constexpr quota_traits traits{.contests = true};

  struct options {
    index_t budget = 0;     ///< tokens per head on average, the scorer's window included
    index_t layers = 1;     ///< of the model
    index_t kv_heads = 1;   ///< of a layer
    double largest = 10.0;  ///< a layer keeps at most so many times the mean (authors' scripts)
  };
  options opt = {};

  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    auto const among = [](index_t x, index_t most) { return x >= 1 && x <= most; };
    if (!among(opt.budget, extents::most_tokens) || !among(opt.layers, most_layers) ||
        !among(opt.kv_heads, extents::most_rows) || !(opt.largest >= 1.0 && opt.largest <= 1e6))
      return detail::fail(errc::invalid_option,
                          "kvslim: dynamickv needs a budget >= 1, up to 1024 layers, and largest "
                          "in [1, 10^6]");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr row_group group() const noexcept {
    return {opt.layers, opt.kv_heads};
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t most(extents const& e) const noexcept {
    return detail::min(e.tokens, opt.layers * opt.budget);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t total(extents const&) const noexcept {
    return opt.layers * opt.kv_heads * opt.budget;
  }
  [[nodiscard]] KVSLIM_HD constexpr contest open(extents const&, index_t recent) const noexcept {
    return {.seats = opt.layers * opt.kv_heads * base(recent)};
  }
  KVSLIM_HD void allocate(slice<row_facts const> facts, slice<quota> out) const noexcept {
    index_t const recent = facts[0].recent, mean = base(recent), all = opt.layers * mean;
    index_t tokens = 0, won = 0;
    for (row_facts const& f : facts) tokens = detail::max(tokens, f.tokens);
    index_t const prefix = detail::max(0, tokens - recent);
    auto const scaled = static_cast<index_t>(opt.largest * static_cast<double>(mean));
    index_t const largest = detail::min(scaled, prefix);
    for (index_t l = 0; l < opt.layers; ++l) won += wins(facts, l);
    // The last layer's wins are what rounding has left of the mean layer's; the authors leave them
    // alone where the sum is a layer's tokens.
    index_t const seats = opt.kv_heads * (won == opt.kv_heads * prefix ? prefix : mean);
    won -= wins(facts, opt.layers - 1);
    index_t first = 0, rest = all;
    for (index_t l = 0; l < opt.layers; ++l) first += length(facts, l, won, seats, largest);
    for (index_t l = 0; l < opt.layers; ++l) {
      index_t count = mean;  // nothing was won: evenly
      if (first > 0)
        count = floor_divide(length(facts, l, won, seats, largest),
                             static_cast<double>(first) / static_cast<double>(all));
      rest -= count;
      if (l == opt.layers - 1) count += rest;
      count = detail::max(0, detail::min(count, prefix)) + detail::min(recent, opt.budget);
      for (index_t i = l * opt.kv_heads; i < (l + 1) * opt.kv_heads; ++i)
        out[i] = {.count = count, .recent = facts[i].recent};
    }
  }

 private:
  static constexpr index_t most_layers = 1024;

  [[nodiscard]] KVSLIM_HD constexpr index_t base(index_t recent) const noexcept {
    return detail::max(0, opt.budget - recent);
  }
  /// Seats that the heads of a layer won, a layer's part of them, rounded down.
  [[nodiscard]] KVSLIM_HD index_t wins(slice<row_facts const> facts, index_t layer) const noexcept {
    index_t sum = 0;
    for (index_t i = layer * opt.kv_heads; i < (layer + 1) * opt.kv_heads; ++i)
      sum += facts[i].winners;
    return sum / opt.layers;
  }
  /// A layer's share of the largest length, in float as the authors compute it. `others`: wins of
  /// all layers but the last.
  [[nodiscard]] KVSLIM_HD index_t length(slice<row_facts const> facts, index_t layer,
                                         index_t others, index_t seats,
                                         index_t largest) const noexcept {
    index_t const own = layer == opt.layers - 1 ? seats - others : wins(facts, layer);
    if (seats == 0) return 0;
    return static_cast<index_t>(static_cast<float>(largest) *
                                (static_cast<float>(own) / static_cast<float>(seats)));
  }
  /// The whole part of the exact quotient of two doubles.
  [[nodiscard]] KVSLIM_HD static index_t floor_divide(index_t x, double by) noexcept {
    auto const whole = static_cast<double>(x);
    return static_cast<index_t>(std::nearbyint((whole - std::fmod(whole, by)) / by));
  }
};
static_assert(quota_policy<dynamickv>);

KVSLIM_END_NAMESPACE
