// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// RoCo keeps the tokens with the best mean attention, and does not trust the mean of those whose
// attention varies: they stay. "On the Efficacy of Eviction Policy for Key-Value Constrained
// Generative Language Model Inference", arXiv:2402.06262. Authors' code: DRSY/EasyKV a1d71ca,
// easykv/easykv.py, mode `roco`.
//
// Fidelity: as the authors decode: after each step one token goes, `top_k{{.budget = B, .recent =
// 10}}`, the lowest mean among the `B - int(0.3 B)` tokens that vary least. Their prompt stays: pin
// it, and add its tokens to the budget of top_k, not to the budget here.
// Fidelity: as they read a prompt step by step: `{.budget = B, .recent_part = 0.1, .sinks = 4}`,
// one token at a time (their stride of 1). compress() of a whole prompt drops many at once from
// one set of tokens that vary least, which is not theirs.
// Fidelity: the variance is biased, as theirs. Rounding may make theirs negative, and such a token
// then stays; here it counts as 0, which makes it the first to go.
// Fidelity: of grouped heads the mean share counts, as theirs; its square is that of the mean.

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// What RoCo remembers of a token.
struct roco_column {
  float sum = 0.0f, squares = 0.0f;  ///< of the shares that it was paid
  std::int32_t queries = 0;          ///< that could see it
};

/// Scores tokens by their mean attention; those that vary most, and protected ones, may not go.
/// Requires: evidence window_queries; budget of the quota behind it. Plan with `.evicts = true` to
/// go on while decoding. Cost: as h2o's, and a selection among a row's variances where victims are
/// chosen; 12 bytes per token. Source: arXiv:2402.06262.
struct roco {
  static constexpr scorer_traits<roco_column, needs_window_queries> traits{.observes = true,
                                                                           .gates = true};

  struct options {
    index_t budget = 0;        ///< tokens of a row beside pinned ones
    double recent_part = 0.3;  ///< of the budget, which narrows what may go (authors' decoding)
    index_t sinks = 0;         ///< first tokens, which never go (authors' prompts: 4)
    index_t last = 10;         ///< newest tokens, which never go (authors)
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD constexpr kvslim::gate gate() const noexcept {
    auto const recent = static_cast<index_t>(static_cast<double>(opt.budget) * opt.recent_part);
    return {.open = detail::max(1, opt.budget - recent - opt.sinks),
            .sinks = opt.sinks,
            .recent = opt.last};
  }
  [[nodiscard]] KVSLIM_HD roco_column born(place const&) const { return {}; }
  KVSLIM_HD void observe(roco_column& column, float mass, place const&) const {
    column.sum += mass;
    float const volatile square = mass * mass;  // no fused multiply-add: the same everywhere
    column.squares += square;
    ++column.queries;
  }
  KVSLIM_HD float score(auto const& token) const {
    auto const x = token.column();
    return x.queries == 0 ? 0.0f : x.sum / static_cast<float>(x.queries);
  }
  KVSLIM_HD float doubt(auto const& token) const {
    auto const x = token.column();
    if (x.queries == 0) return 0.0f;
    auto const n = static_cast<float>(x.queries);
    float const mean = x.sum / n;
    float const volatile square = mean * mean;
    float const variance = x.squares / n - square;
    return variance > 0.0f ? variance : 0.0f;
  }
};
static_assert(scorer<roco>);

KVSLIM_END_NAMESPACE
