// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// DuoAttention's classes: heads whose gate is at least the quantile, interpolated, of all gates.
inline std::vector<bool> duo_retrieval(std::vector<double> const& gates, double sparsity) {
  std::vector<double> sorted = gates;
  std::sort(sorted.begin(), sorted.end());
  double const at = sparsity * static_cast<double>(gates.size() - 1);
  auto const low = static_cast<std::size_t>(at);
  std::size_t const high = std::min(low + 1, gates.size() - 1);
  double threshold = sorted[low] + (at - static_cast<double>(low)) * (sorted[high] - sorted[low]);
  if (sparsity <= 0) threshold = -1;
  if (sparsity >= 1) threshold = 2;
  std::vector<bool> whole;
  for (double g : gates) whole.push_back(g >= threshold);
  return whole;
}

}  // namespace reference
