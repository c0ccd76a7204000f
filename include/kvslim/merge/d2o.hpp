// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// D2O folds an evicted token into the kept one whose key is most like its own, if they are alike
// enough, and lets go of the others. "D2O: Dynamic Discriminative Operations for Efficient
// Generative Inference of Large Language Models", arXiv:2406.13035, section 3.3. Authors' code:
// AIoT-MLSys-Lab/D2O 12c99d8, LLM_merge_new/LMEval_kv_token_merge/modeling_llama3_7b_13b_d2o.py
// (D2O_LayerKVCache).
//
// Fidelity: the threshold of the prompt is the mean likeness of what goes. With `running` it moves
// on with every recompress() after it, as the authors' does with every token: a row remembers it.
// Theirs outlives the text, so that the next one begins with it; here it is the cache's.
// Fidelity: the authors evict while decoding as long as fewer tokens are held than the prompt had.
// Fidelity: tokens stay by attention summed over all queries, the first 4 and the newest protected:
// h2o with top_k{.budget = best + recent, .sinks = 4, .recent = recent}, whose numbers for each
// layer `d2o_budgets` makes of the prompt's attention (section 3.2), as the authors do.
// Fidelity: the code divides by the number of tokens, so that rows shrink where likeness is below
// one; the paper describes weights that add up to one (`softmax`), which no code shows.
// Fidelity: the authors keep K and V of every query head and filter the n-th evicted token of all
// heads by its mean (`places`); here heads are KV heads. Cosines of zero vectors are 0, not NaN.

#include <kvslim/ops/assign.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

/// What an evicted row weighs, of cosine u, beside the kept row's one.
enum class d2o_weights : std::uint8_t {
  counted,  ///< u, the sum divided by the number of rows (authors)
  softmax,  ///< exp(u) beside e, divided by their sum (paper)
};

/// Requires: least not NaN, past and present in [0, 1] (invalid_option). Evicted tokens below
/// `least` leave without a trace; above 1 that is all of them. Cost: as lookm's.
struct d2o {
  static constexpr merger_traits traits{.assigns = true, .memory = 1};

  struct options {
    d2o_weights weights = d2o_weights::counted;  ///< the authors'
    fold_filter filter = fold_filter::places;    ///< the authors'
    float least = -1.0f;                         ///< lowest cosine that folds (authors: none)
    bool mass_bias = false;                      ///< store folded mass as a logit bias
    bool running = false;  ///< the threshold moves on from recompress() to recompress() (authors)
    float past = 0.5f;     ///< of the last threshold in the next one (authors, alpha)
    float present = 0.5f;  ///< of the mean likeness in it (authors, belta)
  };
  options opt = {};

