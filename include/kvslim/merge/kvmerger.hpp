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
//   `mass_bias` adds log n to the logit instead, which is exact for equal tokens. Both default off;
//   `value_scale_n` is the paper's.
// Fidelity: after a selector a run holds at most one kept token, its pivot; runs without one are
// evicted, so the budget is
//   exact. Without a selector the number of runs is the outcome, as in the paper.

#include <cmath>
#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/rows.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Requires: -1 <= threshold, sigma >= 0, counts >= 0 (invalid_option). A threshold of 1 or more
/// merges nothing. Cost: one dot product per neighbouring pair, one pass over merged rows;
/// workspace 4 bytes per token.
struct kvmerger {
  using stage = merger_tag;

  struct options {
    float threshold = 0.75f;     ///< cosine above which neighbours join (paper's default)
    float sigma = 5.0f;          ///< width of the Gaussian; 0: one step from the mean distance
    index_t recent = 0;          ///< newest tokens that never merge, when no selector protects them
    index_t sinks = 0;           ///< first tokens that never merge, likewise
    bool value_scale_n = false;  ///< the paper's factor on merged values
    bool mass_bias = false;      ///< store log n as the token's logit bias (4 bytes per token)
  };
  options opt = {};

  [[nodiscard]] status check() const noexcept {
    if (!(opt.threshold >= -1.0f) || !(opt.sigma >= 0.0f) || opt.recent < 0 || opt.sinks < 0)
      return detail::fail(
          errc::invalid_option,
          "kvslim: kvmerger needs threshold >= -1, sigma >= 0, recent and sinks >= 0");
    return {};
  }
  [[nodiscard]] KVSLIM_HD constexpr bool mass_bias() const noexcept { return opt.mass_bias; }
  /// Merged rows may be larger than their members.
  [[nodiscard]] KVSLIM_HD constexpr bool grows() const noexcept { return opt.value_scale_n; }

  /// Assigns every token of one row to a run: run[t] is the index of the run's pivot, -1 if the
  /// token is evicted. Flags are the selection's (0, 1, 2; 255 invalid); `selected` says whether a
  /// selector ran. Returns the number of runs. `similar(t)` is cos(k_t, k_{t+1}).
  template <class Similar>
  KVSLIM_HD index_t runs(float const* scores, std::uint8_t const* flags, bool selected,
                         index_t tokens, std::int32_t* run, Similar const& similar) const {
    auto const joins = [&](index_t t) {
      return flags[t] != 2 && flags[t] != 255 &&
             (selected || (t >= opt.sinks && t < tokens - opt.recent));
    };
    index_t count = 0,
            last = tokens - 1;  // the open run is [t, last], scanned from the end as in the paper
    bool holds_kept = false;
    for (index_t t = tokens - 1; t >= 0; --t) {
      if (flags[t] == 255) {
        run[t] = -1;
        last = t - 1;
        holds_kept = false;
        continue;
      }
      if (t == last) holds_kept = false;
      holds_kept = holds_kept || flags[t] == 1 || flags[t] == 2;
      bool const one_kept = !(selected && holds_kept && t > 0 && flags[t - 1] == 1);
      bool const grows =
          t > 0 && joins(t) && joins(t - 1) && one_kept && similar(t - 1) > opt.threshold;
      if (grows) continue;
      count += close(scores, flags, selected, t, last, run);
      last = t - 1;
      holds_kept = false;
    }
    return count;
  }

  /// Writes the row that stands for a run of `n` members: weighted mean of `load(i, out)` over
  /// members first..last with pivot.
  template <class Key, class Value>
  KVSLIM_HD void merge(std::int32_t const* run, index_t pivot, index_t tokens, index_t dim,
                       Key const& key, Value const& value, float* k, float* v, float* row,
                       index_t& members) const {
    index_t first = pivot, last = pivot;
    while (first > 0 && run[first - 1] == pivot) --first;
    while (last + 1 < tokens && run[last + 1] == pivot) ++last;
    members = last - first + 1;
    key(pivot, k);
    value(pivot, v);
    if (members == 1) return;  // bit-exact
    float mean = 0.0f;
    for (index_t i = first; i <= last; ++i) {
      key(i, row);
      mean += ops::distance2(k, row, dim);
    }
    mean /= static_cast<float>(members);
    float width2 = opt.sigma * opt.sigma;
    if (opt.sigma == 0.0f && mean > 0.0f) {
      float sum = 0.0f;
      for (index_t i = first; i <= last; ++i) {
        key(i, row);
        sum += std::exp(-ops::distance2(k, row, dim) / (2.0f * mean));
      }
      width2 = sum * sum / (2.0f * static_cast<float>(members * members));
    }
    auto const weight = [&](float d2) {
      return width2 > 0.0f && mean > 0.0f ? std::exp(-d2 / (2.0f * width2)) : 1.0f;
    };
    // Two more passes over a run that is a few rows long: the pivot's key must stay intact while
    // distances are taken.
    float total = 0.0f;
    float* const merged = row + dim;
    for (index_t d = 0; d < dim; ++d) v[d] = merged[d] = 0.0f;
    float* const other = merged + dim;
    for (index_t i = first; i <= last; ++i) {
      key(i, row);
      float const w = weight(ops::distance2(k, row, dim));
      total += w;
      value(i, other);
      for (index_t d = 0; d < dim; ++d) {
        merged[d] += w * row[d];
        v[d] += w * other[d];
      }
    }
    float const scale = (opt.value_scale_n ? static_cast<float>(members) : 1.0f) / total;
    for (index_t d = 0; d < dim; ++d) {
      k[d] = merged[d] / total;
      v[d] *= scale;
    }
  }

 private:
  /// Names the pivot of run [first, last] and assigns its members; 1 if the run stays.
  KVSLIM_HD index_t close(float const* scores, std::uint8_t const* flags, bool selected,
                          index_t first, index_t last, std::int32_t* run) const {
    index_t pivot = -1;
    for (index_t i = first; i <= last; ++i) {
      if (selected && flags[i] == 0) continue;  // only a kept token can be the pivot
      if (pivot < 0 || scores[i] > scores[pivot]) pivot = i;
    }
    for (index_t i = first; i <= last; ++i) run[i] = static_cast<std::int32_t>(pivot);
    return pivot < 0 ? 0 : 1;
  }
};
static_assert(merger<kvmerger>);

KVSLIM_END_NAMESPACE
