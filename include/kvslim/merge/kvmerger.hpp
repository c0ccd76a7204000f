// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// KVMerger folds runs of neighbouring tokens with similar keys into one token, Gaussian-weighted
// around the run's most attended member. "Model Tells You Where to Merge: Adaptive KV Cache Merging
// for LLMs on Long-Context Tasks", arXiv:2407.08454, sections 3.2 and 3.3. No authors' code is
// public, so there is no golden: the reference in tests decides.
//
// Fidelity: the paper's sigma is defined through the weights that need it; `sigma = 0` takes one
// step of that iteration
//   from the mean distance, a positive value is used as it is (5 is the paper's best fixed value).
// Fidelity: the paper multiplies merged values by the run length to restore attention mass in the
// numerator only; here
//   `mass_bias` adds the members' mass to the logit instead, which is exact for equal tokens. Both
//   default off; `value_scale_n` is the paper's.
// Fidelity: after a selector a run holds at most one kept token, its pivot; runs without one are
// evicted, so the budget is
//   exact. Without a selector the number of runs is the outcome, as in the paper.

#include <kvslim/ops/fold.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Requires: -1 <= threshold, finite sigma >= 0, counts >= 0 (invalid_option). Neighbours join if
/// their cosine, rounded to float, is above the threshold; a threshold of 1 or more merges nothing.
/// Members weigh with their own logit biases too; what a bias of -inf hides is never a pivot and
/// adds nothing. Cost: one dot product per neighbouring pair, four passes over merged rows;
/// workspace 4 bytes per token.
struct kvmerger {
  static constexpr merger_traits traits{};

  struct options {
    float threshold = 0.75f;     ///< cosine above which neighbours join (paper's default)
    float sigma = 5.0f;          ///< width of the Gaussian; 0: one step from the mean distance
    index_t recent = 0;          ///< newest tokens that never merge, when no quota protects them
    index_t sinks = 0;           ///< first tokens that never merge, likewise
    bool value_scale_n = false;  ///< the paper's factor on merged values
    bool mass_bias = false;      ///< store the members' mass as a logit bias (4 bytes per token)
  };
  options opt = {};

  [[nodiscard]] constexpr status check() const noexcept {
    if (!(opt.sigma >= 0.0f && opt.sigma <= 3.0e38f))
      return detail::fail(errc::invalid_option, "kvslim: kvmerger needs a finite sigma >= 0");
    return joins().check();
  }
  [[nodiscard]] KVSLIM_HD constexpr run_rule joins() const noexcept {
    return {opt.threshold, opt.sinks, opt.recent};
  }
  [[nodiscard]] KVSLIM_HD constexpr bool mass_bias() const noexcept { return opt.mass_bias; }
  /// Merged values are as many times larger as the run has members.
  [[nodiscard]] KVSLIM_HD constexpr bool grows() const noexcept { return opt.value_scale_n; }

  /// Summed over the run: what one step from the mean distance needs.
  [[nodiscard]] KVSLIM_HD float fact(fold_member const& m) const noexcept {
    return m.mean_distance2 > 0.0f ? std::exp(-m.distance2 / (2.0f * m.mean_distance2)) : 1.0f;
  }
  /// A Gaussian of the distance from the pivot.
  [[nodiscard]] KVSLIM_HD fold_weights weigh(fold_member const& m) const noexcept {
    if (!(m.mean_distance2 > 0.0f)) return {1.0f, 1.0f};
    auto const count = static_cast<float>(m.members);
    float const width2 =
        opt.sigma != 0.0f ? opt.sigma * opt.sigma : m.sum * m.sum / (2.0f * count * count);
    float const w = std::exp(-m.distance2 / (2.0f * width2));
    return {w, w};
  }
};
static_assert(merger<kvmerger>);

KVSLIM_END_NAMESPACE
