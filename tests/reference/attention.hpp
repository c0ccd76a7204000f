// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What the references of the eviction methods have in common. It shares no code with include/.

#include "reference.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace reference {

using indices = std::vector<std::int64_t>;

/// Attention weights of one query over the first `visible` keys; zero behind them.
inline std::vector<double> weights(std::vector<double> const& q, matrix const& k,
                                   std::size_t visible) {
  std::vector<double> p(k.size(), 0.0);
  double most = -std::numeric_limits<double>::infinity(), total = 0;
  for (std::size_t t = 0; t < visible; ++t) {
    p[t] = dot(q, k[t]) / std::sqrt(static_cast<double>(q.size()));
    most = std::max(most, p[t]);
  }
  for (std::size_t t = 0; t < visible; ++t) total += p[t] = std::exp(p[t] - most);
  for (std::size_t t = 0; t < visible; ++t) p[t] /= total;
  return p;
}

/// Sum of the causal attention weights that each key gets from the queries of one head, which
/// belong to the newest keys.
inline std::vector<double> column_sums(matrix const& queries, matrix const& k) {
  std::vector<double> sum(k.size(), 0.0);
  for (std::size_t n = 0; n < queries.size(); ++n) {
    auto const p = weights(queries[n], k, k.size() - queries.size() + n + 1);
    for (std::size_t t = 0; t < k.size(); ++t) sum[t] += p[t];
  }
  return sum;
}

/// Indices by score descending, then index ascending.
inline indices ranking(std::vector<double> const& score) {
  indices order(score.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
    return score[static_cast<std::size_t>(a)] > score[static_cast<std::size_t>(b)];
  });
  return order;
}

/// Ascending indices of the `count` best.
inline indices best(std::vector<double> const& score, std::size_t count) {
  auto order = ranking(score);
  order.resize(std::min(count, order.size()));
  std::sort(order.begin(), order.end());
  return order;
}

template <class T>
std::vector<T> pick(std::vector<T> const& values, indices const& at) {
  std::vector<T> result;
  for (auto i : at) result.push_back(values[static_cast<std::size_t>(i)]);
  return result;
}

}  // namespace reference
