// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// One token stands for all that a head drops: the mean of their keys and of their values, which
// attends as often as there were tokens. "RazorAttention: Efficient KV Cache Compression Through
// Retrieval Heads", arXiv:2407.15891, section 3. Code of the authors' company:
// mindspore-ai/golden-stick a50ddc9, mindspore_gs/experimental/long_context_compress/
// razor_attention/wrappers/vllm_mindspore/attention_wrappers.py (DeployRACompressCell._compress).
//
// Fidelity: the token takes one of the quota's places: the kept, unprotected token of the lowest
// score becomes it and counts as dropped, as in their code, whose capacity includes it. Theirs is
// streaming_llm with top_k{.budget = capacity, .sinks = 4, .recent = capacity - 5}; the paper's are
// the streaming heads of head_classes{.between = 1}. Other scorers and quotas do as well.
// Fidelity: the number of dropped tokens in front of the paper's exp() is a logit bias, its
// logarithm. Their code attends to the mean as to any one token: `mass_bias = false`.
// Fidelity: their code folds once, after the prompt. Here recompress() goes on: what was folded
// before weighs as many tokens as `mass_bias` stored, so that the mean is that of all. evict()
// folds nothing.
// Fidelity: keys are averaged as they are stored, rotated. The token's position is its place's.

#include <kvslim/ops/join_least.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Needs a quota; where it protects all that it keeps, no place is left for the token, and what
/// goes is gone. Rows that lose nothing stay as they are, bit for bit. A token weighs by its own
/// mass, exp(bias). Cost: one read of evicted rows each for K and V, which one thread makes on
/// CUDA; memory 16 bytes per token. Source: arXiv:2407.15891.
struct compensation_token {
  static constexpr merger_traits traits{.assigns = true};

  struct options {
    bool mass_bias = true;  ///< attends as often as tokens were dropped (paper); their code: once
  };
  options opt = {};

  [[nodiscard]] constexpr status check() const noexcept { return {}; }
  [[nodiscard]] KVSLIM_HD constexpr index_t span() const noexcept { return 1; }
  [[nodiscard]] KVSLIM_HD constexpr bool folds_keys() const noexcept { return true; }
  [[nodiscard]] KVSLIM_HD constexpr bool grows() const noexcept { return false; }
  [[nodiscard]] KVSLIM_HD constexpr bool mass_bias() const noexcept { return opt.mass_bias; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const&) const noexcept { return 0; }
  template <class Exec, class Text>
  status assign(Exec const& exec, Text const& text, score_view scores, fate const* fates,
                folding const& out, float*) const {
    return ops::join_least(exec, text, scores, fates, out);
  }
  [[nodiscard]] KVSLIM_HD constexpr fold_share share(float) const noexcept { return {}; }
};
static_assert(merger<compensation_token>);

KVSLIM_END_NAMESPACE
