// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// TOVA keeps the tokens that the newest query attends to, one set for all heads of a layer.
// "Transformers are Multi-State RNNs", arXiv:2401.06104. Authors' code: schwartz-lab-NLP/TOVA
// 9c7d09b, src/tova_cache.py; NVIDIA/kvpress 0.5.5, tova_press.py.
//
// Fidelity: the authors average over all query heads of the layer and keep one set: `shared` over
// its KV heads, `shared{tova{}, {.kv_heads = 8}}, top_k{{.budget = 512}}`. Bare, `tova{}` keeps a
// set for each KV head, which is not theirs.
// Fidelity: nothing is protected, so that the token that just came may leave at once; kvpress
// always keeps it: `top_k{{.budget = 512, .recent = 1}}`.
// Fidelity: the authors round weights to the model's type before they compare them; here they stay
// in float. Equal weights leave the later token out, theirs are unspecified.

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// What TOVA remembers of a token.
struct tova_column {
  float weight = 0.0f;  ///< that the newest query gave it
};

/// Scores tokens by the attention of the newest query alone.
/// Requires: evidence window_queries; the last is enough, earlier ones change nothing. Plan with
/// `.evicts = true` to go on while decoding: append, attend, observe, choose_victims, evict,
/// settle. Cost: one pass over K; 4 bytes per token. Source: arXiv:2401.06104.
struct tova {
  static constexpr scorer_traits<tova_column, needs_window_queries> traits{.observes = true};

  [[nodiscard]] KVSLIM_HD tova_column born(place const&) const { return {}; }
  KVSLIM_HD void observe(tova_column& column, float mass, place const&) const {
    column.weight = mass;
  }
  KVSLIM_HD float score(auto const& token) const { return token.column().weight; }
};
static_assert(scorer<tova>);

KVSLIM_END_NAMESPACE
