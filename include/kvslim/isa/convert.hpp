// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/elements.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

#if defined(__AVX512F__) && defined(__F16C__) && !defined(__CUDACC__)
/// A mask of all lanes in the integer type that the compiler's builtin takes; g++ and clang, old
/// and new, differ in its sign.
struct all_lanes {
  template <class Mask>
  constexpr operator Mask() const noexcept {
    return static_cast<Mask>(-1);
  }
};
#endif

/// Sixteen stored values as floats. Uses the conversion instruction where the consumer's flags have
/// it (the builtin spares every consumer <immintrin.h>); the result is the same.
template <class T>
KVSLIM_HD inline void widen16(T const* in, float* out) noexcept {
#if defined(__F16C__) && !defined(__CUDACC__)
  if constexpr (std::same_as<T, f16>) {
#if defined(__AVX512F__)
    // One store of the width that the loop reads back: narrower ones could not be forwarded.
    using half16 [[gnu::vector_size(32), gnu::aligned(1), gnu::may_alias]] = short;
    using float16 [[gnu::vector_size(64), gnu::aligned(1), gnu::may_alias]] = float;
    *reinterpret_cast<float16*>(out) = __builtin_ia32_vcvtph2ps512_mask(
        *reinterpret_cast<half16 const*>(in), float16{}, all_lanes{}, 4);
#else
    using half8 [[gnu::vector_size(16), gnu::aligned(1), gnu::may_alias]] = short;
    using float8 [[gnu::vector_size(32), gnu::aligned(1), gnu::may_alias]] = float;
    for (index_t i = 0; i < 16; i += 8)
      *reinterpret_cast<float8*>(out + i) =
          __builtin_ia32_vcvtph2ps256(*reinterpret_cast<half8 const*>(in + i));
#endif
    return;
  }
#endif
  for (index_t i = 0; i < 16; ++i) out[i] = to_float(in[i]);
}

/// Sixteen floats as T, as from_float rounds them.
template <class T>
KVSLIM_HD inline void narrow16(float const* in, T* out) noexcept {
#if defined(__F16C__) && !defined(__CUDACC__)
  if constexpr (std::same_as<T, f16>) {
#if defined(__AVX512F__)
    constexpr index_t width = 16;
    using halfs [[gnu::vector_size(32), gnu::aligned(1), gnu::may_alias]] = short;
    using floats [[gnu::vector_size(64), gnu::aligned(1), gnu::may_alias]] = float;
    auto const convert = [](floats x) {
      return halfs(__builtin_ia32_vcvtps2ph512_mask(x, 0, halfs{}, all_lanes{}));
    };
#else
    constexpr index_t width = 8;
    using halfs [[gnu::vector_size(16), gnu::aligned(1), gnu::may_alias]] = short;
    using floats [[gnu::vector_size(32), gnu::aligned(1), gnu::may_alias]] = float;
    auto const convert = [](floats x) { return halfs(__builtin_ia32_vcvtps2ph256(x, 0)); };
#endif
    for (index_t i = 0; i < 16; i += width) {
      auto const x = *reinterpret_cast<floats const*>(in + i);
      auto const nan = __builtin_convertvector(
          x != x, halfs);  // all ones; the instruction would keep sign and payload
      *reinterpret_cast<halfs*>(out + i) = (convert(x) & ~nan) | (nan & static_cast<short>(0x7fff));
    }
    return;
  }
#endif
  for (index_t i = 0; i < 16; ++i) out[i] = from_float<T>(in[i]);
}

/// One stored f16 as a float.
[[nodiscard]] KVSLIM_HD inline float widen(f16 x) noexcept {
#if defined(__F16C__) && !defined(__CUDACC__)
  using half8 [[gnu::vector_size(16)]] = short;
  return __builtin_ia32_vcvtph2ps(half8{static_cast<short>(x.bits)})[0];
#else
  return to_float(x);
#endif
}

}  // namespace detail

KVSLIM_END_NAMESPACE
