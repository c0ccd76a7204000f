// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "reference.hpp"

namespace reference {

/// CaM over one head: the kept tokens' values, each evicted one handing on its expected part to
/// the next `window` kept ones. `weight` is each token's own mass.
inline matrix cam(matrix const& v, std::vector<std::size_t> const& kept,
                  std::vector<double> const& score, std::size_t window,
                  std::vector<double> const& weight) {
  matrix out;
  for (std::size_t c : kept) out.push_back(v[c]);
  for (std::size_t t = 0; t < v.size(); ++t) {
    if (std::find(kept.begin(), kept.end(), t) != kept.end()) continue;
    std::vector<std::size_t> next;
    for (std::size_t i = 0; i < kept.size() && next.size() < window; ++i)
      if (kept[i] > t) next.push_back(i);
    if (next.empty()) continue;
    auto const n = static_cast<double>(next.size());
    double mean = 0;
    for (std::size_t i : next) mean += score[kept[i]] / n;
    double const part = mean > 0 ? std::clamp(score[t] / mean, 0.0, 1.0) : score[t] > 0 ? 1 : 0;
    for (std::size_t i : next)
      for (std::size_t d = 0; d < v[t].size(); ++d)
        out[i][d] += part / n * weight[t] / weight[kept[i]] * v[t][d];
  }
  return out;
}

}  // namespace reference
