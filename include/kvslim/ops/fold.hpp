// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Folding evicted tokens into kept ones: runs of neighbours with similar keys, and the row that
/// stands for a run. A merger says how much each member weighs; the loops are here.

#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/rows.hpp>
#include <kvslim/ops/select.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

/// Which neighbours join: those whose cosine, rounded to float, is above the threshold; a threshold
/// of 1 or more joins nothing. Without a quota, `sinks` first and `recent` newest tokens never
/// join; with one, the tokens it protects do not.
struct run_rule {
  float threshold = 0.75f;
  index_t sinks = 0;
  index_t recent = 0;

  [[nodiscard]] constexpr status check() const noexcept {
    if (!(threshold >= -1.0f) || sinks < 0 || recent < 0)
      return detail::fail(errc::invalid_option,
                          "kvslim: a merger needs threshold >= -1, sinks >= 0 and recent >= 0");
    return {};
  }
};

namespace ops {

/// What a token is worth as the pivot of its run; the greatest is it.
struct pivot {
  std::uint64_t key = 0;    ///< ops::order_key
  std::int32_t token = -1;  ///< -1: none
  bool visible = false;

  [[nodiscard]] KVSLIM_HD constexpr bool beats(pivot const& other) const noexcept {
    if (token < 0 || other.token < 0) return token >= 0;
    return visible != other.visible ? visible : key > other.key;
  }
};

/// One row whose tokens are put into runs. `similar(t)` is cos(k_t, k_{t+1}), `visible(t)` whether
/// attention sees token t at all; after a quota (`selected`) a run holds at most one kept token.
template <class Similar, class Visible>
struct run_row {
  run_rule rule;
  float const* scores;
  fate const* fates;
  bool selected;
  index_t tokens;
  Similar similar;
  Visible visible;

