// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// Quest's bound of every page of `size` keys: the largest sum that channels of its keys could give
/// with q, each channel taken from whichever key suits it best. Of several queries, the largest.
inline std::vector<double> quest_bounds(matrix const& queries, matrix const& k, std::size_t size) {
  std::vector<double> bounds;
  for (std::size_t begin = 0; begin < k.size(); begin += size) {
    double most = -std::numeric_limits<double>::infinity();
    for (auto const& q : queries) {
      double sum = 0;
      for (std::size_t d = 0; d < q.size(); ++d) {
        double best = q[d] * k[begin][d];
        for (std::size_t t = begin; t < std::min(begin + size, k.size()); ++t)
          best = std::max(best, q[d] * k[t][d]);
        sum += best;
      }
      most = std::max(most, sum);
    }
    bounds.push_back(most);
  }
  return bounds;
}

/// Pages that are read: by the kernels' rule the newest and the best of the others, budget / size
/// in all; by the evaluation code's the best of all, at least three.
inline indices quest_pages(std::vector<double> bounds, std::size_t tokens, std::size_t size,
                           std::size_t budget, bool kernel_rule) {
  std::size_t const pages = bounds.size();
  if (!kernel_rule) return best(bounds, std::max<std::size_t>(3, std::min(tokens, budget) / size));
  bounds.pop_back();
  auto read = best(bounds, std::max<std::size_t>(1, budget / size) - 1);
  read.push_back(static_cast<std::int64_t>(pages - 1));
  return read;
}

}  // namespace reference
