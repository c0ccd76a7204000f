// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// LAQ's scores of all tokens but the newest `window`, whose queries come first; all others were
/// drafted and see every key. Maxima over `kernel` neighbours, then the mean of the query heads.
inline std::vector<double> laq(std::vector<matrix> const& queries, matrix const& k,
                               std::size_t window, std::size_t kernel) {
  std::size_t const prefix = k.size() - window, half = kernel / 2;
  std::vector<double> score(prefix, 0.0);
  for (auto const& head : queries) {
    std::vector<double> mass(prefix, 0.0);
    for (std::size_t i = 0; i < head.size(); ++i) {
      auto const p = weights(head[i], k, i < window ? prefix + i + 1 : k.size());
      for (std::size_t t = 0; t < prefix; ++t) mass[t] += p[t] / static_cast<double>(head.size());
    }
    for (std::size_t t = 0; t < prefix; ++t) {
      std::size_t const begin = t < half ? 0 : t - half, end = std::min(prefix, t + half + 1);
      double most = 0;
      for (std::size_t j = begin; j < end; ++j) most = std::max(most, mass[j]);
      score[t] += most / static_cast<double>(queries.size());
    }
  }
  return score;
}

}  // namespace reference
