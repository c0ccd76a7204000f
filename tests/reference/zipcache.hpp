// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// One class of ZipCache in double, from the paper: keys in equal steps over each channel, values in
// equal steps over each token, with channels divided by the root of their largest magnitude.

#include "reference.hpp"

#include <algorithm>
#include <cmath>

namespace reference {

/// Some numbers in 2^bits equal steps from the least to the greatest.
inline void in_equal_steps(std::vector<double>& x, int bits) {
  auto const [low, high] = std::minmax_element(x.begin(), x.end());
  double const least = *low, step = (*high - least) / (std::exp2(bits) - 1);
  for (double& v : x) v = step > 0 ? std::nearbyint((v - least) / step) * step + least : least;
}

inline matrix zipcache_keys(matrix x, int bits) {
  for (std::size_t d = 0; !x.empty() && d < x[0].size(); ++d) {
    std::vector<double> channel;
    for (auto const& row : x) channel.push_back(row[d]);
    in_equal_steps(channel, bits);
    for (std::size_t t = 0; t < x.size(); ++t) x[t][d] = channel[t];
  }
  return x;
}

inline matrix zipcache_values(matrix x, int bits) {
  std::vector<double> factors(x.empty() ? 0 : x[0].size(), 0.0);
  for (auto const& row : x)
    for (std::size_t d = 0; d < row.size(); ++d)
      factors[d] = std::max(factors[d], std::sqrt(std::abs(row[d])));
  for (double& f : factors)
    if (f == 0) f = 1;
  for (auto& row : x) {
    for (std::size_t d = 0; d < row.size(); ++d) row[d] /= factors[d];
    in_equal_steps(row, bits);
    for (std::size_t d = 0; d < row.size(); ++d) row[d] *= factors[d];
  }
  return x;
}

}  // namespace reference
