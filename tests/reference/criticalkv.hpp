// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// ||v W||_1 of the values of one KV head, averaged over the projections [head][channel][output].
inline std::vector<double> projected_norms(std::vector<matrix> const& heads, matrix const& v) {
  std::vector<double> norm;
  for (auto const& row : v) {
    double sum = 0;
    for (auto const& w : heads)
      for (std::size_t m = 0; m < w[0].size(); ++m) {
        double x = 0;
        for (std::size_t d = 0; d < row.size(); ++d) x += row[d] * w[d][m];
        sum += std::abs(x) / static_cast<double>(heads.size());
      }
    norm.push_back(sum);
  }
  return norm;
}

/// CriticalKV's scores out of another method's; infinity for those of the first stage, which starts
/// with the `recent` newest.
inline std::vector<double> criticalkv(std::vector<double> score, std::vector<double> const& norm,
                                      std::size_t first, std::size_t recent, double epsilon) {
  auto favoured = score;
  for (std::size_t t = score.size() - std::min(recent, score.size()); t < score.size(); ++t)
    favoured[t] = std::numeric_limits<double>::infinity();
  std::vector<std::int64_t> stage = best(favoured, first);
  // of more protected ones than the stage holds, the newest
  if (first < std::min(recent, score.size())) {
    stage.clear();
    for (std::size_t t = score.size() - first; t < score.size(); ++t)
      stage.push_back(static_cast<std::int64_t>(t));
  }
  for (std::size_t t = 0; t < score.size(); ++t) score[t] = (score[t] + epsilon) * norm[t];
  for (auto const t : stage)
    score[static_cast<std::size_t>(t)] = std::numeric_limits<double>::infinity();
  return score;
}

}  // namespace reference
