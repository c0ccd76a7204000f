// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

#include <algorithm>
#include <cmath>

namespace reference {

/// Channels that ThinK keeps of a head: the longest by ||Q_i|| * ||K_i|| squared, Q of each of the
/// group's heads in turn; ascending.
inline std::vector<std::size_t> think(std::vector<matrix> const& queries, matrix const& keys,
                                      std::size_t kept) {
  std::size_t const dim = queries.front().front().size();
  std::vector<double> score(dim);
  for (std::size_t d = 0; d < dim; ++d) {
    double k2 = 0;
    for (auto const& key : keys) k2 += key[d] * key[d];
    for (auto const& head : queries) {
      double q2 = 0;
      for (auto const& q : head) q2 += q[d] * q[d];
      score[d] += q2 * k2;
    }
  }
  std::vector<std::size_t> order(dim);
  for (std::size_t d = 0; d < dim; ++d) order[d] = d;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return score[a] > score[b]; });
  order.resize(kept);
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace reference
