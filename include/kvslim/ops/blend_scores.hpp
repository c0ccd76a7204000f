// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/concepts.hpp>
#include <kvslim/ops/finite.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

struct blend_weights {
  float first = 0.5f, second = 0.5f;
  bool standard = false;  ///< of each row's scores less their mean, over their deviation
};

/// Mean and 1 / deviation of a row's scores; 0 and 1: as they are.
struct row_norm {
  float mean = 0.0f, inverse = 1.0f;
};

/// A score that counts in a row's mean and deviation: sinks and the like are above all.
[[nodiscard]] KVSLIM_HD inline bool is_ordinary(float x) noexcept {
  return x < largest_float && x > -largest_float;
}

/// From the number of ordinary scores, their sum and the sum of squared distances from the mean.
[[nodiscard]] KVSLIM_HD inline float inverse_deviation(double count, double squares) noexcept {
  double const deviation = count > 1.0 ? std::sqrt(squares / (count - 1.0)) : 0.0;
  return static_cast<float>(1.0 / (deviation > 1e-6 ? deviation : 1e-6));
}

/// Two scores as one. What one scorer puts above all stays there.
[[nodiscard]] KVSLIM_HD inline float blended(blend_weights const& w, row_norm const& a,
                                             row_norm const& b, float x, float y) noexcept {
  if (x >= largest_float || y >= largest_float) return largest_float;
  return w.first * ((x - a.mean) * a.inverse) + w.second * ((y - b.mean) * b.inverse);
}

struct blend_scores_op {};

/// Weighs two scorers' scores into one, in the place of the first's.
/// Cost: three passes over both scores, one if they are taken as they are.
template <class Exec, class Text>
status blend_scores(Exec const& exec, Text const& text, blend_weights const& weights,
                    score_view second, score_view scores) {
  return implementation<blend_scores_op, Exec>::run(exec, text, weights, second, scores);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::blend_scores_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, ops::blend_weights const& weights,
                    score_view second, score_view scores) {
    auto const& e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const n = text.tokens(r / e.kv_heads, r % e.kv_heads);
      float* const mine = scores.row(r);
      float const* const other = second.row(r);
      ops::row_norm const a = weights.standard ? norm(mine, n) : ops::row_norm{},
                          b = weights.standard ? norm(other, n) : ops::row_norm{};
      for (index_t t = 0; t < n; ++t) mine[t] = ops::blended(weights, a, b, mine[t], other[t]);
    });
    return {};
  }

 private:
  static ops::row_norm norm(float const* x, index_t n) noexcept {
    double count = 0.0, sum = 0.0, squares = 0.0;
    for (index_t t = 0; t < n; ++t)
      if (ops::is_ordinary(x[t])) {
        count += 1.0;
        sum += static_cast<double>(x[t]);
      }
    double const mean = count > 0.0 ? sum / count : 0.0;
    for (index_t t = 0; t < n; ++t)
      if (ops::is_ordinary(x[t])) {
        double const d = static_cast<double>(x[t]) - mean;
        squares += d * d;
      }
    return {static_cast<float>(mean), ops::inverse_deviation(count, squares)};
  }
};

KVSLIM_END_NAMESPACE
