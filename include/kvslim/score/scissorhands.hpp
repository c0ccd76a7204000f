// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Scissorhands drops the tokens that most of the last queries paid less than their fair share:
// what has been important stays so. "Scissorhands: Exploiting the Persistence of Importance
// Hypothesis for LLM KV Cache Compression at Test Time", arXiv:2305.17118, algorithms 1 and 2. The
// authors' code (lzcemma/Scissorhands d0bf444) simulates another rule on whole prompts by masks;
// the algorithm itself is in no public code.
//
// Fidelity: a buffer that, once full, gives up m tokens is `top_k{{.budget = full - m, .recent =
// r}}` and choose_victims() with evict() until no row names a victim, whenever a row is full.
// Fidelity: the fair share is 1 over the tokens that are held and visible.
// Fidelity: the paper's history (400, as cited) is cut to at most 256 queries, which is a column of
// 32 bytes; shorter ones take less.
// Fidelity: counts tie often. Of equal tokens the later goes first, as everywhere in kvslim.
// Fidelity: of grouped heads the mean share counts; the paper has none.

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// What Scissorhands remembers of a token: a bit per query of the history, the newest the lowest.
template <index_t Words>
struct scissorhands_column {
  std::uint32_t low[static_cast<std::size_t>(Words)] = {};  ///< 1: less than its share
};

/// Scores tokens by minus the number of the last `History` queries that paid them less than their
/// share; queries from before a token do not count.
/// Requires: evidence window_queries, the last `History` of the prompt or fewer. Plan with
/// `.evicts = true` to go on while decoding. Cost: see ops::observe_queries and observe(); History
/// / 8 bytes per token. Source: arXiv:2305.17118.
template <index_t History = 256>
struct scissorhands {
  static_assert(History >= 32 && History <= 256 && History % 32 == 0,
                "kvslim: scissorhands' history is a multiple of 32 queries, up to 256");
  static constexpr index_t words = History / 32;
  using column_type = scissorhands_column<words>;
  static constexpr scorer_traits<column_type, needs_window_queries> traits{.observes = true};

  [[nodiscard]] KVSLIM_HD column_type born(place const&) const { return {}; }
  KVSLIM_HD void observe(column_type& column, float mass, place const& at) const {
    bool const low = mass * static_cast<float>(at.visible) < 1.0f;
    for (index_t w = words - 1; w > 0; --w)
      column.low[w] = column.low[w] << 1 | column.low[w - 1] >> 31;
    column.low[0] = column.low[0] << 1 | (low ? 1u : 0u);
  }
  KVSLIM_HD float score(auto const& token) const {
    auto const column = token.column();
    std::uint32_t count = 0;
    for (std::uint32_t x : column.low) {
      x -= x >> 1 & 0x55555555u;
      x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
      count += ((x + (x >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24;
    }
    return -static_cast<float>(count);
  }
};
static_assert(scorer<scissorhands<>>);

KVSLIM_END_NAMESPACE
