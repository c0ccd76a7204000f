// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The CPU kernel that takes rows to their coordinates along directions; as those of
/// encode_kernels.hpp, a caller runs its plain loop where the answer is no, to the same bits.

#include <kvslim/isa/encode_kernels.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

#if KVSLIM_DETAIL_KERNELS

/// out[i * apart + j] += row i . direction j, of n rows [dim] and `rank` directions [dim].
template <class T>
[[nodiscard]] inline bool project_rows(float const* x, index_t n, index_t dim, T const* basis,
                                       index_t rank, float* out, index_t apart) noexcept {
  return dim % 16 == 0 && with_encoders(dim, [&](auto kernels) {
           decltype(kernels)::project_rows(x, n, dim, basis, rank, out, apart);
         });
}

#else

template <class T>
[[nodiscard]] KVSLIM_HD constexpr bool project_rows(float const*, index_t, index_t, T const*,
                                                    index_t, float*, index_t) noexcept {
  return false;
}

#endif

}  // namespace detail

KVSLIM_END_NAMESPACE
