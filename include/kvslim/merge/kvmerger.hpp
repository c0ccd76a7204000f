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

#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/rows.hpp>
#include <kvslim/ops/select.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

/// Requires: -1 <= threshold, sigma >= 0, counts >= 0 (invalid_option). Neighbours join if their
/// cosine, rounded to float, is above the threshold; a threshold of 1 or more merges nothing.
/// Members weigh with their own logit biases; what a bias of -inf hides is never a pivot and adds
/// nothing. Cost: one dot product per neighbouring pair, one pass over merged rows; workspace 4
/// bytes per token.
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

  [[nodiscard]] status check() const noexcept {
    if (!(opt.threshold >= -1.0f) || !(opt.sigma >= 0.0f && opt.sigma <= 3.0e38f) ||
        opt.recent < 0 || opt.sinks < 0)
      return detail::fail(errc::invalid_option,
                          "kvslim: kvmerger needs threshold >= -1, finite sigma >= 0, recent and "
                          "sinks >= 0");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr bool mass_bias() const noexcept { return opt.mass_bias; }
  /// Merged rows may be larger than their members.
  [[nodiscard]] KVSLIM_HD constexpr bool grows() const noexcept { return opt.value_scale_n; }

  /// Assigns every token of one row to a run: run[t] is the rank of the run's pivot, -1 if the
  /// token is evicted. `selected` says whether a quota ran. `similar(t)` is cos(k_t, k_{t+1}),
  /// `visible(t)` whether attention sees token t at all.
  template <class Similar, class Visible>
  KVSLIM_HD void runs(float const* scores, fate const* fates, bool selected, index_t tokens,
                      std::int32_t* run, Similar const& similar, Visible const& visible) const {
    auto const joins = [&](index_t t) {
      return fates[t] != fate::sure && (selected || (t >= opt.sinks && t < tokens - opt.recent));
    };
    index_t last = tokens - 1;  // the open run is [t, last], scanned from the end as in the paper
    bool holds_kept = false;
    for (index_t t = tokens - 1; t >= 0; --t) {
      if (t == last) holds_kept = false;
      holds_kept = holds_kept || fates[t] != fate::evicted;
      bool const one_kept = !(selected && holds_kept && t > 0 && fates[t - 1] != fate::evicted);
      bool const grows_left = opt.threshold < 1.0f && t > 0 && joins(t) && joins(t - 1) &&
                              one_kept && similar(t - 1) > opt.threshold;
      if (grows_left) continue;
      close(scores, fates, selected, t, last, run, visible);
      last = t - 1;
    }
  }

  /// Writes the row that stands for the run of `pivot`: the mean of its members, each weighing by
  /// its Gaussian distance from the pivot and its own mass. `key`, `value` and `bias` read one
  /// member. Returns the run's logit bias. `scratch` holds three rows.
  template <class Key, class Value, class Bias>
  KVSLIM_HD float merge(std::int32_t const* run, index_t pivot, index_t tokens, merge_width width,
                        Key const& key, Value const& value, Bias const& bias, float* k, float* v,
                        float* scratch) const {
    index_t first = pivot, last = pivot;
    while (first > 0 && run[first - 1] == pivot) --first;
    while (last + 1 < tokens && run[last + 1] == pivot) ++last;
    index_t const members = last - first + 1;
    key(pivot, k);
    value(pivot, v);
    if (members == 1) return bias(pivot);  // bit-exact
    float most = -INFINITY;
    for (index_t i = first; i <= last; ++i) most = bias(i) > most ? bias(i) : most;
    if (most == -INFINITY) return -INFINITY;  // nobody sees any of them
    float* const row = scratch;
    float const width2 = gaussian_width2(first, last, width.key, key, k, row);
    auto const weight = [&](index_t i) {
      key(i, row);
      float const near =
          width2 > 0.0f ? std::exp(-ops::distance2(k, row, width.key) / (2.0f * width2)) : 1.0f;
      return near * std::exp(bias(i) - most);
    };
    // Three passes over a run that is a few rows long: the pivot's key must stay intact while
    // distances are taken, and weights add up to one before they multiply, so that nothing
    // overflows.
    float total = 0.0f;
    double mass = 0.0;
    for (index_t i = first; i <= last; ++i) {
      total += weight(i);
      mass += std::exp(static_cast<double>(bias(i)) - static_cast<double>(most));
    }
    index_t const wide = detail::max(width.key, width.value);
    float* const merged = row + wide;
    float* const other = merged + wide;
    for (index_t d = 0; d < width.key; ++d) merged[d] = 0.0f;
    for (index_t d = 0; d < width.value; ++d) v[d] = 0.0f;
    float const scale = opt.value_scale_n ? static_cast<float>(members) : 1.0f;
    for (index_t i = first; i <= last; ++i) {
      float const w = weight(i) / total;
      value(i, other);
      for (index_t d = 0; d < width.key; ++d) merged[d] += w * row[d];
      for (index_t d = 0; d < width.value; ++d) v[d] += w * scale * other[d];
    }
    for (index_t d = 0; d < width.key; ++d) k[d] = merged[d];
    double const each = opt.mass_bias ? mass : mass / static_cast<double>(members);
    return static_cast<float>(static_cast<double>(most) + std::log(each));
  }

 private:
  /// The Gaussian's squared width for one run; 0: every member weighs alike.
  template <class Key>
  KVSLIM_HD float gaussian_width2(index_t first, index_t last, index_t dim, Key const& key,
                                  float const* pivot, float* row) const {
    auto const members = static_cast<float>(last - first + 1);
    float mean = 0.0f;
    for (index_t i = first; i <= last; ++i) {
      key(i, row);
      mean += ops::distance2(pivot, row, dim) / members;
    }
    if (!(mean > 0.0f)) return 0.0f;
    if (opt.sigma != 0.0f) return opt.sigma * opt.sigma;
    float sum = 0.0f;
    for (index_t i = first; i <= last; ++i) {
      key(i, row);
      sum += std::exp(-ops::distance2(pivot, row, dim) / (2.0f * mean));
    }
    return sum * sum / (2.0f * members * members);
  }

  /// Names the pivot of run [first, last] and assigns its members.
  template <class Visible>
  KVSLIM_HD void close(float const* scores, fate const* fates, bool selected, index_t first,
                       index_t last, std::int32_t* run, Visible const& visible) const {
    index_t pivot = -1;
    auto const better = [&](index_t i) {
      if (pivot < 0 || visible(i) != visible(pivot)) return pivot < 0 || visible(i);
      return ops::order_key(scores[i], i) > ops::order_key(scores[pivot], pivot);
    };
    for (index_t i = first; i <= last; ++i) {
      if (selected && fates[i] == fate::evicted) continue;  // only a kept token can be the pivot
      if (better(i)) pivot = i;
    }
    for (index_t i = first; i <= last; ++i) run[i] = static_cast<std::int32_t>(pivot);
  }
};
static_assert(merger<kvmerger>);

KVSLIM_END_NAMESPACE
