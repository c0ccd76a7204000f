// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// LazyEviction keeps tokens that come back: it remembers when each was last attended to and the
// longest pause after which it was again, and evicts only now and then. "LazyEviction: Lagged KV
// Eviction with Attention Pattern Observation for Efficient Long Reasoning", arXiv:2506.15969.
// Authors' code as copied into WeianMao/triattention e7a0eb1, LazyEviction/model/kv_utils.py and
// temp_cacheobs.py.
//
// Fidelity: every W steps, `top_k{{.budget = C, .recent = W}}` and choose_victims() with evict()
// until no row names a victim; the engine counts the steps, the library does not.
// Fidelity: the authors' first term has 1 added in its exponent, `offset`; the paper's has not: 0.
// Fidelity: prompt tokens count as last attended to at the prompt's end, whatever its queries did.
// Fidelity: steps are positions here, exact in 32 bits; the authors keep them in the model's type.
// Fidelity: the authors keep K and V of every query head; of grouped heads the largest share counts
// here.

#include <kvslim/core/concepts.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

/// What LazyEviction remembers of a token.
struct lazy_column {
  std::int32_t last = 0;   ///< position of the last query that attended to it
  std::int32_t pause = 0;  ///< the longest one between such queries; 0: never since it came
};

/// Scores tokens by how soon, after their longest pause, they may be needed again.
/// Requires: evidence window_queries, of which the last of the prompt is enough; a threshold and an
/// offset that are numbers. Plan with `.evicts = true`. Cost: see observe(); two exponentials a
/// token where victims are chosen; 8 bytes per token. Source: arXiv:2506.15969.
struct lazy_eviction {
  static constexpr scorer_traits<lazy_column, needs_window_queries> traits{
      .observes = true, .heads = reduce::maximum};

  struct options {
    float threshold = 1e-4f;  ///< a query that pays as much attends (authors; 5e-4 for Llama 8B)
    float offset = 1.0f;      ///< in the first term's exponent (authors; paper 0)
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD lazy_column born(place const& at) const { return {at.position - 1, 0}; }
  KVSLIM_HD void observe(lazy_column& column, float mass, place const& at) const {
    if (at.prompt) {
      column.last = at.now;
    } else if (mass >= opt.threshold) {
      std::int32_t const pause = at.now - column.last;
      column.pause = pause > column.pause ? pause : column.pause;
      column.last = at.now;
    }
  }
  KVSLIM_HD float score(auto const& token) const {
    lazy_column const x = token.column();
    auto const since = static_cast<float>(token.now() - x.last);
    auto const pause = static_cast<float>(x.pause);
    float const soon = 2.0f / (1.0f + std::exp(opt.offset + since / (pause + 1e-5f)));
    return x.pause == 0 ? soon : soon + 2.0f / (1.0f + std::exp(pause - 1.0f));
  }
};
static_assert(scorer<lazy_eviction>);

KVSLIM_END_NAMESPACE
