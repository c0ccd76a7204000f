// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/elements.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// e^x for x <= 0 without branches or calls, so that loops over it become vector code; one formula
/// for both backends. Below -87 the result is 0. Relative error below 2e-7 (tested for every float
/// in [-87, 0]). Cephes' reduction: x = n ln 2 + r with |r| <= ln 2 / 2.
[[nodiscard]] KVSLIM_HD inline float exp_nonpositive(float x) noexcept {
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits. It is read from there:
  // compilers that may reorder sums would take a subtraction for the way back to where it came
  // from.
  constexpr float magic = 12582912.0f;
  auto const shifted = detail::bit_cast<std::uint32_t>(x * 1.44269504f + magic);
  auto const n = static_cast<float>(
      static_cast<std::int32_t>(shifted - detail::bit_cast<std::uint32_t>(magic)));
  float const r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  auto const exponent = (shifted + 127u) << 23;
  // What came of smaller values, and of NaN, is masked out; to choose would be a branch to some
  // compilers.
  std::uint32_t const mask = x > -87.0f ? 0xffffffffu : 0u;
  auto const bits = detail::bit_cast<std::uint32_t>(y * detail::bit_cast<float>(exponent));
  return detail::bit_cast<float>(bits & mask);
}

}  // namespace ops

KVSLIM_END_NAMESPACE
