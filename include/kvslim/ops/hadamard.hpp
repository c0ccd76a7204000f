// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// A Hadamard rotation of one row: y = H diag(signs) x / sqrt(n), in place, and back. It is
/// orthogonal: rows that are rotated alike have the same dot products, and outliers are spread.
///
/// Orders: m * 2^k, m being 1, 12, 20, 28 or 36; H is the Kronecker product of a matrix of order m
/// (of 40 for 20 * 2^k, k > 0) and Sylvester's. Matrices are those of spcl/QuaRot 5008669,
/// fake_quant/hadamard_utils.py, here as Paley's two constructions over the residues of a prime.

#include <kvslim/core/elements.hpp>
#include <kvslim/core/fingerprint.hpp>
#include <kvslim/core/layout.hpp>
#include <kvslim/isa/encode_kernels.hpp>

#include <cmath>
#include <initializer_list>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// How a row of n = small * large values is rotated; small is 0 where no matrix has that order.
struct hadamard_order {
  index_t small, large;
};

[[nodiscard]] KVSLIM_HD constexpr hadamard_order order_of_hadamard(index_t n) noexcept {
  if (n <= 0 || n > 0x7fffffff) return {0, 0};
  auto const whole = static_cast<std::uint32_t>(n);  // devices divide 32 bits sooner
  for (std::uint32_t const m : {1u, 12u, 28u, 36u, 40u, 20u}) {
    std::uint32_t const large = whole / m;
    if (large * m == whole && (large & (large - 1)) == 0) return {m, large};
  }
  return {0, 0};
}
inline constexpr index_t most_hadamard = 40;  ///< of the small orders

/// Whether entry (i, j) of the matrix of a small order is -1.
[[nodiscard]] KVSLIM_HD constexpr bool negative_in_hadamard(index_t m, index_t i,
                                                            index_t j) noexcept {
  // Bit a is set where a is a square modulo the prime 11, 19, 13 or 17.
  bool const flips = m == 40 && i >= 20 && j >= 20;
  if (m == 1) return false;
  int const order = m == 40 ? 20 : static_cast<int>(m);
  bool const twice = order == 28 || order == 36;
  int const half = twice ? order / 2 : order, prime = half - 1;
  bool const low = i >= half, right = j >= half;
  int const a = static_cast<int>(i) - (low ? half : 0),
            b = static_cast<int>(j) - (right ? half : 0), apart = a < b ? a - b + prime : a - b;
  std::uint32_t const squares = order == 12   ? 0x23au
                                : order == 20 ? 0x30af2u
                                : order == 28 ? 0x161au
                                              : 0x1a316u;
  bool const edge = a == 0 || b == 0;
  bool const square = edge || ((squares >> apart) & 1u) != 0;
  if (!twice) return (a != b && (edge ? a == 0 : !square)) != flips;
  if (a == b) return low || right;
  return square == (low && right);
}

/// Whether channel d changes its sign first. Without a seed none does.
[[nodiscard]] KVSLIM_HD constexpr bool flips_sign(std::uint64_t seed, index_t d) noexcept {
  return seed != 0 && (detail::mix(seed, static_cast<std::uint64_t>(d)) >> 63) != 0;
}

/// One value of the matrix of a small order times the `m` values x[0], x[stride], ...
[[nodiscard]] KVSLIM_HD inline float times_hadamard(index_t m, index_t i, bool transposed,
                                                    float const* x) noexcept {
  float sum = 0.0f;
  for (index_t j = 0; j < m; ++j)
    sum +=
        (transposed ? negative_in_hadamard(m, j, i) : negative_in_hadamard(m, i, j)) ? -x[j] : x[j];
  return sum;
}
/// Multiplies column `at` of x [small, large] by the matrix of the small order.
KVSLIM_HD inline void multiply_column(hadamard_order const& n, index_t at, bool transposed,
                                      float* x) noexcept {
  float column[static_cast<std::size_t>(most_hadamard)];
  for (index_t i = 0; i < n.small; ++i) column[i] = x[i * n.large + at];
  for (index_t i = 0; i < n.small; ++i)
    x[i * n.large + at] = times_hadamard(n.small, i, transposed, column);
}
[[nodiscard]] KVSLIM_HD inline float hadamard_scale(index_t n) noexcept {
  return detail::divide(1.0f, detail::root(static_cast<float>(n)));
}

/// rotate_by_hadamard of one row, by plain loops.
KVSLIM_HD inline void rotate_row_plainly(float* x, index_t n, std::uint64_t seed,
                                         bool back) noexcept {
  hadamard_order const order = order_of_hadamard(n);
  if (!back && seed != 0)
    for (index_t d = 0; d < n; ++d) x[d] = flips_sign(seed, d) ? -x[d] : x[d];
  for (index_t step = 1; step < order.large; step *= 2)
    for (index_t begin = 0; begin < n; begin += 2 * step)
      for (index_t d = begin; d < begin + step; ++d) {
        float const a = x[d], b = x[d + step];
        x[d] = a + b;
        x[d + step] = a - b;
      }
  for (index_t at = 0; order.small > 1 && at < order.large; ++at)
    multiply_column(order, at, back, x);
  float const scale = hadamard_scale(n);
  for (index_t d = 0; d < n; ++d)
    x[d] = detail::product(x[d], back && flips_sign(seed, d) ? -scale : scale);
}

/// Each of `rows` rows x[n] becomes H diag(signs) x / sqrt(n); `back`: the inverse, which is the
/// transpose. Which signs change is found once for all of them.
KVSLIM_HD inline void rotate_by_hadamard(float* x, index_t n, std::uint64_t seed, bool back,
                                         index_t rows = 1) noexcept {
  auto const flips = [=](index_t d) { return flips_sign(seed, d); };
  if (order_of_hadamard(n).small == 1 &&
      detail::rotate_rows(x, rows, n, flips, hadamard_scale(n), back))
    return;
  for (index_t r = 0; r < rows; ++r) rotate_row_plainly(x + r * n, n, seed, back);
}

/// Entry (i, d) of H diag(signs) / sqrt(n).
[[nodiscard]] KVSLIM_HD inline float hadamard_entry(index_t n, std::uint64_t seed, index_t i,
                                                    index_t d) noexcept {
  hadamard_order const order = order_of_hadamard(n);
  auto common = static_cast<std::uint64_t>((i % order.large) & (d % order.large));
  bool odd =
      negative_in_hadamard(order.small, i / order.large, d / order.large) != flips_sign(seed, d);
  for (; common != 0; common &= common - 1) odd = !odd;
  return odd ? -hadamard_scale(n) : hadamard_scale(n);
}

}  // namespace ops

KVSLIM_END_NAMESPACE
