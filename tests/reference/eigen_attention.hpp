// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Eigen Attention in double, from the paper: bases from what a calibration text gave, and causal
// attention of one KV head over projected keys and values.

#include "xkv.hpp"

namespace reference {

/// The leading `rank` directions of features [token][channel].
inline matrix eigen_basis(matrix const& features, std::size_t rank) {
  auto found = svd(features).vectors;
  found.resize(rank);
  return found;
}

/// basis^T basis: what a row is projected by, which does not depend on signs.
inline matrix projector(matrix const& basis) {
  matrix out(basis[0].size(), std::vector<double>(basis[0].size()));
  for (auto const& u : basis)
    for (std::size_t i = 0; i < u.size(); ++i)
      for (std::size_t j = 0; j < u.size(); ++j) out[i][j] += u[i] * u[j];
  return out;
}

/// Rotates a row to a position: pairs of a channel and the one half of the row behind it.
inline void rotate_row(std::vector<double>& x, double position, double base = 10000) {
  std::size_t const half = x.size() / 2;
  for (std::size_t i = 0; i < half; ++i) {
    double const angle =
        position * std::pow(base, -static_cast<double>(i) / static_cast<double>(half));
    double const a = x[i], b = x[i + half];
    x[i] = a * std::cos(angle) - b * std::sin(angle);
    x[i + half] = b * std::cos(angle) + a * std::sin(angle);
  }
}

/// Of one query head, q[token][channel] rotated, over k[token][channel] and v of tokens 0, 1, ...;
/// k is before RoPE where `rotates`, and projected there.
inline matrix eigen_attention(matrix const& q, matrix const& k, matrix const& v,
                              matrix const& key_basis, matrix const& value_basis, bool rotates) {
  auto const down = [](matrix const& basis, std::vector<double> const& x) {
    std::vector<double> z;
    for (auto const& u : basis) z.push_back(std::inner_product(u.begin(), u.end(), x.begin(), 0.0));
    return z;
  };
  auto const up = [](matrix const& basis, std::vector<double> const& z) {
    std::vector<double> x(basis[0].size());
    for (std::size_t j = 0; j < z.size(); ++j)
      for (std::size_t d = 0; d < x.size(); ++d) x[d] += z[j] * basis[j][d];
    return x;
  };
  matrix out;
  for (std::size_t t = 0; t < q.size(); ++t) {
    std::vector<double> weights, sum(value_basis.size());
    double total = 0;
    for (std::size_t s = 0; s <= t; ++s) {
      auto key = up(key_basis, down(key_basis, k[s]));
      if (rotates) rotate_row(key, static_cast<double>(s));
      weights.push_back(std::exp(std::inner_product(key.begin(), key.end(), q[t].begin(), 0.0) /
                                 std::sqrt(static_cast<double>(key.size()))));
      total += weights.back();
    }
    for (std::size_t s = 0; s <= t; ++s) {
      auto const z = down(value_basis, v[s]);
      for (std::size_t j = 0; j < z.size(); ++j) sum[j] += weights[s] / total * z[j];
    }
    out.push_back(up(value_basis, sum));
  }
  return out;
}

}  // namespace reference
