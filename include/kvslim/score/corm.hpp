// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// CORM keeps a token as long as any of the last queries paid it at least its fair share; how many
// that are is the text's affair. "CORM: Cache Optimization with Recent Message for Large Language
// Model Inference", arXiv:2404.15949. The authors published no code.
//
// Fidelity: "all of the last w queries found it minor" is one number a token, the position of the
// last query that did not: `at_least{{.least = 1 - w, .recent = r}}`, the paper's w = r = 256.
// Fidelity: the fair share is 1 over the tokens that are held and visible, which the paper leaves
// open. A share that rounding leaves a little short is fair, so that even attention keeps all.
// Fidelity: of grouped heads the largest share counts; the paper has none.

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// What CORM remembers of a token.
struct corm_column {
  std::int32_t major = 0;  ///< position of the last query that paid it its share
};

/// Scores tokens by how many positions ago a query last found them major: 0, -1, -2, ...
/// Requires: evidence window_queries, the last w of the prompt. Plan with `.evicts = true` to go on
/// while decoding; rows then shrink and grow as they like. Cost: see ops::observe_queries and
/// observe(); 4 bytes per token. Source: arXiv:2404.15949.
struct corm {
  static constexpr scorer_traits<corm_column, needs_window_queries> traits{
      .observes = true, .heads = reduce::maximum};

  [[nodiscard]] KVSLIM_HD corm_column born(place const& at) const { return {at.position}; }
  KVSLIM_HD void observe(corm_column& column, float mass, place const& at) const {
    if (mass * static_cast<float>(at.visible) >= 1.0f - fair) column.major = at.now;
  }
  KVSLIM_HD float score(auto const& token) const {
    return static_cast<float>(token.column().major - token.now());
  }

 private:
  static constexpr float fair = 1e-5f;  // of a softmax in float over any number of tokens
};
static_assert(scorer<corm>);

KVSLIM_END_NAMESPACE
