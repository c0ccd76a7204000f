// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// Tokens that LU-KV gives the heads of one layer of n tokens; products in single precision.
inline std::vector<std::int64_t> lukv_counts(std::vector<float> const& removed, std::int64_t n) {
  std::vector<double> fraction;
  std::vector<std::int64_t> count;
  double ideal_sum = 0;
  std::int64_t floor_sum = 0;
  for (float p : removed) {
    float const ideal = std::clamp(1.0f - p, 0.0f, 1.0f) * static_cast<float>(n);
    ideal_sum += static_cast<double>(ideal);
    count.push_back(static_cast<std::int64_t>(std::floor(ideal)));
    fraction.push_back(static_cast<double>(ideal - std::floor(ideal)));
    floor_sum += count.back();
  }
  auto const heads = static_cast<std::int64_t>(removed.size());
  auto const target = std::clamp<std::int64_t>(static_cast<std::int64_t>(std::nearbyint(ideal_sum)),
                                               heads, heads * n);
  if (target > floor_sum)
    for (auto h : best(fraction, static_cast<std::size_t>(target - floor_sum)))
      ++count[static_cast<std::size_t>(h)];
  for (auto& c : count) c = std::clamp<std::int64_t>(c, 1, std::max<std::int64_t>(n, 1));
  return count;
}

}  // namespace reference
