// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The CPU kernel that reads V out of K's tiles; as those of attend_kernels.hpp, a caller runs its
/// plain loop where the answer is no.

#include <kvslim/isa/attend_kernels.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

#if KVSLIM_DETAIL_KERNELS

/// V as the first at.dim channels of K in tiles of 16 tokens, T[key_dim][16] each.
template <class T>
[[nodiscard]] inline bool accumulate_tiles(std::byte const* block, index_t key_dim, site const& at,
                                           float const* p, index_t heads, float* out) noexcept {
  return with_kernels(heads, [&](auto kernels, index_t m, index_t h) {
    decltype(kernels)::template accumulate_tiles<T>(array_at<T>(block), key_dim, at,
                                                    p + h * run_tokens, m, out + h * at.dim);
  });
}

#else

template <class T, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool accumulate_tiles(Args const&...) noexcept {
  return false;
}

#endif

}  // namespace detail

KVSLIM_END_NAMESPACE
