// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// D2O folds an evicted token into the kept one whose key is most like its own, if they are alike
// enough, and lets go of the others. "D2O: Dynamic Discriminative Operations for Efficient
// Generative Inference of Large Language Models", arXiv:2406.13035, section 3.3. Authors' code:
// AIoT-MLSys-Lab/D2O 12c99d8, LLM_merge_new/LMEval_kv_token_merge/modeling_llama3_7b_13b_d2o.py
// (D2O_LayerKVCache).
//
// Fidelity: what the authors do at the end of the prompt. Their threshold is the mean likeness of
// that one compression; while decoding they go on with a running mean of it, for each layer, which
// a merger that remembers nothing of a row does not have.
// Fidelity: tokens stay by attention summed over all queries, the first 4 and the newest protected:
// h2o with top_k{.sinks = 4, .recent = ...}. Their shares of layers are not part of it (section
// 3.2; head_table takes any).
// Fidelity: the code divides by the number of tokens, so that rows shrink where likeness is below
// one; the paper describes weights that add up to one (`softmax`), which no code shows.
// Fidelity: the authors keep K and V of every query head and filter the n-th evicted token of all
// heads by its mean (`places`); here heads are KV heads. Cosines of zero vectors are 0, not NaN.

#include <kvslim/ops/assign.hpp>

KVSLIM_BEGIN_NAMESPACE

/// What an evicted row weighs, of cosine u, beside the kept row's one.
enum class d2o_weights : std::uint8_t {
  counted,  ///< u, the sum divided by the number of rows (authors)
  softmax,  ///< exp(u) beside e, divided by their sum (paper)
};

/// Requires: least not NaN (invalid_option). Evicted tokens below `least` leave without a trace;
/// above 1 that is all of them. Cost: as lookm's.
struct d2o {
  static constexpr merger_traits traits{.assigns = true};

  struct options {
    d2o_weights weights = d2o_weights::counted;  ///< the authors'
    fold_filter filter = fold_filter::places;    ///< the authors'
    float least = -1.0f;                         ///< lowest cosine that folds (authors: none)
    bool mass_bias = false;                      ///< store folded mass as a logit bias
  };
  options opt = {};

  [[nodiscard]] constexpr status check() const noexcept {
    if (opt.least != opt.least)
      return detail::fail(errc::invalid_option, "kvslim: d2o's least cosine is NaN");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t span() const noexcept { return 1; }
  [[nodiscard]] KVSLIM_HD constexpr bool folds_keys() const noexcept { return true; }
  [[nodiscard]] KVSLIM_HD constexpr bool grows() const noexcept { return false; }
  [[nodiscard]] KVSLIM_HD constexpr bool mass_bias() const noexcept { return opt.mass_bias; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    return ops::assign_floats(e);
  }
  template <class Exec, class Text>
  status assign(Exec const& exec, Text const& text, score_view, fate const* fates,
                folding const& out, float* scratch) const {
    if (auto const s = ops::nearest_kept(exec, text, fates, opt.least, out, scratch); !s) return s;
    return ops::drop_unlike(exec, text, opt.filter, out, scratch);
  }
  [[nodiscard]] KVSLIM_HD fold_share share(float cosine) const noexcept {
    if (opt.weights == d2o_weights::counted) return {.key = cosine, .value = cosine};
    float const weight = std::exp(cosine - 1.0f);
    return {.key = weight, .value = weight, .count = weight};
  }
};
static_assert(merger<d2o>);

KVSLIM_END_NAMESPACE
