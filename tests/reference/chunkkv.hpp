// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// Whole chunks by their mean score, as many as `budget` tokens hold beside the protected ones
/// (sinks, then the newest), which count for no chunk; the best tokens where not one chunk fits.
inline indices chunkkv_keep(std::vector<double> const& score, std::size_t size, std::size_t budget,
                            std::size_t sinks, std::size_t recent) {
  std::size_t const n = score.size();
  indices all(n);
  std::iota(all.begin(), all.end(), 0);
  if (n <= budget) return all;
  std::vector<bool> stays(n, false);
  std::size_t room = budget;
  auto const protect = [&](std::size_t t) {
    if (room == 0 || stays[t]) return;
    stays[t] = true;
    --room;
  };
  for (std::size_t t = 0; t < std::min(sinks, n); ++t) protect(t);
  for (std::size_t t = 0; t < std::min(recent, n); ++t) protect(n - 1 - t);
  double const lowest = -std::numeric_limits<double>::infinity();
  if (room < size) {
    auto open = score;
    for (std::size_t t = 0; t < n; ++t)
      if (stays[t]) open[t] = lowest;
    for (auto t : best(open, room)) stays[static_cast<std::size_t>(t)] = true;
  } else {
    std::vector<double> mean;
    for (std::size_t begin = 0; begin < n; begin += size) {
      double sum = 0, count = 0;
      for (std::size_t t = begin; t < std::min(n, begin + size); ++t)
        if (!stays[t]) {
          sum += score[t];
          ++count;
        }
      mean.push_back(count > 0 ? sum / count : lowest);
    }
    for (auto c : best(mean, room / size))
      for (std::size_t t = static_cast<std::size_t>(c) * size;
           t < std::min(n, (static_cast<std::size_t>(c) + 1) * size); ++t)
        stays[t] = true;
  }
  indices kept;
  for (std::size_t t = 0; t < n; ++t)
    if (stays[t]) kept.push_back(static_cast<std::int64_t>(t));
  return kept;
}

}  // namespace reference
