// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

namespace reference {

/// Tokens beside the window that HeadKV gives every head: a part of the mean to all alike, the rest
/// by importance.
inline std::vector<std::int64_t> headkv_capacities(std::vector<double> importance, double base,
                                                   double beta, double temperature) {
  auto const normalize = [&] {
    double const sum = std::accumulate(importance.begin(), importance.end(), 0.0);
    for (double& x : importance) x /= sum;
  };
  normalize();
  for (double& x : importance) x = std::pow(x, temperature);
  normalize();
  double const given = std::floor(base / beta);
  std::vector<std::int64_t> capacity;
  for (double x : importance)
    capacity.push_back(static_cast<std::int64_t>(
        std::rint(x * given * static_cast<double>(importance.size()) + base - given)));
  return capacity;
}

}  // namespace reference
