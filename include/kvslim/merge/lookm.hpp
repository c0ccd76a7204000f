// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// LOOK-M folds every evicted token into the kept token whose key is most like its own, by one of
// three means. "LOOK-M: Look-Once Optimization in KV Cache for Efficient Multimodal Long-Context
// Inference", arXiv:2406.18139, section 3. Authors' code: SUSTechBruce/LOOK-M ecf0f51,
// LLaVA-mix_merge_v1/llava/model/kv_token_merge/modify_llama.py (PivotKVCache_LayerWise,
// AVGMergeKVCache_LayerWise, WeightedMergeKVCache_LayerWise).
//
// Fidelity: the authors drop by attention summed over all queries, the first 4 and the newest
// protected: h2o with top_k{.sinks = 4, .recent = ...}, or any other scorer and quota.
// Fidelity: their text prior keeps all text and drops images only: pin the text in the view.
// Fidelity: cosines of zero vectors are 0 (the authors' are NaN). Of equal cosines the first kept
// token is joined.
// Fidelity: weighted folding filters evicted tokens by their likeness, as the authors do over the
// n-th ones of all heads (`filter = fold_filter::places`); `mean` filters every head by itself.
// Fidelity: `mass_bias` adds the mass of what was folded to the kept token's logit, which is exact
// for equal tokens; the authors do not.

#include <kvslim/ops/assign.hpp>

KVSLIM_BEGIN_NAMESPACE

/// How evicted rows become part of the kept one, n of them:
enum class lookm_merge : std::uint8_t {
  averaged,    ///< the mean of all n + 1
  pivotal,     ///< each is first averaged with the kept one, then the mean of all n + 1 (paper)
  weighted,    ///< each times its cosine, the sum divided by n + 1
  normalized,  ///< weights (1 + cosine) / 2, divided by their sum plus one (KVCache-Factory)
};

/// Requires: least not NaN (invalid_option). Evicted tokens whose best cosine is below `least`
/// leave without a trace; above 1 that is all of them, and folding is plain eviction. Cost: a dot
/// product for every evicted and kept token of a row, one read of evicted rows each for K and V;
/// memory 16 bytes per token.
struct lookm {
  static constexpr merger_traits traits{.assigns = true};

  struct options {
    lookm_merge merge = lookm_merge::pivotal;  ///< the paper's choice
    fold_filter filter = fold_filter::none;    ///< the authors' for weighted: places
    float least = -1.0f;                       ///< lowest cosine that folds (authors: none)
    bool mass_bias = false;                    ///< store folded mass as a logit bias
  };
  options opt = {};

  [[nodiscard]] constexpr status check() const noexcept {
    if (opt.least != opt.least)
      return detail::fail(errc::invalid_option, "kvslim: lookm's least cosine is NaN");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t span() const noexcept { return 1; }
  [[nodiscard]] KVSLIM_HD constexpr bool folds_keys() const noexcept { return true; }
  [[nodiscard]] KVSLIM_HD constexpr bool grows() const noexcept { return false; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    return ops::assign_floats(e);
  }
  [[nodiscard]] KVSLIM_HD constexpr bool mass_bias() const noexcept { return opt.mass_bias; }
  template <class Exec, class Text>
  status assign(Exec const& exec, Text const& text, score_view, fate const* fates,
                folding const& out, float* scratch) const {
    if (auto const s = ops::nearest_kept(exec, text, fates, opt.least, out, scratch); !s) return s;
    return ops::drop_unlike(exec, text, {.filter = opt.filter}, out, scratch);
  }
  [[nodiscard]] KVSLIM_HD constexpr fold_share share(float cosine) const noexcept {
    float const part = 0.5f * (cosine + 1.0f), weight = part > 1e-6f ? part : 1e-6f;
    switch (opt.merge) {
      case lookm_merge::pivotal:
        return {.key = 0.5f, .value = 0.5f, .target = 0.5f};
      case lookm_merge::weighted:
        return {.key = cosine, .value = cosine};
      case lookm_merge::normalized:
        return {.key = weight, .value = weight, .count = weight};
      default:
        return {};
    }
  }
};
static_assert(merger<lookm>);

KVSLIM_END_NAMESPACE
