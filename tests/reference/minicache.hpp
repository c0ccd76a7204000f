// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "reference.hpp"

namespace reference {

/// What two layers' rows of one block come back as, and which tokens were retained.
struct minicache_pair {
  matrix first, second;
  std::vector<std::size_t> retained;
};

/// MiniCache over one block of one KV head: `depth` is the second layer's weight.
inline minicache_pair minicache(matrix const& a, matrix const& b, double retained, double depth) {
  minicache_pair out{a, b, {}};
  double const pi = std::acos(-1.0);
  auto const unit = [](std::vector<double> x) {
    double const length = std::max(std::sqrt(dot(x, x)), 1e-6);
    for (double& value : x) value /= length;
    return x;
  };
  std::vector<std::pair<double, std::size_t>> apart;
  for (std::size_t t = 0; t < a.size(); ++t) {
    auto const x = unit(a[t]), y = unit(b[t]);
    double const angle = std::acos(std::clamp(dot(x, y), -1 + 1e-6, 1 - 1e-6));
    apart.emplace_back(-dot(x, y), t);
    std::vector<double> mixed;
    for (std::size_t d = 0; d < x.size(); ++d)
      mixed.push_back((std::sin((1 - depth) * angle) * x[d] + std::sin(depth * angle) * y[d]) /
                      std::sin(std::min(angle, pi)));
    mixed = unit(mixed);
    for (std::size_t d = 0; d < x.size(); ++d) {
      out.first[t][d] = mixed[d] * std::sqrt(dot(a[t], a[t]));
      out.second[t][d] = mixed[d] * std::sqrt(dot(b[t], b[t]));
    }
  }
  std::stable_sort(apart.begin(), apart.end(),
                   [](auto const& x, auto const& y) { return x.first > y.first; });
  apart.resize(
      static_cast<std::size_t>(std::ceil(retained * static_cast<double>(a.size()) - 1e-6)));
  for (auto const& [distance, t] : apart) {
    out.first[t] = a[t];
    out.second[t] = b[t];
    out.retained.push_back(t);
  }
  std::sort(out.retained.begin(), out.retained.end());
  return out;
}

}  // namespace reference
