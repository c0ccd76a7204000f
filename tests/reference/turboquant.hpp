// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "rotated.hpp"

#include <algorithm>

namespace reference {

/// The Lloyd-Max levels of 2^bits for a coordinate of a random direction in dim channels, times
/// sqrt(dim) (dim 0: of the normal distribution): each level is the mean of what is nearest to it.
inline std::vector<double> turbo_levels(int bits, double dim) {
  auto const density = [&](double u) {
    if (dim == 0) return std::exp(-u * u / 2);
    return u * u < dim ? std::pow(1 - u * u / dim, (dim - 3) / 2) : 0.0;
  };
  double const most = dim == 0 ? 9.0 : std::min(9.0, std::sqrt(dim));
  // Integrals of the density and of its first moment from 0 on, by Simpson's rule.
  std::size_t const cells = 20000;
  double const wide = most / static_cast<double>(cells);
  std::vector<double> mass(cells + 1, 0.0), moment(cells + 1, 0.0);
  for (std::size_t i = 0; i < cells; ++i) {
    double const a = wide * static_cast<double>(i), b = a + wide, c = a + wide / 2;
    mass[i + 1] = mass[i] + wide / 6 * (density(a) + 4 * density(c) + density(b));
    moment[i + 1] = moment[i] + wide / 6 * (a * density(a) + 4 * c * density(c) + b * density(b));
  }
  auto const at = [&](std::vector<double> const& sums, double u) {
    double const place = u / wide;
    auto const i = std::min(static_cast<std::size_t>(place), cells - 1);
    return sums[i] + (sums[i + 1] - sums[i]) * (place - static_cast<double>(i));
  };
  std::vector<double> levels;
  for (int i = 0; i < 1 << (bits - 1); ++i) levels.push_back(0.2 + 0.25 * i);
  for (int round = 0; round < 3000; ++round) {
    auto next = levels;
    double low = 0;
    for (std::size_t i = 0; i < levels.size(); ++i) {
      double const high =
          i + 1 < levels.size() ? (levels[i] + levels[i + 1]) / 2 : most * (1 - 1e-12);
      next[i] = (at(moment, high) - at(moment, low)) / (at(mass, high) - at(mass, low));
      low = high;
    }
    levels = next;
  }
  std::vector<double> all;
  for (std::size_t i = levels.size(); i-- > 0;) all.push_back(-levels[i]);
  all.insert(all.end(), levels.begin(), levels.end());
  return all;
}

/// Where a coordinate's nearest level is; the lower one at a tie.
inline int nearest_level(std::vector<double> const& levels, double x) {
  int best = 0;
  for (int i = 1; i < static_cast<int>(levels.size()); ++i)
    if (std::abs(x - levels[static_cast<std::size_t>(i)]) <
        std::abs(x - levels[static_cast<std::size_t>(best)]))
      best = i;
  return best;
}

}  // namespace reference
