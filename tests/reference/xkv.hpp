// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// A truncated SVD in double: rows projected on their leading right singular vectors, by Jacobi
// rotations of the columns.

#include "reference.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace reference {

/// The right singular vectors of rows [token][channel], leading first, and their singular values.
struct right_vectors {
  matrix vectors;
  std::vector<double> values;
};
inline right_vectors svd(matrix const& rows) {
  std::size_t const n = rows[0].size();
  matrix a(n, std::vector<double>(rows.size())), v(n, std::vector<double>(n));  // by columns
  for (std::size_t j = 0; j < n; ++j) {
    for (std::size_t t = 0; t < rows.size(); ++t) a[j][t] = rows[t][j];
    v[j][j] = 1;
  }
  auto const inner = [](std::vector<double> const& x, std::vector<double> const& y) {
    return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
  };
  for (int sweep = 0; sweep < 60; ++sweep)
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = i + 1; j < n; ++j) {
        double const aa = inner(a[i], a[i]), bb = inner(a[j], a[j]), ab = inner(a[i], a[j]);
        if (std::abs(ab) <= 1e-15 * std::sqrt(aa * bb)) continue;
        double const zeta = (bb - aa) / (2 * ab);
        double const t = (zeta > 0 ? 1.0 : -1.0) / (std::abs(zeta) + std::sqrt(1 + zeta * zeta));
        double const c = 1 / std::sqrt(1 + t * t), s = c * t;
        auto const turn = [&](std::vector<double>& x, std::vector<double>& y) {
          for (std::size_t k = 0; k < x.size(); ++k) {
            double const p = x[k], q = y[k];
            x[k] = c * p - s * q;
            y[k] = s * p + c * q;
          }
        };
        turn(a[i], a[j]);
        turn(v[i], v[j]);
      }
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t i, std::size_t j) {
    return inner(a[i], a[i]) > inner(a[j], a[j]);
  });
  right_vectors out;
  for (std::size_t const i : order) {
    out.vectors.push_back(v[i]);
    out.values.push_back(std::sqrt(inner(a[i], a[i])));
  }
  return out;
}

/// rows of the given rank that are nearest to these, and what they miss.
inline matrix truncated(matrix const& rows, std::size_t rank) {
  auto const all = svd(rows);
  matrix out = rows;
  for (std::size_t t = 0; t < rows.size(); ++t) {
    std::fill(out[t].begin(), out[t].end(), 0.0);
    for (std::size_t j = 0; j < rank; ++j) {
      auto const& w = all.vectors[j];
      double const along = std::inner_product(rows[t].begin(), rows[t].end(), w.begin(), 0.0);
      for (std::size_t d = 0; d < w.size(); ++d) out[t][d] += along * w[d];
    }
  }
  return out;
}

}  // namespace reference
