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
    using half8 [[gnu::vector_size(16), gnu::aligned(1), gnu::may_alias]] = short;
    using float8 [[gnu::vector_size(32), gnu::aligned(1), gnu::may_alias]] = float;
    for (index_t i = 0; i < 16; i += 8)
      *reinterpret_cast<float8*>(out + i) = __builtin_ia32_vcvtph2ps256(*reinterpret_cast<half8 const*>(in + i));
    return;
  }
#endif
  for (index_t i = 0; i < 16; ++i) out[i] = to_float(in[i]);
}

}  // namespace detail

KVSLIM_END_NAMESPACE
