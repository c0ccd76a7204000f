// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// One side's lag-relative scores of a partition, measured by the next one.
inline std::vector<double> lag_softmax(matrix const& now, matrix const& next) {
  std::vector<double> spread;
  for (auto const& row : now) {
    std::vector<double> x;
    for (std::size_t d = 0; d < row.size(); ++d) {
      double low = next[0][d], high = next[0][d];
      for (auto const& other : next) {
        low = std::min(low, other[d]);
        high = std::max(high, other[d]);
      }
      if (high > low) x.push_back((row[d] - low) / (high - low));
    }
    double mean = 0, squares = 0;
    for (double y : x) mean += y / static_cast<double>(x.size());
    for (double y : x) squares += (y - mean) * (y - mean);
    spread.push_back(x.size() < 2 ? 0 : std::sqrt(squares / static_cast<double>(x.size() - 1)));
  }
  double const most = *std::max_element(spread.begin(), spread.end());
  double total = 0;
  for (double& x : spread) total += x = std::exp(x - most);
  for (double& x : spread) x /= total;
  return spread;
}

/// LagKV's scores of one KV head: ranks within partitions, or the numbers themselves.
inline std::vector<double> lagkv(matrix const& k, matrix const& v, std::size_t sinks,
                                 std::size_t lag, double value_weight, bool ranked) {
  std::size_t const n = k.size();
  std::vector<double> score(n, 1.0);
  if (n < sinks + 2 * lag) {
    for (std::size_t t = sinks; t < n; ++t)
      score[t] = static_cast<double>(t - sinks) / static_cast<double>(n - sinks);
    return score;
  }
  auto const part = [&](matrix const& x, std::size_t begin) {
    auto const at = x.begin() + static_cast<std::ptrdiff_t>(begin);
    return matrix(at, at + static_cast<std::ptrdiff_t>(lag));
  };
  for (std::size_t begin = sinks; begin + 2 * lag <= n; begin += lag) {
    auto const key = lag_softmax(part(k, begin), part(k, begin + lag));
    auto const value = lag_softmax(part(v, begin), part(v, begin + lag));
    std::vector<double> both;
    for (std::size_t t = 0; t < lag; ++t)
      both.push_back((key[t] + value_weight * value[t]) / (1 + value_weight));
    auto const order = ranking(both);
    for (std::size_t i = 0; i < lag; ++i)
      score[begin + static_cast<std::size_t>(order[i])] =
          ranked ? static_cast<double>(lag - 1 - i) / static_cast<double>(lag)
                 : both[static_cast<std::size_t>(order[i])];
  }
  return score;
}

}  // namespace reference
