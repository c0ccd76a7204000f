// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <cmath>
#include <kvslim/core/elements.hpp>

KVSLIM_BEGIN_NAMESPACE

/// Where intermediate results of a quantizer are rounded. `precise`: float arithmetic with the
/// stored (f16) parameters. `authors`: every subtraction and division rounds to f16, as a
/// half-precision tensor library does (bit parity).
enum class rounding : std::uint8_t { precise, authors };

namespace ops {

struct range {
  float low, high;
};

/// N ranges side by side take in one more value each.
template <index_t N>
KVSLIM_HD inline void widen_ranges(float const* x, float* low, float* high) noexcept {
  for (index_t i = 0; i < N; ++i) {
    low[i] = x[i] < low[i] ? x[i] : low[i];
    high[i] = x[i] > high[i] ? x[i] : high[i];
  }
}

/// Minimum and maximum of `count` values `stride` apart; count >= 1.
[[nodiscard]] KVSLIM_HD inline range group_range(float const* x, index_t count,
                                                 index_t stride) noexcept {
  range r{x[0], x[0]};
  index_t i = 1;
  if (stride == 1 && count >= 32) {
    float low[32], high[32];
    for (index_t j = 0; j < 32; ++j) low[j] = high[j] = x[j];
    for (i = 32; i + 32 <= count; i += 32) widen_ranges<32>(x + i, low, high);
    for (index_t half = 16; half > 0; half /= 2)
      for (index_t j = 0; j < half; ++j) {
        low[j] = low[half + j] < low[j] ? low[half + j] : low[j];
        high[j] = high[half + j] > high[j] ? high[half + j] : high[j];
      }
    r = {low[0], high[0]};
  }
  for (; i < count; ++i) widen_ranges<1>(x + i * stride, &r.low, &r.high);
  return r;
}

/// One group's affine code: x ~ code * scale + low, both stored as f16. A zero scale means that
/// every code is 0.
struct affine {
  f16 scale, low;

  [[nodiscard]] KVSLIM_HD float decode(std::uint32_t code) const noexcept {
    return static_cast<float>(code) * to_float(scale) + to_float(low);
  }
};

[[nodiscard]] KVSLIM_HD inline float round_f16(float x) noexcept {
  return to_float(from_float<f16>(x));
}

/// Largest magnitude whose groups have finite parameters: the authors round the span to f16.
[[nodiscard]] KVSLIM_HD constexpr float largest_affine(rounding mode) noexcept {
  return mode == rounding::authors ? 32752.0f : 65504.0f;
}

[[nodiscard]] KVSLIM_HD inline affine fit_affine(range r, int bits, rounding mode) noexcept {
  auto const steps = static_cast<float>((1 << bits) - 1);
  float const span = mode == rounding::authors ? round_f16(r.high - r.low) : r.high - r.low;
  return {from_float<f16>(span / steps), from_float<f16>(r.low)};
}

/// Nearest integer in [0, most], ties to even; NaN is 0. Adding 2^23 leaves it in the low bits.
[[nodiscard]] KVSLIM_HD inline std::uint32_t round_code(float y, float most) noexcept {
  float const positive = y > 0.0f ? y : 0.0f;
  return detail::bit_cast<std::uint32_t>((positive < most ? positive : most) + 8388608.0f) & 255u;
}

/// Nearest code, ties to even, clamped to [0, 2^bits - 1]; NaN (from a damaged tail) is 0.
[[nodiscard]] KVSLIM_HD inline std::uint32_t encode_affine(float x, affine a, int bits,
                                                           rounding mode) noexcept {
  float const scale = to_float(a.scale);
  if (scale == 0.0f) return 0;
  float y = x - to_float(a.low);
  if (mode == rounding::authors) y = round_f16(y);
  y /= scale;
  if (mode == rounding::authors) y = round_f16(y);
  return round_code(y, static_cast<float>((1 << bits) - 1));
}

/// encode_affine of N values in a row, each with its own parameters (as floats): without branches,
/// for vector registers.
template <index_t N>
KVSLIM_HD inline void encode_affine(float const* x, float const* scale, float const* low, int bits,
                                    rounding mode, std::uint8_t* codes) noexcept {
  auto const most = static_cast<float>((1 << bits) - 1);
  auto const all = [&](auto const& rounded) {
    for (index_t i = 0; i < N; ++i) {
      float const y = rounded(rounded(x[i] - low[i]) / scale[i]);
      codes[i] = static_cast<std::uint8_t>(scale[i] == 0.0f ? 0u : round_code(y, most));
    }
  };
  if (mode == rounding::authors)
    all([](float y) { return round_f16(y); });
  else
    all([](float y) { return y; });
}

}  // namespace ops

KVSLIM_END_NAMESPACE
