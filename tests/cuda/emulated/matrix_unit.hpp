// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Matrix instructions as exchanges between the lanes of a warp, by the PTX manual's tables of who
// holds what. Products are exact; a sum of sixteen and what was there before is cut, not rounded,
// to a float, as matrix units do. f16's subnormals count, as they must.

#include "fibers.hpp"

#include <bit>
#include <cmath>
#include <cstdint>

namespace emulated {

/// Element `at` (0 or 1) of two f16 in a word.
[[nodiscard]] inline double half_of(unsigned word, unsigned at) {
  unsigned const bits = word >> (16 * at) & 0xffffu, exponent = bits >> 10 & 31u;
  double const fraction = bits & 0x3ffu, sign = (bits & 0x8000u) != 0 ? -1.0 : 1.0;
  if (exponent == 31) return fraction != 0.0 ? std::nan("") : sign * INFINITY;
  return sign * (exponent == 0 ? std::ldexp(fraction, -24)
                               : std::ldexp(fraction + 1024.0, static_cast<int>(exponent) - 25));
}

/// The float next to x on the side of zero.
[[nodiscard]] inline float cut(double x) {
  auto const y = static_cast<float>(x);
  return std::abs(static_cast<double>(y)) > std::abs(x) ? std::nextafter(y, 0.0f) : y;
}

/// The same of two bf16.
[[nodiscard]] inline double bf16_of(unsigned word, unsigned at) {
  return static_cast<double>(std::bit_cast<float>(word >> (16 * at) << 16));
}

/// mma.sync.m16n8k16, 16-bit elements into float: c += a b.
template <class Element>
void multiply(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1,
              Element const& element) {
  auto* const me = running();
  unsigned const g = me->lane() / 4, t = me->lane() % 4;
  me->together({a[0], a[1], a[2], a[3], b0, b1}, [&](auto const& lanes) {
    for (unsigned i = 0; i < 4; ++i) {
      unsigned const high_row = i / 2, column = 2 * t + i % 2;
      double sum = static_cast<double>(c[i]);
      for (unsigned k = 0; k < 16; ++k) {
        auto const& of_a = lanes[g * 4 + k % 8 / 2];
        auto const& of_b = lanes[column * 4 + k % 8 / 2];
        sum += element(of_a[high_row + 2 * (k / 8)], k % 2) * element(of_b[4 + k / 8], k % 2);
      }
      c[i] = cut(sum);
    }
  });
}
inline void mma(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  multiply(c, a, b0, b1, half_of);
}
inline void mma_bf16(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t b0,
                     std::uint32_t b1) {
  multiply(c, a, b0, b1, bf16_of);
}

/// mma.sync.m16n8k8, TF32 into float: c += a b.
inline void mma_tf32(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t b0,
                     std::uint32_t b1) {
  auto* const me = running();
  unsigned const g = me->lane() / 4, t = me->lane() % 4;
  auto const element = [](unsigned word) {
    return static_cast<double>(std::bit_cast<float>(word & 0xffffe000u));
  };
  me->together({a[0], a[1], a[2], a[3], b0, b1}, [&](auto const& lanes) {
    for (unsigned i = 0; i < 4; ++i) {
      unsigned const high_row = i / 2, column = 2 * t + i % 2;
      double sum = static_cast<double>(c[i]);
      for (unsigned k = 0; k < 8; ++k)
        sum += element(lanes[g * 4 + k % 4][high_row + 2 * (k / 4)]) *
               element(lanes[column * 4 + k % 4][4 + k / 4]);
      c[i] = cut(sum);
    }
  });
}

/// movmatrix.sync.m8n8.trans.b16.
[[nodiscard]] inline std::uint32_t transposed(std::uint32_t x) {
  auto* const me = running();
  unsigned const row = me->lane() / 4, t = me->lane() % 4;
  std::uint32_t y = 0;
  me->together({x}, [&](auto const& lanes) {
    auto const at = [&](unsigned r, unsigned column) {
      return lanes[r * 4 + column / 2][0] >> (16 * (column % 2)) & 0xffffu;
    };
    y = at(2 * t, row) | at(2 * t + 1, row) << 16;
  });
  return y;
}

/// ex2.approx.ftz.f32.
[[nodiscard]] inline float exp2_fast(float x) {
  float const y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
}

}  // namespace emulated
