// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The CPU kernels that set outliers aside; as those of encode_kernels.hpp, a caller runs its plain
/// loop where the answer is no. What is stored is the same to the bit.

#include <kvslim/isa/encode_kernels.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// What a function may keep of rows on the stack: 32 KiB.
inline constexpr index_t stack_rows = 8192;

#if KVSLIM_DETAIL_KERNELS

/// Calls f(floats) with room for so many where that is not too many and there are kernels; false:
/// nothing was done.
template <class F>
[[nodiscard]] inline bool with_stack_rows(index_t floats, F const& f) noexcept {
  if (floats > stack_rows || isa::current() == isa::path::portable) return false;
  alignas(64) local<float, stack_rows> room;
  return f(static_cast<float*>(room));
}
/// Sets aside `each` values at either end of every column of n rows: put(column, i, value, row).
/// `to` becomes the rows with the columns' means in their places.
template <class Put>
[[nodiscard]] inline bool set_columns_aside(float const* rows, index_t n, index_t dim, index_t each,
                                            Put const& put, float* to) noexcept {
  return each <= most_aside && with_encoders(dim, [&](auto kernels) {
           decltype(kernels)::set_columns_aside(rows, n, dim, each, put, to);
         });
}
/// The same of every row: put(row, i, value, column).
template <class Put>
[[nodiscard]] inline bool set_rows_aside(float const* rows, index_t n, index_t dim, index_t each,
                                         Put const& put, float* to) noexcept {
  return each <= most_aside && dim <= most_aside_row && with_encoders(dim, [&](auto kernels) {
           decltype(kernels)::set_rows_aside(rows, n, dim, each, put, to);
         });
}

#else

template <class F>
[[nodiscard]] KVSLIM_HD constexpr bool with_stack_rows(index_t, F const&) noexcept {
  return false;
}
template <class Put>
[[nodiscard]] KVSLIM_HD constexpr bool set_columns_aside(float const*, index_t, index_t, index_t,
                                                         Put const&, float*) noexcept {
  return false;
}
template <class Put>
[[nodiscard]] KVSLIM_HD constexpr bool set_rows_aside(float const*, index_t, index_t, index_t,
                                                      Put const&, float*) noexcept {
  return false;
}

#endif

}  // namespace detail

KVSLIM_END_NAMESPACE
