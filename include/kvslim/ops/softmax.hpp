// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/exp.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// The state that everything that merges by log-sum-exp shares: the largest logit so far and the
/// sum of exponentials relative to it.
struct softmax_state {
  float most = -INFINITY;
  double total = 0.0;

  /// Brings in another state; returns the factors that this one's and the other's sums take.
  struct factors {
    float mine, other;
  };
  KVSLIM_HD factors merge(softmax_state const& other) noexcept {
    float const high = most > other.most ? most : other.most;
    if (high == -INFINITY) return {0.0f, 0.0f};
    factors const f{most == -INFINITY ? 0.0f : std::exp(most - high),
                    other.most == -INFINITY ? 0.0f : std::exp(other.most - high)};
    total = total * static_cast<double>(f.mine) + other.total * static_cast<double>(f.other);
    most = high;
    return f;
  }
  /// Natural logarithm of the sum of exponentials; -inf if nothing was seen.
  [[nodiscard]] KVSLIM_HD float log_sum() const noexcept {
    return total > 0.0 ? static_cast<float>(static_cast<double>(most) + std::log(total))
                       : -INFINITY;
  }
};

/// Sum of n <= 32 numbers in eight interleaved parts: vector code without relaxed arithmetic, and
/// less rounding than one after the other.
[[nodiscard]] KVSLIM_HD inline float sum_run(float const* x, index_t n) noexcept {
  float part[8] = {};
  index_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (index_t j = 0; j < 8; ++j) part[j] += x[i + j];
  for (index_t j = 0; i + j < n; ++j) part[j] += x[i + j];
  return ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
}

}  // namespace ops

KVSLIM_END_NAMESPACE
