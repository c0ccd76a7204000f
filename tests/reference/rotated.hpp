// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include "attention.hpp"

#include <set>

namespace reference {

inline int legendre(int a, int prime) {
  std::set<int> squares;
  for (int i = 1; i < prime; ++i) squares.insert(i * i % prime);
  a = (a % prime + prime) % prime;
  return a == 0 ? 0 : squares.count(a) != 0 ? 1 : -1;
}

/// A over B: every entry of A times all of B.
inline matrix kronecker(matrix const& a, matrix const& b) {
  matrix out(a.size() * b.size(), std::vector<double>(a.size() * b.size()));
  for (std::size_t i = 0; i < out.size(); ++i)
    for (std::size_t j = 0; j < out.size(); ++j)
      out[i][j] = a[i / b.size()][j / b.size()] * b[i % b.size()][j % b.size()];
  return out;
}

/// Paley's first construction: order prime + 1, prime = 3 mod 4. I + S, S skew.
inline matrix paley_one(int prime) {
  auto const n = static_cast<std::size_t>(prime + 1);
  matrix h(n, std::vector<double>(n, 1.0));
  for (int i = 0; i <= prime; ++i)
    for (int j = 0; j <= prime; ++j)
      h[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)] = i == j   ? 1
                                                                    : i == 0 ? -1
                                                                    : j == 0
                                                                        ? 1
                                                                        : legendre(i - j, prime);
  return h;
}

/// Paley's second: order 2 (prime + 1), prime = 1 mod 4. [[C + I, C - I], [C - I, -C - I]].
inline matrix paley_two(int prime) {
  auto const half = static_cast<std::size_t>(prime + 1);
  matrix h(2 * half, std::vector<double>(2 * half));
  for (std::size_t i = 0; i < half; ++i)
    for (std::size_t j = 0; j < half; ++j) {
      double const one = i == j ? 1 : 0,
                   c = i == j ? 0
                       : i == 0 || j == 0
                           ? 1
                           : legendre(static_cast<int>(i) - static_cast<int>(j), prime);
      h[i][j] = c + one;
      h[i][half + j] = h[half + i][j] = c - one;
      h[half + i][half + j] = -c - one;
    }
  return h;
}

/// The orthogonal matrix that QuaRot multiplies rows of n channels by.
inline matrix hadamard(std::size_t n) {
  matrix const two{{1, 1}, {1, -1}};
  matrix h{{1}};
  std::size_t sylvester = n;
  if (n % 5 == 0) {
    h = paley_one(19);
    if (n % 40 == 0) h = kronecker(two, h);
  } else if (n % 9 == 0) {
    h = paley_two(17);
  } else if (n % 7 == 0) {
    h = paley_two(13);
  } else if (n % 3 == 0) {
    h = paley_one(11);
  }
  for (sylvester /= h.size(); sylvester > 1; sylvester /= 2) h = kronecker(h, two);
  for (auto& row : h)
    for (double& x : row) x /= std::sqrt(static_cast<double>(n));
  return h;
}

}  // namespace reference
