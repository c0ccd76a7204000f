// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Ada-KV shares one budget among the heads of a layer: a head whose attention is spread out gets
// more tokens, one whose attention is concentrated gets fewer. "Ada-KV: Optimizing KV Cache
// Eviction by Adaptive Budget Allocation for Efficient LLM Inference", arXiv:2407.11550, algorithms
// 1 and 2. Authors' code: FFY0/AdaKV efe4e2e, AdaptiveSnapKVCluster; the other safeguard:
// NVIDIA/kvpress 0.5.5, adakv_press.py.
//
// Fidelity: the paper's budget of a head lies between what it wins and the even share, its total is
// the layer's: `safeguard::exact` (leftovers of rounding down go to the largest fractions). The
// authors round every head by itself and truncate the even share, so that the total drifts:
// `safeguard::authors`. kvpress guarantees every head a part of the even share and lets the rest be
// won: `safeguard::pin`.
// Fidelity: the authors' scores are SnapKV's, their group reduced before pooling:
// `snapkv{{.window = 32, .pool = 7, .kind = pooling::maximum, .reduce_first = true}}`. Any other
// scorer will do. KVCache-Factory compares heads after scaling each by the share of its own best;
// that is not offered.
// Fidelity: the authors' `skip` layers, which get even budgets, are layers given to `top_k`.

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// How a head is kept from winning too little.
enum class safeguard : std::uint8_t { exact, authors, pin };

/// One budget for the KV heads of a layer, given out by a contest of their scores. What the scorer
/// protects (its window) counts and takes no part.
/// Requires: budget >= 1, 0 <= alpha <= 1 (invalid_option; six decimals of alpha count), kv_heads
/// that divide the view's (invalid_shape). Cost: a selection over all heads of a layer together;
/// storage for one head up to what the others can lose. Source: arXiv:2407.11550.
struct adakv {
  static constexpr quota_traits traits{.contests = true};

  struct options {
    index_t budget = 0;    ///< tokens per KV head on average, the scorer's window included
    index_t kv_heads = 1;  ///< heads that share their budgets: those of a layer
    double alpha = 0.2;    ///< part that is shared evenly (authors' runs and kvpress)
    kvslim::safeguard safeguard = safeguard::exact;
  };
  options opt = {};

  [[nodiscard]] constexpr status check(extents const&) const noexcept {
    if (opt.budget < 1 || opt.budget > extents::most_tokens || opt.kv_heads < 1 ||
        opt.kv_heads > most_heads || !(opt.alpha >= 0.0 && opt.alpha <= 1.0))
      return detail::fail(errc::invalid_option,
                          "kvslim: adakv needs a budget in [1, 2^30], kv_heads in [1, 1024] and "
                          "alpha in [0, 1]");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr row_group group() const noexcept { return {1, opt.kv_heads}; }
  /// A head that wins every seat still leaves the others their even part.
  [[nodiscard]] KVSLIM_HD constexpr index_t most(extents const&) const noexcept {
    return opt.budget * opt.kv_heads - (opt.kv_heads - 1) * even_part(opt.budget) + 1;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t total(extents const&) const noexcept {
    // The authors round each head up by at most a half.
    index_t const drift = opt.safeguard == safeguard::authors ? opt.kv_heads : 0;
    return opt.budget * opt.kv_heads + drift;
  }
  [[nodiscard]] KVSLIM_HD constexpr contest open(extents const&, index_t recent) const noexcept {
    index_t const sure =
        opt.safeguard == safeguard::pin ? detail::max(0, even_part(opt.budget) - recent) : 0;
    return {.seats = opt.kv_heads * base(recent), .sure = sure};
  }

  KVSLIM_HD constexpr void allocate(slice<row_facts const> facts, slice<quota> out) const noexcept {
    std::int64_t rest = 0;  // in fractions of a token
    for (index_t i = 0; i < out.size; ++i) {
      row_facts const& f = facts[i];
      index_t share = f.winners;
      if (opt.safeguard == safeguard::exact) {
        share = scaled(f) / parts;
        rest += scaled(f) % parts;
      } else if (opt.safeguard == safeguard::authors) {
        share = base(f.recent) <= f.tokens - f.recent ? rounded_share(f) : f.tokens;
      }
      out[i] = {.count = detail::min(f.recent, opt.budget) + share, .recent = f.recent};
    }
    // What rounding down has left goes to the largest fractions, to earlier heads among equals.
    std::int64_t above = parts;
    for (index_t given = 0; given < rest / parts;) {
      std::int64_t next = 0;
      for (index_t i = 0; i < out.size; ++i) {
        std::int64_t const fraction = scaled(facts[i]) % parts;
        if (fraction < above && fraction > next) next = fraction;
      }
      for (index_t i = 0; i < out.size && given < rest / parts; ++i)
        if (scaled(facts[i]) % parts == next) {
          ++out[i].count;
          ++given;
        }
      above = next;
    }
  }

 private:
  static constexpr index_t most_heads = 1024;
  static constexpr std::int64_t parts = 1000000;  // alpha in whole numbers: exact on every machine

  /// What a head keeps on average beside the `recent` tokens that are protected.
  [[nodiscard]] KVSLIM_HD constexpr index_t base(index_t recent) const noexcept {
    return detail::max(0, opt.budget - recent);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t even_part(index_t tokens) const noexcept {
    return static_cast<index_t>(static_cast<double>(tokens) * opt.alpha);
  }
  /// A head's share between what it won and the even one, times `parts`.
  [[nodiscard]] KVSLIM_HD constexpr std::int64_t scaled(row_facts const& f) const noexcept {
    auto const alpha = static_cast<std::int64_t>(opt.alpha * static_cast<double>(parts) + 0.5);
    return f.winners * (parts - alpha) + base(f.recent) * alpha;
  }
  /// The same as the authors compute it: in float, halves to even.
  [[nodiscard]] KVSLIM_HD constexpr index_t rounded_share(row_facts const& f) const noexcept {
    auto const rest = static_cast<double>(static_cast<float>(1.0 - opt.alpha));
    // The product of two floats is exact in a double: nothing to contract, rounded once.
    auto const won = static_cast<float>(static_cast<double>(static_cast<float>(f.winners)) * rest);
    float const share = won + static_cast<float>(even_part(base(f.recent)));
    auto const whole = static_cast<index_t>(share);
    float const fraction = share - static_cast<float>(whole);
    return whole + (fraction > 0.5f || (fraction == 0.5f && whole % 2 == 1) ? 1 : 0);
  }
};
static_assert(quota_policy<adakv>);

KVSLIM_END_NAMESPACE
