// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Palu in double, from the paper: the whitened decomposition of a group's weights, latents of
// hidden states, and their quantization behind a Hadamard matrix.

#include "xkv.hpp"

namespace reference {

inline matrix product(matrix const& a, matrix const& b) {
  matrix out(a.size(), std::vector<double>(b[0].size()));
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t k = 0; k < b.size(); ++k)
      for (std::size_t j = 0; j < b[0].size(); ++j) out[i][j] += a[i][k] * b[k][j];
  return out;
}
inline matrix transposed(matrix const& a) {
  matrix out(a[0].size(), std::vector<double>(a.size()));
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t j = 0; j < a[0].size(); ++j) out[j][i] = a[i][j];
  return out;
}
/// Of a square matrix, by Gauss and Jordan with pivots.
inline matrix inverse(matrix a) {
  std::size_t const n = a.size();
  for (std::size_t i = 0; i < n; ++i) {
    a[i].resize(2 * n);
    a[i][n + i] = 1;
  }
  for (std::size_t i = 0; i < n; ++i) {
    std::size_t pivot = i;
    for (std::size_t r = i; r < n; ++r)
      if (std::abs(a[r][i]) > std::abs(a[pivot][i])) pivot = r;
    std::swap(a[i], a[pivot]);
    double const by = a[i][i];
    for (double& x : a[i]) x /= by;
    for (std::size_t r = 0; r < n; ++r) {
      double const times = a[r][i];
      if (r != i)
        for (std::size_t j = 0; j < 2 * n; ++j) a[r][j] -= times * a[i][j];
    }
  }
  for (auto& row : a) row.erase(row.begin(), row.begin() + static_cast<std::ptrdiff_t>(n));
  return a;
}

/// left [channel][number] and right [number][hidden]: W ~ left right.
struct palu_factors {
  matrix left, right;
};
/// W S = U Sigma V^T gives left = U sqrt(Sigma), right = sqrt(Sigma) V^T S^-1, of the leading
/// `rank`; S is the Cholesky factor of the hidden states' second moment.
inline palu_factors palu(matrix const& weights, matrix const& whitening, std::size_t rank) {
  matrix const scaled = product(weights, whitening);
  auto const found = svd(transposed(scaled));  // vectors: columns of U
  matrix const unwhiten = inverse(whitening);
  palu_factors out;
  matrix left, v;
  for (std::size_t j = 0; j < rank; ++j) {
    double const sigma = found.values[j];
    left.push_back(found.vectors[j]);
    for (double& x : left.back()) x *= std::sqrt(sigma);
    v.push_back(product({found.vectors[j]}, scaled)[0]);  // sigma V^T
    for (double& x : v.back()) x /= std::sqrt(sigma);
  }
  out.left = transposed(left);
  out.right = product(v, unwhiten);
  return out;
}

/// A Hadamard matrix of 2^n folded between the factors.
inline palu_factors with_hadamard(palu_factors f) {
  std::size_t const n = f.right.size();
  matrix h(n, std::vector<double>(n));
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      int odd = 0;
      for (std::size_t both = i & j; both != 0; both >>= 1) odd ^= static_cast<int>(both & 1);
      h[i][j] = (odd != 0 ? -1.0 : 1.0) / std::sqrt(static_cast<double>(n));
    }
  return {product(f.left, h), product(transposed(h), f.right)};
}

/// Asymmetric codes of `bits`, with a zero point that is a code.
inline std::vector<double> palu_quantized(std::vector<double> x, int bits) {
  double const most = std::pow(2.0, bits) - 1, low = *std::min_element(x.begin(), x.end()),
               scale = std::max(*std::max_element(x.begin(), x.end()) - low, 1e-5) / most,
               zero = std::clamp(std::nearbyint(-low / scale), 0.0, most);
  for (double& y : x) y = (std::clamp(std::nearbyint(y / scale) + zero, 0.0, most) - zero) * scale;
  return x;
}

/// What a group's rows are rebuilt as, [token][channel], from hidden states [token][width]. bits
/// 16: latents as they are.
inline matrix palu_rebuilt(palu_factors const& f, matrix const& hidden, int bits) {
  matrix latents = product(hidden, transposed(f.right));
  if (bits < 16)
    for (auto& row : latents) row = palu_quantized(row, bits);
  return product(latents, transposed(f.left));
}

}  // namespace reference
