// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// KeyDiff scores of the keys of one KV head: how little a key resembles the mean direction. The
/// paper's ablation takes the mean of the keys as they are instead.
inline std::vector<double> keydiff(matrix const& k, bool normalize_before_mean = true) {
  auto const length = [](std::vector<double> const& x) { return std::sqrt(dot(x, x)); };
  std::vector<double> mean(k[0].size(), 0.0);
  for (auto const& row : k) {
    double const scale = normalize_before_mean ? std::max(length(row), 1e-12) : 1.0;
    for (std::size_t d = 0; d < mean.size(); ++d)
      mean[d] += row[d] / scale / static_cast<double>(k.size());
  }
  std::vector<double> score;
  for (auto const& row : k)
    score.push_back(-dot(row, mean) / (std::max(length(row), 1e-8) * std::max(length(mean), 1e-8)));
  return score;
}

/// Kept indices when the keys arrive `block` at a time behind the first `budget`: each round scores
/// the kept ones and the block together, with the anchor of just these.
inline indices keydiff_blocks(matrix const& k, std::size_t budget, std::size_t block) {
  indices kept(std::min(budget, k.size()));
  std::iota(kept.begin(), kept.end(), 0);
  for (std::size_t begin = budget; begin < k.size(); begin += block) {
    for (std::size_t t = begin; t < std::min(begin + block, k.size()); ++t)
      kept.push_back(static_cast<std::int64_t>(t));
    kept = pick(kept, best(keydiff(pick(k, kept)), budget));
  }
  return kept;
}

}  // namespace reference