  [[nodiscard]] constexpr status check() const noexcept {
    if (opt.least != opt.least)
      return detail::fail(errc::invalid_option, "kvslim: d2o's least cosine is NaN");
    auto const weight = [](float x) { return x >= 0.0f && x <= 1.0f; };
    if (opt.running &&
        (opt.filter == fold_filter::none || !weight(opt.past) || !weight(opt.present)))
      return detail::fail(errc::invalid_option,
                          "kvslim: d2o's running threshold needs a filter, and past and present in "
                          "[0, 1]");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t span() const noexcept { return 1; }
  [[nodiscard]] KVSLIM_HD constexpr bool folds_keys() const noexcept { return true; }
  [[nodiscard]] KVSLIM_HD constexpr bool grows() const noexcept { return false; }
  [[nodiscard]] KVSLIM_HD constexpr bool mass_bias() const noexcept { return opt.mass_bias; }
  [[nodiscard]] constexpr index_t scratch_floats(extents const& e) const noexcept {
    return ops::assign_floats(e);
  }
  /// A running threshold, and how often it has moved.
  [[nodiscard]] KVSLIM_HD constexpr index_t row_bytes() const noexcept {
    return opt.running ? static_cast<index_t>(sizeof(ops::least_likeness)) : 0;
  }
  template <class Exec, class Text>
  status assign(Exec const& exec, Text const& text, score_view, fate const* fates,
                folding const& out, float* scratch) const {
    if (auto const s = ops::nearest_kept(exec, text, fates, opt.least, out, scratch); !s) return s;
    return ops::drop_unlike(exec, text, {opt.filter, opt.past, opt.present}, out, scratch);
  }
  [[nodiscard]] KVSLIM_HD fold_share share(float cosine) const noexcept {
    if (opt.weights == d2o_weights::counted) return {.key = cosine, .value = cosine};
    float const weight = std::exp(cosine - 1.0f);
    return {.key = weight, .value = weight, .count = weight};
  }
};
static_assert(merger<d2o>);

/// How unevenly a layer's tokens are attended to: the variance of a head's attention over its
/// tokens, scaled to [0, 1] over the layer's heads, their mean. `attention` [heads, tokens] is what
/// all of the prompt's queries paid a token in sum (h2o's scores). Equal heads: 0.
///
/// Returns: invalid_shape (no head, fewer than two tokens, a part of a row), non_finite; then `out`
/// is as it was. Source: arXiv:2406.13035, section 3.2, and the authors' code, unbiased variance
/// and 1e-6 in the divisor included.
inline status d2o_unevenness(slice<float const> attention, index_t heads, double& out) noexcept {
  if (heads < 1 || attention.size < 2 * heads || attention.size % heads != 0)
    return detail::fail(errc::invalid_shape,
                        "kvslim: d2o_unevenness needs attention [heads, tokens] of two tokens");
  index_t const tokens = attention.size / heads;
  auto const n = static_cast<double>(tokens);
  double least = 0.0, most = 0.0, sum = 0.0;
  for (index_t h = 0; h < heads; ++h) {
    double mean = 0.0, squares = 0.0;
    for (index_t t = 0; t < tokens; ++t) mean += double{attention[h * tokens + t]} / n;
    for (index_t t = 0; t < tokens; ++t) {
      double const x = double{attention[h * tokens + t]} - mean;
      squares += x * x;
    }
    double const variance = squares / (n - 1.0);
    if (!std::isfinite(variance))
      return detail::fail(errc::non_finite, "kvslim: d2o_unevenness was given NaN or infinity");
    least = h == 0 || variance < least ? variance : least;
    most = h == 0 || variance > most ? variance : most;
    sum += variance;
  }
  out = (sum / static_cast<double>(heads) - least) / (most - least + 1e-6);
  return {};
}

/// Tokens that d2o keeps of a layer.
struct d2o_budget {
  index_t best = 0;    ///< by score, the first four among them
  index_t recent = 0;  ///< newest
};

struct d2o_budget_options {
  double best = 0.1;        ///< of the prompt, on average over layers (authors' documented run)
  double recent = 0.1;      ///< likewise
  bool spares_ends = true;  ///< the first two layers and the last keep all (authors)
};

/// What each layer keeps of a prompt: more where attention is even. A layer's part of the budget is
/// softmax(-unevenness) times the layers, cut to [0.01, 1] of the prompt; what that takes or leaves
/// is not given to others, and the ends are spared besides, as in the authors' code. They count the
/// first generated token to the prompt: `tokens` one more than its length.
///
/// Returns: invalid_shape (no layer, sizes that differ, tokens out of range), invalid_option
/// (shares that are negative or add up to nothing, unevenness that is no number); then nothing is
/// written. Source: arXiv:2406.13035, section 3.2.
inline status d2o_budgets(slice<double const> unevenness, index_t tokens,
                          d2o_budget_options const& opt, slice<d2o_budget> out) noexcept {
  if (unevenness.size != out.size || out.size < 1 || tokens < 0 || tokens > extents::most_tokens)
    return detail::fail(errc::invalid_shape, "kvslim: d2o_budgets needs one budget for each layer");
  double const whole = opt.best + opt.recent;
  double sum = 0.0, least = unevenness[0];
  for (double const x : unevenness) least = x < least ? x : least;
  for (double const x : unevenness) sum += std::exp(least - x);
  if (!(opt.best >= 0.0 && opt.recent >= 0.0 && whole > 0.0 && std::isfinite(whole)) ||
      !std::isfinite(sum) || !std::isfinite(least))
    return detail::fail(errc::invalid_option,
                        "kvslim: d2o_budgets needs shares >= 0, not both 0, and finite unevenness");
  auto const n = static_cast<double>(tokens), layers = static_cast<double>(out.size);
  for (index_t l = 0; l < out.size; ++l) {
    if (opt.spares_ends && (l < 2 || l + 1 == out.size)) {
      out[l] = {.best = tokens, .recent = 0};
      continue;
    }
    double const part = std::exp(least - unevenness[l]) / sum * layers * whole;
    double const share = (part < 0.01 ? 0.01 : part > 1.0 ? 1.0 : part) / whole;
    // Whole numbers of tokens are floats in the authors' code: none is lost to a last digit.
    out[l] = {.best = static_cast<index_t>(static_cast<float>(n * (share * opt.best))),
              .recent = static_cast<index_t>(static_cast<float>(n * (share * opt.recent)))};
  }
  return {};
}

KVSLIM_END_NAMESPACE
