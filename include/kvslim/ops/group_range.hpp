// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/types.hpp>

#include <cmath>

KVSLIM_BEGIN_NAMESPACE

/// Where intermediate results of a quantizer are rounded. `precise`: float arithmetic with the stored (f16) parameters.
/// `authors`: every subtraction and division rounds to f16, as a half-precision tensor library does (bit parity).
enum class rounding : std::uint8_t { precise, authors };

namespace ops {

struct range {
  float low, high;
};

/// Minimum and maximum of `count` values `stride` apart; count >= 1.
[[nodiscard]] KVSLIM_HD inline range group_range(float const* x, index_t count, index_t stride) noexcept {
  range r{x[0], x[0]};
  for (index_t i = 1; i < count; ++i) {
    float const v = x[i * stride];
    r.low = v < r.low ? v : r.low;
    r.high = v > r.high ? v : r.high;
  }
  return r;
}

/// One group's affine code: x ~ code * scale + low, both stored as f16. A zero scale means that every code is 0.
struct affine {
  f16 scale, low;

  [[nodiscard]] KVSLIM_HD float decode(std::uint32_t code) const noexcept {
    return static_cast<float>(code) * to_float(scale) + to_float(low);
  }
};

[[nodiscard]] KVSLIM_HD inline float round_f16(float x) noexcept { return to_float(from_float<f16>(x)); }

/// Largest magnitude whose groups have finite parameters: the authors round the span to f16.
[[nodiscard]] KVSLIM_HD constexpr float largest_affine(rounding mode) noexcept { return mode == rounding::authors ? 32752.0f : 65504.0f; }

[[nodiscard]] KVSLIM_HD inline affine fit_affine(range r, int bits, rounding mode) noexcept {
  auto const steps = static_cast<float>((1 << bits) - 1);
  float const span = mode == rounding::authors ? round_f16(r.high - r.low) : r.high - r.low;
  return {from_float<f16>(span / steps), from_float<f16>(r.low)};
}

/// Nearest code, ties to even, clamped to [0, 2^bits - 1]; NaN (from a damaged tail) is 0.
[[nodiscard]] KVSLIM_HD inline std::uint32_t encode_affine(float x, affine a, int bits, rounding mode) noexcept {
  float const scale = to_float(a.scale);
  if (scale == 0.0f) return 0;
  float y = x - to_float(a.low);
  if (mode == rounding::authors) y = round_f16(y);
  y /= scale;
  if (mode == rounding::authors) y = round_f16(y);
  auto const most = static_cast<float>((1 << bits) - 1);
  y = y > 0.0f ? (y < most ? y : most) : 0.0f;
  return static_cast<std::uint32_t>(std::rint(y));
}

}  // namespace ops

KVSLIM_END_NAMESPACE
