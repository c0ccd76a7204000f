// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/elements.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

#if !defined(__CUDACC__)
/// A mask of all lanes in the integer type that the compiler's builtin takes; g++ and clang, old
/// and new, differ in its sign.
struct all_lanes {
  template <class Mask>
  constexpr operator Mask() const noexcept {
    return static_cast<Mask>(-1);
  }
};
#endif

#if defined(__F16C__) && !defined(__CUDACC__)
using bytes16 [[gnu::vector_size(16), gnu::aligned(1), gnu::may_alias]] = unsigned char;
using shorts8 [[gnu::vector_size(16), gnu::aligned(1), gnu::may_alias]] = short;
using shorts16 [[gnu::vector_size(32), gnu::aligned(1), gnu::may_alias]] = short;
using words8 [[gnu::vector_size(32), gnu::aligned(1), gnu::may_alias]] = unsigned;
using words16 [[gnu::vector_size(64), gnu::aligned(1), gnu::may_alias]] = unsigned;
using halves8 [[gnu::vector_size(16), gnu::aligned(1), gnu::may_alias]] = unsigned short;
using halves16 [[gnu::vector_size(32), gnu::aligned(1), gnu::may_alias]] = unsigned short;
using floats8 [[gnu::vector_size(32), gnu::aligned(1), gnu::may_alias]] = float;
using floats16 [[gnu::vector_size(64), gnu::aligned(1), gnu::may_alias]] = float;

/// Sixteen bit patterns of f16 as floats, times `scale`.
inline void widen_halves(void const* in, float scale, float* out) noexcept {
#if defined(__AVX512F__)
  // One store of the width that the loop reads back: narrower ones could not be forwarded.
  *reinterpret_cast<floats16*>(out) =
      scale * __builtin_ia32_vcvtph2ps512_mask(*static_cast<shorts16 const*>(in), floats16{},
                                               all_lanes{}, 4);
#else
  for (index_t i = 0; i < 16; i += 8)
    *reinterpret_cast<floats8*>(out + i) =
        scale * __builtin_ia32_vcvtph2ps256(static_cast<shorts8 const*>(in)[i / 8]);
#endif
}
/// Sixteen bit patterns of bf16 as floats.
inline void widen_upper_halves(void const* in, float* out) noexcept {
#if defined(__AVX512F__)
  *reinterpret_cast<words16*>(out) =
      __builtin_convertvector(*static_cast<halves16 const*>(in), words16) << 16;
#else
  for (index_t i = 0; i < 16; i += 8)
    *reinterpret_cast<words8*>(out + i) =
        __builtin_convertvector(static_cast<halves8 const*>(in)[i / 8], words8) << 16;
#endif
}
#endif

/// Sixteen stored values as floats. Uses the conversion instruction where the consumer's flags have
/// it (the builtin spares every consumer <immintrin.h>); the result is the same. The instruction
/// reads subnormal halves whatever the consumer's floating-point mode.
template <class T>
KVSLIM_HD inline void widen16(T const* in, float* out) noexcept {
#if defined(__F16C__) && !defined(__CUDACC__)
  if constexpr (std::same_as<T, f16>) {
    widen_halves(in, 1.0f, out);
  } else if constexpr (std::same_as<T, bf16>) {
    widen_upper_halves(in, out);
  } else if constexpr (std::same_as<T, e5m2>) {  // the upper byte of a half
    halves16 const bits = __builtin_convertvector(*reinterpret_cast<bytes16 const*>(in), halves16)
                          << 8;
    widen_halves(&bits, 1.0f, out);
  } else if constexpr (std::same_as<T, e4m3>) {  // a half's fields, with another exponent bias
    auto const bits = __builtin_convertvector(*reinterpret_cast<bytes16 const*>(in), halves16);
    auto const magnitude = bits & 0x7f;
    auto const nan = reinterpret_cast<halves16>(magnitude == 0x7f);  // all ones where it is
    halves16 const half = (magnitude << 7) | (nan & 0x7e00) | ((bits & 0x80) << 8);
    widen_halves(&half, 256.0f, out);
  } else {
#if defined(__AVX512F__)
    *reinterpret_cast<floats16*>(out) = *reinterpret_cast<floats16 const*>(in);
#else
    for (index_t i = 0; i < 16; i += 8)
      *reinterpret_cast<floats8*>(out + i) = *reinterpret_cast<floats8 const*>(in + i);
#endif
  }
#else
  for (index_t i = 0; i < 16; ++i) out[i] = to_float(in[i]);
#endif
}

/// N stored values as floats.
template <index_t N, class T>
KVSLIM_HD inline void widen_all(T const* in, float* out) noexcept {
  if constexpr (N % 16 == 0)
    for (index_t i = 0; i < N; i += 16) widen16(in + i, out + i);
  else
    for (index_t i = 0; i < N; ++i) out[i] = to_float(in[i]);
}

/// Sixteen floats as T, as from_float rounds them.
template <class T>
KVSLIM_HD inline void narrow16(float const* in, T* out) noexcept {
#if defined(__F16C__) && !defined(__CUDACC__)
  if constexpr (std::same_as<T, f16>) {
#if defined(__AVX512F__)
    constexpr index_t width = 16;
    using halves = shorts16;
    using floats = floats16;
    auto const convert = [](floats x) {
      return halves(__builtin_ia32_vcvtps2ph512_mask(x, 0, halves{}, all_lanes{}));
    };
#else
    constexpr index_t width = 8;
    using halves = shorts8;
    using floats = floats8;
    auto const convert = [](floats x) { return halves(__builtin_ia32_vcvtps2ph256(x, 0)); };
#endif
    for (index_t i = 0; i < 16; i += width) {
      auto const x = *reinterpret_cast<floats const*>(in + i);
      // All ones where x is NaN; the instruction would keep sign and payload.
      auto const nan = __builtin_convertvector(x != x, halves);
      *reinterpret_cast<halves*>(out + i) =
          (convert(x) & ~nan) | (nan & static_cast<short>(0x7fff));
    }
    return;
  }
#endif
  for (index_t i = 0; i < 16; ++i) out[i] = from_float<T>(in[i]);
}

/// One float as T, as from_float rounds it.
template <class T>
[[nodiscard]] KVSLIM_HD inline T narrow(float x) noexcept {
#if defined(__F16C__) && !defined(__CUDACC__)
  if constexpr (std::same_as<T, f16>) {
    using float4 [[gnu::vector_size(16)]] = float;
    auto const bits = static_cast<std::uint16_t>(__builtin_ia32_vcvtps2ph(float4{x}, 0)[0]);
    return {(bits & 0x7fffu) > 0x7c00u ? std::uint16_t{0x7fff} : bits};
  } else {
    return from_float<T>(x);
  }
#else
  return from_float<T>(x);
#endif
}

/// One stored value as a float.
template <class T>
[[nodiscard]] KVSLIM_HD inline float widen(T x) noexcept {
#if defined(__F16C__) && !defined(__CUDACC__)
  if constexpr (std::same_as<T, f16>) {
    using half8 [[gnu::vector_size(16)]] = short;
    return __builtin_ia32_vcvtph2ps(half8{static_cast<short>(x.bits)})[0];
  } else {
    return to_float(x);
  }
#else
  return to_float(x);
#endif
}

}  // namespace detail

KVSLIM_END_NAMESPACE
