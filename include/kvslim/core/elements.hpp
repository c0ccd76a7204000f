// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Storage-only element types: bit patterns with conversions, no arithmetic. All conversions are
/// exact upwards and round to nearest even downwards; they agree bit for bit with the CUDA
/// toolkit's host functions (tested for every value upwards and every float downwards). e4m3 and
/// e5m2 saturate to the largest finite value, as the toolkit's __NV_SATFINITE does.

#include <concepts>
#include <kvslim/core/config.hpp>
#include <type_traits>

KVSLIM_BEGIN_NAMESPACE

struct f16 {
  std::uint16_t bits;
  friend constexpr bool operator==(f16, f16) = default;
};
struct bf16 {
  std::uint16_t bits;
  friend constexpr bool operator==(bf16, bf16) = default;
};
struct e4m3 {
  std::uint8_t bits;
  friend constexpr bool operator==(e4m3, e4m3) = default;
};
struct e5m2 {
  std::uint8_t bits;
  friend constexpr bool operator==(e5m2, e5m2) = default;
};

namespace detail {

/// Rounds a float to a small binary format with `Mantissa` bits and exponent bias `Bias`;
/// subnormals included. Returns the magnitude bits; the caller deals with sign, overflow and NaN.
template <int Mantissa, int Bias>
[[nodiscard]] KVSLIM_HD constexpr std::uint32_t round_magnitude(std::uint32_t magnitude) noexcept {
  constexpr int shift = 23 - Mantissa;
  auto const exponent = static_cast<int>(magnitude >> 23) - 127 + Bias;
  if (exponent > 0) {
    auto const rounded = magnitude + ((1u << (shift - 1)) - 1) + ((magnitude >> shift) & 1u);
    return (rounded >> shift) - (static_cast<std::uint32_t>(127 - Bias) << Mantissa);
  }
  if (exponent < -Mantissa) return 0;  // below half of the smallest subnormal
  auto const significand = (magnitude & 0x7fffffu) | 0x800000u;
  auto const drop = shift + 1 - exponent;
  auto const half = 1u << (drop - 1);
  auto const kept = significand >> drop;
  auto const rest = significand & ((1u << drop) - 1);
  return kept + static_cast<std::uint32_t>(rest > half || (rest == half && (kept & 1u) != 0));
}

template <int Mantissa, int Bias>
[[nodiscard]] KVSLIM_HD constexpr float widen(std::uint32_t magnitude) noexcept {
  // The bit pattern read with a float's exponent field is the value times 2^(Bias - 127),
  // subnormals included.
  auto const scale = detail::bit_cast<float>(static_cast<std::uint32_t>(254 - Bias) << 23);
  return detail::bit_cast<float>(magnitude << (23 - Mantissa)) * scale;
}

[[nodiscard]] KVSLIM_HD constexpr float with_sign(float magnitude, std::uint32_t sign) noexcept {
  return detail::bit_cast<float>(detail::bit_cast<std::uint32_t>(magnitude) | sign);
}

}  // namespace detail

[[nodiscard]] KVSLIM_HD constexpr float to_float(float x) noexcept { return x; }

[[nodiscard]] KVSLIM_HD constexpr float to_float(f16 x) noexcept {
#if defined(__CUDA_ARCH__)
  if (!__builtin_is_constant_evaluated()) {  // one instruction; the same value
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
  }
#endif
  auto const sign = (x.bits & 0x8000u) << 16;
  auto const magnitude = x.bits & 0x7fffu;
  auto const special = 0x7f800000u | ((magnitude & 0x3ffu) << 13);
  return magnitude >= 0x7c00u ? detail::bit_cast<float>(special | sign)
                              : detail::with_sign(detail::widen<10, 15>(magnitude), sign);
}

[[nodiscard]] KVSLIM_HD constexpr float to_float(bf16 x) noexcept {
  return detail::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}

[[nodiscard]] KVSLIM_HD constexpr float to_float(e4m3 x) noexcept {
  auto const sign = (x.bits & 0x80u) << 24;
  auto const magnitude = x.bits & 0x7fu;
  return magnitude == 0x7fu ? detail::bit_cast<float>(0x7fc00000u | sign)
                            : detail::with_sign(detail::widen<3, 7>(magnitude), sign);
}

[[nodiscard]] KVSLIM_HD constexpr float to_float(e5m2 x) noexcept {
  return to_float(f16{static_cast<std::uint16_t>(x.bits << 8)});
}

/// Rounds to nearest even. Overflow: infinity for f16 and bf16, the largest finite value for e4m3
/// and e5m2.
template <class T>
[[nodiscard]] KVSLIM_HD constexpr T from_float(float x) noexcept {
  auto const bits = detail::bit_cast<std::uint32_t>(x);
  auto const magnitude = bits & 0x7fffffffu;
  [[maybe_unused]] auto const sign16 = (bits >> 16) & 0x8000u;
  [[maybe_unused]] auto const sign8 = (bits >> 24) & 0x80u;
  if constexpr (std::same_as<T, float>) {
    return x;
  } else if constexpr (std::same_as<T, f16>) {
    if (magnitude > 0x7f800000u) return {0x7fff};
    if (magnitude >= 0x477ff000u)
      return {static_cast<std::uint16_t>(0x7c00u | sign16)};  // 65520 and above
    return {static_cast<std::uint16_t>(detail::round_magnitude<10, 15>(magnitude) | sign16)};
  } else if constexpr (std::same_as<T, bf16>) {
    if (magnitude > 0x7f800000u) return {0x7fff};
    return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
  } else if constexpr (std::same_as<T, e4m3>) {
    if (magnitude > 0x7f800000u) return {0x7f};
    auto const rounded =
        magnitude >= 0x43e80000u ? 0x7eu : detail::round_magnitude<3, 7>(magnitude);  // 464
    return {static_cast<std::uint8_t>((rounded > 0x7eu ? 0x7eu : rounded) | sign8)};
  } else {
    static_assert(std::same_as<T, e5m2>,
                  "kvslim: from_float knows float, f16, bf16, e4m3 and e5m2");
    if (magnitude > 0x7f800000u) return {0x7f};
    auto const rounded =
        magnitude >= 0x47700000u ? 0x7bu : detail::round_magnitude<2, 15>(magnitude);  // 61440
    return {static_cast<std::uint8_t>((rounded > 0x7bu ? 0x7bu : rounded) | sign8)};
  }
}

/// Element types a view may hold.
template <class T>
concept element = std::same_as < std::remove_const_t<T>,
float > || std::same_as<std::remove_const_t<T>, f16> ||
    std::same_as<std::remove_const_t<T>, bf16> || std::same_as<std::remove_const_t<T>, e4m3> ||
    std::same_as<std::remove_const_t<T>, e5m2>;

/// Not NaN and not infinite.
[[nodiscard]] KVSLIM_HD constexpr bool is_finite(float x) noexcept {
  return (detail::bit_cast<std::uint32_t>(x) & 0x7f800000u) != 0x7f800000u;
}

KVSLIM_END_NAMESPACE
