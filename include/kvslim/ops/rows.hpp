// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Rows of head_dim channels as floats: load, store, dot, norm, cosine, finiteness. Accumulation is
/// in float, in channel order with eight interleaved partial sums, so that every layout and every
/// caller gets the same bits.

#include <kvslim/core/view.hpp>
#include <kvslim/isa/convert.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Reads one row of any element type and stride. Cost: one pass over head_dim.
template <class T>
KVSLIM_HD inline void load_row(T const* source, index_t stride, index_t head_dim,
                               float* out) noexcept {
  index_t const whole = stride == 1 ? head_dim - head_dim % 16 : 0;
  for (index_t d = 0; d < whole; d += 16) detail::widen16(source + d, out + d);
  for (index_t d = whole; d < head_dim; ++d) out[d] = to_float(source[d * stride]);
}

template <class Plane>
KVSLIM_HD inline void load_row(Plane const& plane, index_t s, index_t h, index_t t,
                               index_t head_dim, float* out) noexcept {
  load_row(static_cast<typename Plane::value_type const*>(plane.row(s, h, t)), plane.layout.channel,
           head_dim, out);
}

[[nodiscard]] KVSLIM_HD inline float dot(float const* a, float const* b, index_t n) noexcept {
  float part[8] = {};
  index_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (index_t j = 0; j < 8; ++j) part[j] += a[i + j] * b[i + j];
  for (index_t j = 0; i + j < n; ++j) part[j] += a[i + j] * b[i + j];
  return ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
}

/// The same sum over anything with channels a[i], where no row of floats is at hand.
template <class A, class B>
[[nodiscard]] KVSLIM_HD inline float dot_channels(A const& a, B const& b, index_t n) noexcept {
  float part[8] = {};
  index_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (index_t j = 0; j < 8; ++j) part[j] += a[i + j] * b[i + j];
  for (index_t j = 0; i + j < n; ++j) part[j] += a[i + j] * b[i + j];
  return ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
}

/// ||x||_2 of a row.
[[nodiscard]] KVSLIM_HD inline float norm(float const* x, index_t n) noexcept {
  return std::sqrt(dot(x, x, n));
}

/// Cosine of two rows (anything with channels a[i]), in double with four interleaved partial sums
/// and rounded once; 0 if either is zero, NaN if either holds NaN.
template <class A, class B>
[[nodiscard]] KVSLIM_HD inline float cosine(A const& a, B const& b, index_t n) noexcept {
  double part[3][4] = {};
  auto const add = [&](index_t i, index_t j) {
    auto const x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    part[0][j] += x * y;
    part[1][j] += x * x;
    part[2][j] += y * y;
  };
  index_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (index_t j = 0; j < 4; ++j) add(i + j, j);
  for (index_t j = 0; i + j < n; ++j) add(i + j, j);
  double const ab = (part[0][0] + part[0][2]) + (part[0][1] + part[0][3]),
               aa = (part[1][0] + part[1][2]) + (part[1][1] + part[1][3]),
               bb = (part[2][0] + part[2][2]) + (part[2][1] + part[2][3]);
  return aa == 0.0 || bb == 0.0 ? 0.0f : static_cast<float>(ab / (std::sqrt(aa) * std::sqrt(bb)));
}

/// Squared distance of two rows.
[[nodiscard]] KVSLIM_HD inline float distance2(float const* a, float const* b, index_t n) noexcept {
  float sum = 0.0f;
  for (index_t i = 0; i < n; ++i) {
    float const d = a[i] - b[i];
    sum += d * d;
  }
  return sum;
}

/// True if every channel is finite and at most `limit` in magnitude. Bit patterns are compared, so
/// that no floating-point option can take NaN or infinity for a number.
template <class T>
[[nodiscard]] KVSLIM_HD inline bool within(T const* source, index_t stride, index_t n,
                                           float limit) noexcept {
  auto const magnitude = [](float x) {
    return static_cast<std::int32_t>(detail::bit_cast<std::uint32_t>(x) & 0x7fffffffu);
  };
  constexpr std::int32_t largest = 0x7f7fffff;  // of all floats
  std::int32_t const most = magnitude(limit) < largest ? magnitude(limit) : largest;
  std::int32_t found[32] = {};
  index_t const whole = stride == 1 ? n - n % 32 : 0;
  for (index_t d = 0; d < whole; d += 32) {
    float x[32];
    detail::widen16(source + d, x);
    detail::widen16(source + d + 16, x + 16);
    for (index_t i = 0; i < 32; ++i) found[i] |= magnitude(x[i]) > most ? 1 : 0;
  }
  for (index_t d = whole; d < n; ++d)
    found[0] |= magnitude(to_float(source[d * stride])) > most ? 1 : 0;
  std::int32_t any = 0;
  for (index_t i = 0; i < 32; ++i) any |= found[i];
  return any == 0;
}

}  // namespace ops

KVSLIM_END_NAMESPACE
