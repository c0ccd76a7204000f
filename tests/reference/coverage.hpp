// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// The protected tokens, then the best ones until `part` of the sum of all positive scores is kept,
/// at most `budget` tokens.
inline indices coverage_keep(std::vector<double> const& score, double part, std::size_t budget,
                             std::size_t sinks, std::size_t recent) {
  std::size_t const n = score.size();
  std::vector<bool> stays(n, false);
  std::size_t room = budget;
  double all = 0, held = 0;
  for (double x : score) all += std::max(x, 0.0);
  auto const give = [&](std::size_t t) {
    if (room == 0 || stays[t]) return;
    stays[t] = true;
    held += std::max(score[t], 0.0);
    --room;
  };
  for (std::size_t t = 0; t < std::min(sinks, n); ++t) give(t);
  for (std::size_t t = 0; t < std::min(recent, n); ++t) give(n - 1 - t);
  for (auto t : ranking(score)) {
    if (held >= part * all) break;
    give(static_cast<std::size_t>(t));
  }
  indices kept;
  for (std::size_t t = 0; t < n; ++t)
    if (stays[t]) kept.push_back(static_cast<std::int64_t>(t));
  return kept;
}

}  // namespace reference
