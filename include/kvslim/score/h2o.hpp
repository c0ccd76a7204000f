// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// H2O keeps the heavy hitters, the tokens that have received most attention from all queries so
// far, and the newest tokens. "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large
// Language Models", arXiv:2306.14048, algorithm 1. Authors' code: FMInference/H2O ac75c2a,
// h2o_hf/utils_real_drop/modify_llama.py. GQA form: Zefan-Cai/KVCache-Factory c97f9d7,
// H2OKVCluster; averaged form: NVIDIA/kvpress 0.5.5, observed_attention_press.py.
//
// kvpress's ObservedAttention is a setting of this: `h2o<>{{.per_query = true}}`.
//
// Fidelity: the rule is the one of the paper's algorithm and of the authors' code that really
// drops: after each step, `heavy` best of all but the newest `recent`, and these. As a pipeline,
// `h2o<>{}, top_k{{.budget = heavy + recent, .recent = recent}}`. The paper's accuracy was measured
// with a simulation by masks (utils_hh) that hides the token leaving the recent window for one
// step; that is not reproduced.
// Fidelity: the authors' code has as many KV heads as query heads. Under GQA each query's masses
// are reduced over the query heads of a KV head, by mean as in KVCache-Factory. Its sum and its
// mean select the same here; its maximum is taken over heads' sums, `h2o<reduce::maximum>` takes it
// query by query, which needs one number a token instead of one per query head.
// Fidelity: KVCache-Factory selects once, after the prompt, and never evicts while decoding.

#include <kvslim/core/concepts.hpp>

KVSLIM_BEGIN_NAMESPACE

/// What H2O remembers of a token.
struct h2o_column {
  float mass = 0.0f;  ///< sum of attention weights, from every query that saw it
};

/// Scores tokens by the attention they have received.
/// Requires: evidence window_queries with the queries of the whole prompt; fewer make a score of
/// just these. Plan with `.evicts = true` to go on while decoding. Cost: see ops::observe_queries
/// (quadratic in the prompt) and observe(); 4 bytes per token. Source: arXiv:2306.14048.
template <reduce Heads = reduce::mean>
struct h2o {
  static constexpr scorer_traits<h2o_column, needs_window_queries> traits{.observes = true,
                                                                          .heads = Heads};

  struct options {
    bool per_query = false;  ///< kvpress: divide by the queries that could see the token
  };
  options opt = {};

  [[nodiscard]] KVSLIM_HD h2o_column born(place const&) const { return {}; }
  KVSLIM_HD void observe(h2o_column& column, float mass, place const&) const {
    column.mass += mass;
  }
  KVSLIM_HD float score(auto const& token) const {
    float const mass = token.column().mass;
    // The token's own query was the first to see it.
    return opt.per_query ? mass / static_cast<float>(token.now() - token.position() + 1) : mass;
  }
};
static_assert(scorer<h2o<>>);

KVSLIM_END_NAMESPACE
