// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The CPU kernels of RoPE; as those of encode_kernels.hpp, a caller runs its plain loop where the
/// answer is no, to the same bits.

#include <kvslim/isa/encode_kernels.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

#if KVSLIM_DETAIL_KERNELS

/// Sines and cosines of n angles by * each[i], all below most_turned.
[[nodiscard]] inline bool sines_and_cosines(double const* each, index_t n, double by, float* sines,
                                            float* cosines) noexcept {
  return with_encoders(2 * n, [&](auto kernels) {
    decltype(kernels)::sines_and_cosines(each, n, by, sines, cosines);
  });
}
/// Turns numbers a[i] and b[i].
[[nodiscard]] inline bool turn_pairs_of(float const* sines, float const* cosines, index_t n,
                                        float* a, float* b) noexcept {
  return with_encoders(
      2 * n, [&](auto kernels) { decltype(kernels)::turn_pairs_of(sines, cosines, n, a, b); });
}

#else

[[nodiscard]] KVSLIM_HD constexpr bool sines_and_cosines(double const*, index_t, double, float*,
                                                         float*) noexcept {
  return false;
}
[[nodiscard]] KVSLIM_HD constexpr bool turn_pairs_of(float const*, float const*, index_t, float*,
                                                     float*) noexcept {
  return false;
}

#endif

}  // namespace detail

KVSLIM_END_NAMESPACE
