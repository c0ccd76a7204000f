// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Storage-only element types: bit patterns with conversions, no arithmetic. All conversions are
/// exact upwards and round to nearest even downwards; they agree bit for bit with the CUDA
/// toolkit's host functions (tested for every value upwards and every float downwards). e4m3 and
/// e5m2 saturate to the largest finite value, as the toolkit's __NV_SATFINITE does.

#include <kvslim/core/config.hpp>

#include <concepts>
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

/// The way back, by integers and sums of normal floats: an engine may flush subnormals to zero.
template <int Mantissa, int Bias>
[[nodiscard]] KVSLIM_HD constexpr float widen_magnitude(std::uint32_t magnitude) noexcept {
  // A normal number's exponent moves to the float's bias. A subnormal one's fraction is put behind
  // the leading one of the format's smallest normal number, which is then taken away.
  constexpr auto normal = static_cast<std::uint32_t>(127 - Bias) << 23;
  constexpr auto smallest = normal + (1u << 23);
  auto const placed = magnitude << (23 - Mantissa);
  auto const subnormal =
      detail::bit_cast<float>(placed + smallest) - detail::bit_cast<float>(smallest);
  return magnitude >> Mantissa == 0 ? subnormal : detail::bit_cast<float>(placed + normal);
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
                              : detail::with_sign(detail::widen_magnitude<10, 15>(magnitude), sign);
}

[[nodiscard]] KVSLIM_HD constexpr float to_float(bf16 x) noexcept {
  return detail::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}

[[nodiscard]] KVSLIM_HD constexpr float to_float(e4m3 x) noexcept {
  auto const sign = (x.bits & 0x80u) << 24;
  auto const magnitude = x.bits & 0x7fu;
  return magnitude == 0x7fu ? detail::bit_cast<float>(0x7fc00000u | sign)
                            : detail::with_sign(detail::widen_magnitude<3, 7>(magnitude), sign);
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
#if defined(__CUDA_ARCH__)
    if (!__builtin_is_constant_evaluated()) {
      std::uint16_t y;
      asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
      return {y};
    }
#endif
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

/// The largest finite value of an element type.
template <element T>
[[nodiscard]] KVSLIM_HD constexpr float largest_finite() noexcept {
  if constexpr (std::same_as<T, float>)
    return detail::bit_cast<float>(0x7f7fffffu);
  else if constexpr (std::same_as<T, f16>)
    return 65504.0f;
  else if constexpr (std::same_as<T, bf16>)
    return to_float(bf16{0x7f7f});
  else if constexpr (std::same_as<T, e4m3>)
    return 448.0f;
  else
    return 57344.0f;
}

/// Bit patterns as an engine holds them (16-bit words for f16 and bf16, bytes for e4m3 and e5m2)
/// seen as elements, without a copy.
template <class T>
[[nodiscard]] KVSLIM_HD inline T* as_elements(decltype(T::bits)* words) noexcept {
  return reinterpret_cast<T*>(words);
}
template <class T>
[[nodiscard]] KVSLIM_HD inline T const* as_elements(decltype(T::bits) const* words) noexcept {
  return reinterpret_cast<T const*>(words);
}

namespace detail {

template <class T, index_t N, index_t... More>
struct local_array {
  using type = typename local_array<T, More...>::type[static_cast<std::size_t>(N)];
};
template <class T, index_t N>
struct local_array<T, N> {
  using type = T[static_cast<std::size_t>(N)];
};
/// local<T, N, M> is T[N][M]: bounds are counts, and counts have a sign.
template <class T, index_t... N>
using local = typename local_array<T, N...>::type;

/// Bytes that hold an array of T at T's alignment, which the caller vouches for.
template <class T>
[[nodiscard]] KVSLIM_HD inline T* array_at(std::byte* bytes) noexcept {
  return static_cast<T*>(static_cast<void*>(bytes));
}
template <class T>
[[nodiscard]] KVSLIM_HD inline T const* array_at(std::byte const* bytes) noexcept {
  return static_cast<T const*>(static_cast<void const*>(bytes));
}

/// Numbers that stored forms write for element types; they never change.
template <element T>
[[nodiscard]] KVSLIM_HD constexpr std::uint32_t element_number() noexcept {
  return std::same_as<T, f16>     ? 1u
         : std::same_as<T, bf16>  ? 2u
         : std::same_as<T, float> ? 3u
         : std::same_as<T, e4m3>  ? 4u
                                  : 5u;
}

/// a / b, sqrt(x) and a * b rounded to nearest, whatever a device compiler was told about fast
/// arithmetic; it never joins the product to a sum. For what stored bytes depend on.
[[nodiscard]] KVSLIM_HD inline float divide(float a, float b) noexcept {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}
[[nodiscard]] KVSLIM_HD inline float root(float x) noexcept {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(x);
#else
  return __builtin_sqrtf(x);
#endif
}
[[nodiscard]] KVSLIM_HD inline float product(float a, float b) noexcept {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
[[nodiscard]] KVSLIM_HD inline double product(double a, double b) noexcept {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

}  // namespace detail

KVSLIM_END_NAMESPACE
