// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/types.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Sixteen stored values as floats. Uses the conversion instruction where the consumer's flags have it (the builtin spares every
/// consumer <immintrin.h>); the result is the same.
template <class T>
KVSLIM_HD inline void widen16(T const* in, float* out) noexcept {
#if defined(__F16C__) && !defined(__CUDACC__)
  if constexpr (std::same_as<T, f16>) {
#if defined(__AVX512F__)
    // One store of the width that the loop reads back: narrower ones could not be forwarded.
    using half16 [[gnu::vector_size(32), gnu::aligned(1), gnu::may_alias]] = short;
    using float16 [[gnu::vector_size(64), gnu::aligned(1), gnu::may_alias]] = float;
    *reinterpret_cast<float16*>(out) = __builtin_ia32_vcvtph2ps512_mask(*reinterpret_cast<half16 const*>(in), float16{}, static_cast<short>(-1), 4);
#else
    using half8 [[gnu::vector_size(16), gnu::aligned(1), gnu::may_alias]] = short;
    using float8 [[gnu::vector_size(32), gnu::aligned(1), gnu::may_alias]] = float;
    for (index_t i = 0; i < 16; i += 8)
      *reinterpret_cast<float8*>(out + i) = __builtin_ia32_vcvtph2ps256(*reinterpret_cast<half8 const*>(in + i));
#endif
    return;
  }
#endif
  for (index_t i = 0; i < 16; ++i) out[i] = to_float(in[i]);
}

/// One stored f16 as a float, likewise.
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
