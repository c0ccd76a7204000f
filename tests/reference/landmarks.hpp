// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

struct landmark_options {
  std::size_t page, budget, local, outliers;
};

/// Chunks that ShadowKV reads of a row, ascending: the newest, those with the key that is farthest
/// in angle from the mean of its chunk, and those whose means take most of a head's softmax.
/// queries[head][token].
inline indices landmark_pages(std::vector<matrix> const& queries, matrix const& k,
                              landmark_options const& o, double scale) {
  std::size_t const whole = k.size() / o.page, all = (k.size() + o.page - 1) / o.page,
                    ranked = whole > o.local ? whole - o.local : 0;
  auto const along = [](std::vector<double> const& a, std::vector<double> const& b) {
    double sum = 0;
    for (std::size_t d = 0; d < a.size(); ++d) sum += a[d] * b[d];
    return sum;
  };
  matrix means;
  std::vector<double> strangeness;
  for (std::size_t p = 0; p < ranked; ++p) {
    std::vector<double> mean(k[0].size());
    for (std::size_t t = p * o.page; t < (p + 1) * o.page; ++t)
      for (std::size_t d = 0; d < mean.size(); ++d)
        mean[d] += k[t][d] / static_cast<double>(o.page);
    double least = 2;
    for (std::size_t t = p * o.page; t < (p + 1) * o.page; ++t)
      least = std::min(least, along(k[t], mean) / (std::max(1e-8, std::sqrt(along(k[t], k[t]))) *
                                                   std::max(1e-8, std::sqrt(along(mean, mean)))));
    means.push_back(mean);
    strangeness.push_back(-least);
  }
  auto read = best(strangeness, std::min(o.outliers, ranked));
  std::vector<bool> taken(ranked);
  for (auto const p : read) taken[static_cast<std::size_t>(p)] = true;
  std::vector<double> worth(ranked, -1);
  for (auto const& head : queries) {
    std::vector<double> sum(ranked);
    for (auto const& q : head) {
      double total = 0;
      for (std::size_t p = 0; p < ranked; ++p)
        if (!taken[p]) total += std::exp(scale * along(q, means[p]));
      for (std::size_t p = 0; p < ranked; ++p)
        if (!taken[p]) sum[p] += std::exp(scale * along(q, means[p])) / total;
    }
    for (std::size_t p = 0; p < ranked; ++p)
      if (!taken[p]) worth[p] = std::max(worth[p], sum[p]);
  }
  std::size_t const free = ranked - read.size();
  for (auto const p : best(worth, std::min(free, o.budget / o.page))) read.push_back(p);
  for (std::size_t p = ranked; p < all; ++p) read.push_back(static_cast<std::int64_t>(p));
  std::sort(read.begin(), read.end());
  return read;
}

}  // namespace reference
