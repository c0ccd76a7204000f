// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/core/config.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

inline constexpr index_t digit_heads = 4;       ///< query heads whose digits are used together
inline constexpr index_t digit_channels = 128;  ///< channels of them, likewise

/// Numbers of up to four query heads as signed digits of 8 bits: the word 4 * i + k holds digit k,
/// the lowest first, of the four numbers from 4 * i on.
struct digit_rows {
  alignas(64) std::uint32_t digits[digit_heads][digit_channels];
  float step[digit_heads];  ///< what a number means
  float base[digit_heads];  ///< what sums begin at
  float total[digit_heads];
  float const* from;         ///< the numbers, where they last,
  std::int16_t heads, bits;  ///< how many heads', and what codes they are made for
  std::int32_t uncut;        ///< numbers of each head that are floats still, all or none
};
inline constexpr auto digit_row_floats = static_cast<index_t>(sizeof(digit_rows) / sizeof(float));
inline constexpr index_t digit_room = 4;      ///< how many of them kernels work in
inline constexpr index_t own_digit_room = 3;  ///< where there is no VNNI
/// How many of them hold the queries of a pass over a row.
[[nodiscard]] constexpr index_t digit_rows_of(index_t heads, index_t dim) noexcept {
  return div_up(heads, digit_heads) * div_up(dim, digit_channels);
}

}  // namespace detail

KVSLIM_END_NAMESPACE