  [[nodiscard]] KVSLIM_HD bool kept(index_t t) const noexcept { return fates[t] != fate::evicted; }
  [[nodiscard]] KVSLIM_HD bool joins(index_t t) const noexcept {
    return fates[t] != fate::sure && (selected || (t >= rule.sinks && t < tokens - rule.recent));
  }
  /// Whether tokens t - 1 and t are alike and may be of one run.
  [[nodiscard]] KVSLIM_HD bool linked(index_t t) const noexcept {
    return rule.threshold < 1.0f && t > 0 && joins(t) && joins(t - 1) &&
           similar(t - 1) > rule.threshold;
  }
  /// Whether a run begins at t, which `holds_kept` tells of: the tokens from t to the run's last.
  [[nodiscard]] KVSLIM_HD bool begins(index_t t, bool holds_kept) const noexcept {
    return (selected && holds_kept && t > 0 && kept(t - 1)) || !linked(t);
  }
  /// The best visible token of a run is its pivot; a kept one, after a quota.
  [[nodiscard]] KVSLIM_HD pivot as_pivot(index_t t) const noexcept {
    if (selected && !kept(t)) return {};
    return {order_key(scores[t], t), static_cast<std::int32_t>(t), static_cast<bool>(visible(t))};
  }
};
template <class Similar, class Visible>
run_row(run_rule, float const*, fate const*, bool, index_t, Similar, Visible)
    -> run_row<Similar, Visible>;

/// Assigns every token of one row to a run: merged[t] is the rank of the run's pivot, -1 if the
/// token is evicted. Scanned from the end.
template <class Similar, class Visible>
KVSLIM_HD inline void form_runs(run_row<Similar, Visible> const& row,
                                std::int32_t* merged) noexcept {
  index_t last = row.tokens - 1;  // the open run is [t, last]
  bool holds_kept = false;
  pivot best;
  for (index_t t = last; t >= 0; --t) {
    holds_kept = holds_kept || row.kept(t);
    if (pivot const mine = row.as_pivot(t); mine.beats(best)) best = mine;
    if (!row.begins(t, holds_kept)) continue;
    for (index_t i = t; i <= last; ++i) merged[i] = best.token;
    last = t - 1;
    holds_kept = false;
    best = {};
  }
}

/// Writes the row that stands for the run of `pivot`: its members' mean, each weighing as the
/// merger says and by its own mass, exp(bias). Weights add up to one before they multiply, so that
/// nothing overflows; what a bias of -inf hides adds nothing. Returns the run's logit bias: the log
/// of its mass, or of its visible members' mean where the merger stores none. `key`, `value` and
/// `bias` read one member; `scratch` holds three rows.
template <class Merger, class Key, class Value, class Bias>
KVSLIM_HD inline float fold_run(Merger const& merger, std::int32_t const* merged, index_t pivot,
                                index_t tokens, merge_width width, Key const& key,
                                Value const& value, Bias const& bias, float* k, float* v,
                                float* scratch) {
  index_t first = pivot, last = pivot;
  while (first > 0 && merged[first - 1] == pivot) --first;
  while (last + 1 < tokens && merged[last + 1] == pivot) ++last;
  key(pivot, k);
  value(pivot, v);
  fold_member m{};
  m.members = last - first + 1;
  if (m.members == 1) return bias(pivot);  // bit-exact
  float most = -INFINITY;
  for (index_t i = first; i <= last; ++i) most = bias(i) > most ? bias(i) : most;
  if (most == -INFINITY) return -INFINITY;  // nobody sees any of them
  index_t const wide = detail::max(width.key, width.value);
  float* const row = scratch;
  float* const merged_key = row + wide;
  float* const other = merged_key + wide;
  // Several passes over a run that is a few rows long: the pivot's key stays intact meanwhile.
  auto const each = [&](auto const& use) {
    for (index_t i = first; i <= last; ++i) {
      key(i, row);
      m.distance2 = distance2(k, row, width.key);
      m.bias = bias(i);
      use(i);
    }
  };
  auto const count = static_cast<float>(m.members);
  float mean = 0.0f;
  each([&](index_t) { mean += m.distance2 / count; });
  m.mean_distance2 = mean;
  float sum = 0.0f;
  each([&](index_t) { sum += merger.fact(m); });
  m.sum = sum;
  fold_weights total{0.0f, 0.0f};
  double mass = 0.0, visible = 0.0;
  auto const weight = [&] {
    float const own = std::exp(m.bias - most);
    fold_weights const w = merger.weigh(m);
    return fold_weights{w.key * own, w.value * own};
  };
  each([&](index_t) {
    fold_weights const w = weight();
    total.key += w.key;
    total.value += w.value;
    mass += std::exp(static_cast<double>(m.bias) - static_cast<double>(most));
    visible += m.bias > -INFINITY ? 1.0 : 0.0;
  });
  for (index_t d = 0; d < width.key; ++d) merged_key[d] = 0.0f;
  for (index_t d = 0; d < width.value; ++d) v[d] = 0.0f;
  float const scale = merger.grows() ? count : 1.0f;
  each([&](index_t i) {
    fold_weights const w = weight();
    float const a = total.key > 0.0f ? w.key / total.key : 1.0f / count;
    float const b = (total.value > 0.0f ? w.value / total.value : 1.0f / count) * scale;
    value(i, other);
    for (index_t d = 0; d < width.key; ++d) merged_key[d] += a * row[d];
    for (index_t d = 0; d < width.value; ++d) v[d] += b * other[d];
  });
  for (index_t d = 0; d < width.key; ++d) k[d] = merged_key[d];
  double const stored = merger.mass_bias() ? mass : mass / visible;
  return static_cast<float>(static_cast<double>(most) + std::log(stored));
}

}  // namespace ops

/// What a merger of neighbours needs besides `weigh`: derive from it, declare traits, and say how
/// much a member weighs.
struct neighbour_merger {
  run_rule rule = {};
  bool stores_mass = false;  ///< the run's mass becomes a logit bias (4 bytes per token)

  [[nodiscard]] constexpr status check() const noexcept { return rule.check(); }
  [[nodiscard]] KVSLIM_HD constexpr run_rule joins() const noexcept { return rule; }
  [[nodiscard]] KVSLIM_HD constexpr bool mass_bias() const noexcept { return stores_mass; }
  [[nodiscard]] KVSLIM_HD constexpr bool grows() const noexcept { return false; }
  [[nodiscard]] KVSLIM_HD constexpr float fact(fold_member const&) const noexcept { return 0.0f; }
};

KVSLIM_END_NAMESPACE
