// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// The protected tokens, then the best that reach `least`, at most `budget` tokens.
inline indices at_least_keep(std::vector<double> const& score, double least, std::size_t budget,
                             std::size_t sinks, std::size_t recent) {
  std::size_t const n = score.size();
  std::vector<bool> stays(n, false);
  std::size_t room = budget;
  auto const give = [&](std::size_t t) {
    if (room == 0 || stays[t]) return;
    stays[t] = true;
    --room;
  };
  for (std::size_t t = 0; t < std::min(sinks, n); ++t) give(t);
  for (std::size_t t = 0; t < std::min(recent, n); ++t) give(n - 1 - t);
  for (auto t : ranking(score))
    if (score[static_cast<std::size_t>(t)] >= least) give(static_cast<std::size_t>(t));
  indices kept;
  for (std::size_t t = 0; t < n; ++t)
    if (stays[t]) kept.push_back(static_cast<std::int64_t>(t));
  return kept;
}

}  // namespace reference
