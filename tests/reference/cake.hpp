// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

struct cake_row {
  std::vector<double> score;  // of the prefix
  double entropy = 0, variance = 0;
};

/// CAKE's score of one KV head's prefix by the newest queries [query head][token][channel] of its
/// group, and what its attention says about the layer.
inline cake_row cake_scores(std::vector<matrix> const& q, matrix const& k, std::size_t kernel,
                            double gamma) {
  std::size_t const window = q[0].size(), prefix = k.size() - window;
  cake_row row{std::vector<double>(prefix, 0.0)};
  for (auto const& head : q) {
    std::vector<std::vector<double>> p;
    for (std::size_t w = 0; w < window; ++w) p.push_back(weights(head[w], k, prefix + w + 1));
    std::vector<double> raw(prefix, 0.0);
    for (std::size_t t = 0; t < prefix; ++t) {
      double mean = 0, spread = 0;
      for (auto const& x : p) {
        mean += x[t] / static_cast<double>(window);
        row.entropy -= x[t] * std::log(x[t] + 1e-10);
      }
      for (auto const& x : p)
        spread += (x[t] - mean) * (x[t] - mean) / static_cast<double>(window - 1);
      row.variance += spread;
      raw[t] = mean + gamma * spread;
    }
    for (std::size_t t = 0; t < prefix; ++t)
      for (std::size_t i = 0; i < kernel; ++i)
        if (t + i >= kernel / 2 && t + i - kernel / 2 < prefix)
          row.score[t] += raw[t + i - kernel / 2] / static_cast<double>(kernel * q.size());
  }
  return row;
}

/// Tokens of the prefix for each layer, from preferences.
inline std::vector<std::int64_t> cake_budgets(std::vector<double> const& preference,
                                              std::int64_t total, std::int64_t limit) {
  double const sum = std::accumulate(preference.begin(), preference.end(), 0.0);
  std::vector<std::int64_t> budget;
  for (double p : preference)
    budget.push_back(static_cast<std::int64_t>(p * static_cast<double>(total) / sum));
  auto const spread = [&](std::int64_t amount, auto may) {
    std::vector<std::size_t> able;
    for (std::size_t l = 0; l < budget.size(); ++l)
      if (may(budget[l])) able.push_back(l);
    auto const n = static_cast<std::int64_t>(able.size());
    for (std::int64_t i = 0; i < n; ++i)
      budget[able[static_cast<std::size_t>(i)]] +=
          (amount < 0 ? -1 : 1) * (std::abs(amount) / n + (i < std::abs(amount) % n ? 1 : 0));
  };
  std::int64_t excess = 0;
  for (auto& b : budget) {
    excess += std::max<std::int64_t>(0, b - limit);
    b = std::min(b, limit);
  }
  auto const below = [&](std::int64_t b) { return b < limit; };
  if (excess > 0) spread(excess, below);
  std::int64_t const left = total - std::accumulate(budget.begin(), budget.end(), std::int64_t{0});
  if (left > 0) spread(left, below);
  if (left < 0) spread(left, [](std::int64_t b) { return b > 1; });
  for (auto& b : budget) b = std::min(b, limit);
  return budget;
}

}  // namespace reference
