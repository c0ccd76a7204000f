// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// KVQuant in double, from the paper: dense codes by the nearest of some levels, what lies beyond
// the thresholds kept as it is, and the first tokens too.

#include "reference.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace reference {

struct codebook {
  std::vector<double> find, give;

  [[nodiscard]] double nearest(double y) const {
    std::size_t best = 0;
    for (std::size_t i = 1; i < find.size(); ++i)
      if (std::abs(y - find[i]) < std::abs(y - find[best])) best = i;
    return give[best];
  }
  [[nodiscard]] double coded(double x, double lower, double upper) const {
    double const middle = (upper + lower) / 2, half = (upper - lower) / 2;
    return half > 0 ? nearest((x - middle) / half) * half + middle : middle;
  }
};

/// The q-th part of some values, between two of them where it falls there.
inline double percentile(std::vector<double> x, double q) {
  std::sort(x.begin(), x.end());
  double const at = q * static_cast<double>(x.size() - 1);
  auto const i = static_cast<std::size_t>(at);
  double const next = x[std::min(i + 1, x.size() - 1)];
  return x[i] + (next - x[i]) * (at - static_cast<double>(i));
}

/// Keys before RoPE, [token][channel], of whole blocks of 32 tokens with room for so many outliers.
inline matrix kvquant_keys(matrix const& x, std::vector<double> const& lower,
                           std::vector<double> const& upper, codebook const& levels,
                           std::size_t sinks, std::size_t room) {
  std::size_t const dim = lower.size();
  matrix out = x;
  for (std::size_t begin = 0; begin < x.size(); begin += 32) {
    std::vector<std::pair<double, std::size_t>> far;  // the farthest first
    for (std::size_t i = 0; i < 32 * dim; ++i) {
      std::size_t const t = begin + i / dim, d = i % dim;
      double const half = (upper[d] - lower[d]) / 2,
                   past = std::max(lower[d] - x[t][d], x[t][d] - upper[d]);
      if (t < sinks) continue;
      out[t][d] = levels.coded(x[t][d], lower[d], upper[d]);
      if (past > 0) far.emplace_back(-past / half, i);
    }
    std::sort(far.begin(), far.end());
    for (std::size_t j = 0; j < std::min(room, far.size()); ++j) {
      std::size_t const t = begin + far[j].second / dim, d = far[j].second % dim;
      out[t][d] = x[t][d];
    }
  }
  return out;
}

/// Values [token][channel]; as many are kept as they are at either end, sorted by size, then place.
inline matrix kvquant_values(matrix const& x, codebook const& levels, std::size_t sinks,
                             double outliers) {
  matrix out = x;
  std::size_t const dim = x.empty() ? 0 : x[0].size();
  auto const inside = static_cast<std::size_t>(static_cast<double>(dim - 1) * outliers / 2 + 1e-9);
  std::size_t const each = outliers > 0 ? std::min(1 + inside, dim / 2) : 0;
  for (std::size_t t = sinks; t < x.size(); ++t) {
    std::vector<std::pair<double, std::size_t>> sorted;
    for (std::size_t d = 0; d < dim; ++d) sorted.emplace_back(x[t][d], d);
    std::sort(sorted.begin(), sorted.end());
    std::vector<bool> aside(dim, false);
    for (std::size_t i = 0; i < each; ++i)
      aside[sorted[i].second] = aside[sorted[dim - 1 - i].second] = true;
    double lower = INFINITY, upper = -INFINITY;
    for (std::size_t d = 0; d < dim; ++d)
      if (!aside[d]) {
        lower = std::min(lower, x[t][d]);
        upper = std::max(upper, x[t][d]);
      }
    for (std::size_t d = 0; d < dim; ++d)
      if (!aside[d]) out[t][d] = levels.coded(x[t][d], lower, upper);
  }
  return out;
}

}  // namespace reference
