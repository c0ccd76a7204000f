// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/exp.hpp>
#include <kvslim/ops/finite.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// A row behind its sinks, in partitions of `lag` tokens; each is measured by the next.
struct lag_partitions {
  index_t sinks = 4, lag = 128;
  float value_weight = 1.0f;  ///< of V's score, where K's weighs 1
  bool ranked = true;         ///< scores become ranks within the partition

  /// Partitions of a row of n tokens that have one behind them.
  [[nodiscard]] KVSLIM_HD constexpr index_t scored(index_t n) const noexcept {
    return n < sinks + 2 * lag ? 0 : (n - sinks) / lag - 1;
  }
  /// The score of a token that no partition gives one: 1, or its place where nothing is scored.
  [[nodiscard]] KVSLIM_HD float unscored(index_t t, index_t n) const noexcept {
    if (scored(n) > 0 || t < sinks) return 1.0f;
    return static_cast<float>(t - sinks) / static_cast<float>(n - sinks);
  }
  /// The mean of the two sides' scores, weighted.
  [[nodiscard]] KVSLIM_HD float share(bool value) const noexcept {
    return (value ? value_weight : 1.0f) / (1.0f + value_weight);
  }
};

/// Floats of scratch per row: three for every channel, one for every token.
[[nodiscard]] KVSLIM_HD constexpr index_t lag_score_floats(extents const& e) noexcept {
  return 3 * detail::max(e.head_dim, e.value_width()) + e.tokens;
}

struct lag_scores_op {};

/// Scores of LagKV, [rows, tokens] by rank: the spread of a token's channels, each measured from
/// the next partition's least to its greatest, as a softmax over the token's partition; of K and V.
/// A channel in which the next partition does not vary is left out. Tokens that are not scored
/// get 1.
///
/// Shapes: scratch [rows, lag_score_floats]. Cost: two passes over K and V; a comparison of every
/// two tokens of a partition, if ranked.
template <class Exec, class Text>
status lag_scores(Exec const& exec, Text const& text, lag_partitions const& parts, score_view out,
                  float* scratch) {
  return implementation<lag_scores_op, Exec>::run(exec, text, parts, out, scratch);
}

/// 1 / (most - least); 0: nothing can be measured by it.
[[nodiscard]] KVSLIM_HD inline float lag_inverse(float least, float most) noexcept {
  float const range = most - least;
  return range >= 1.17549435e-38f && range <= largest_float ? 1.0f / range : 0.0f;
}

/// Standard deviation (of a sample) over the `used` channels of a row that can be measured, in
/// double: they may lie far outside what measures them. Anything with channels row[d].
template <class Row>
[[nodiscard]] KVSLIM_HD inline float lag_deviation(Row const& row, float const* least,
                                                   float const* inverse, index_t dim,
                                                   index_t used) noexcept {
  constexpr index_t lanes = 4;
  double sum[lanes] = {}, squares[lanes] = {};
  auto const add = [&](index_t d, index_t j) {
    double const x = (static_cast<double>(row[d]) - static_cast<double>(least[d])) *
                     static_cast<double>(inverse[d]);
    sum[j] += x;
    squares[j] += x * x;
  };
  index_t d = 0;
  for (; d + lanes <= dim; d += lanes)
    for (index_t j = 0; j < lanes; ++j) add(d + j, j);
  for (index_t j = 0; d + j < dim; ++j) add(d + j, j);
  if (used < 2) return 0.0f;
  double const all = (sum[0] + sum[1]) + (sum[2] + sum[3]),
               both = (squares[0] + squares[1]) + (squares[2] + squares[3]);
  double const variance =
      (both - all / static_cast<double>(used) * all) / static_cast<double>(used - 1);
  double const z = std::sqrt(variance < 0.0 ? 0.0 : variance);  // NaN stays
  return z > static_cast<double>(largest_float) ? largest_float : static_cast<float>(z);
}

/// How many of a partition's scores are below its i-th, of equal ones the later.
[[nodiscard]] KVSLIM_HD inline index_t lag_rank(float const* scores, index_t lag,
                                                index_t i) noexcept {
  std::int32_t below = 0;
  float const mine = scores[i];
  for (index_t j = 0; j < i; ++j) below += scores[j] < mine ? 1 : 0;
  for (index_t j = i + 1; j < lag; ++j) below += scores[j] <= mine ? 1 : 0;
  return below;
}

/// A score with NaN below all others.
[[nodiscard]] KVSLIM_HD inline float lag_number(float x) noexcept { return x >= 0.0f ? x : -1.0f; }

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::lag_scores_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, ops::lag_partitions const& parts,
                    score_view out, float* scratch) {
    auto const e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
      float* const scores = out.row(r);
      for (index_t t = 0; t < e.tokens; ++t) scores[t] = t < n ? parts.unscored(t, n) : 0.0f;
      float* const work = scratch + r * ops::lag_score_floats(e);
      for (index_t p = 0; p < parts.scored(n); ++p) {
        index_t const begin = parts.sinks + p * parts.lag;
        float* const mine = scores + begin;
        for (index_t t = 0; t < parts.lag; ++t) mine[t] = 0.0f;
        score_side(parts, e.head_dim, work, parts.share(false), mine,
                   [&](index_t t, float* row) { text.key(s, h, begin + t).load(row); });
        score_side(parts, e.value_width(), work, parts.share(true), mine,
                   [&](index_t t, float* row) { text.value(s, h, begin + t).load(row); });
        if (!parts.ranked) continue;
        for (index_t t = 0; t < parts.lag; ++t) work[t] = ops::lag_number(mine[t]);
        for (index_t t = 0; t < parts.lag; ++t)
          mine[t] =
              static_cast<float>(ops::lag_rank(work, parts.lag, t)) / static_cast<float>(parts.lag);
      }
    });
    return {};
  }

 private:
  /// Adds one side's softmax to the scores of a partition; load(lag + t) is the next one's.
  template <class Load>
  static void score_side(ops::lag_partitions const& parts, index_t dim, float* work, float share,
                         float* scores, Load const& load) {
    float *const row = work, *const least = row + dim, *const inverse = least + dim,
                 *const z = inverse + dim;
    float* const greatest = inverse;
    for (index_t d = 0; d < dim; ++d) {
      least[d] = INFINITY;
      greatest[d] = -INFINITY;
    }
    for (index_t t = 0; t < parts.lag; ++t) {
      load(parts.lag + t, row);
      for (index_t d = 0; d < dim; ++d) {
        least[d] = row[d] < least[d] ? row[d] : least[d];
        greatest[d] = row[d] > greatest[d] ? row[d] : greatest[d];
      }
    }
    index_t used = 0;
    for (index_t d = 0; d < dim; ++d) {
      inverse[d] = ops::lag_inverse(least[d], greatest[d]);
      used += inverse[d] > 0.0f ? 1 : 0;
    }
    float most = -INFINITY;
    for (index_t t = 0; t < parts.lag; ++t) {
      load(t, row);
      z[t] = ops::lag_deviation(row, least, inverse, dim, used);
      most = z[t] > most ? z[t] : most;
    }
    double total = 0.0;
    for (index_t t = 0; t < parts.lag; ++t)
      total += static_cast<double>(z[t] = ops::exp_nonpositive(z[t] - most));
    float const scale = share * static_cast<float>(1.0 / total);
    for (index_t t = 0; t < parts.lag; ++t) scores[t] += z[t] * scale;
  }
};

KVSLIM_END_NAMESPACE
