// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// What corrections of codes are made of, as CPU kernels meet them (isa/correction_kernels.hpp).

#include <kvslim/core/codec.hpp>
#include <kvslim/core/elements.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

inline constexpr index_t most_directions = 16;  ///< of low_rank_sum
inline constexpr index_t most_aside = 8;        ///< that kernels set aside at an end of a line
inline constexpr index_t most_aside_row = 256;  ///< channels of a row that they do so with

/// Numbers of several heads: runs of 32 for each head `stride` floats apart, and `apart` floats
/// from one run of a head to its next.
template <class T>
struct head_floats {
  T* at;
  index_t stride, apart;

  [[nodiscard]] KVSLIM_HD T* of(index_t h, index_t i) const noexcept {
    return at + h * stride + i / run_tokens * apart + i % run_tokens;
  }
};

/// Numbers of lines, `each` of one, with their places in their lines: u8, or u16 where wide.
struct aside_numbers {
  f16 const* values;
  std::uint8_t const* places;
  index_t each;
  bool wide;

  [[nodiscard]] KVSLIM_HD index_t place(index_t i) const noexcept {
    if (!wide) return static_cast<index_t>(places[i]);
    return static_cast<index_t>(places[2 * i]) | static_cast<index_t>(places[2 * i + 1]) << 8;
  }
};

/// Division by what often is a power of two.
struct quick_divisor {
  std::uint32_t by;
  int shift;

  KVSLIM_HD explicit constexpr quick_divisor(index_t n) noexcept
      : by(static_cast<std::uint32_t>(n)), shift(0) {
    while (1u << shift < by) ++shift;
    if (1u << shift != by) shift = -1;
  }
  [[nodiscard]] KVSLIM_HD constexpr std::uint32_t operator()(std::uint32_t x) const noexcept {
    return shift >= 0 ? x >> shift : x / by;
  }
};

/// A code, and where the parameters of its group are.
template <class Param>
struct parameterized_code {
  std::uint32_t code;
  Param const* scale;
  Param const* low;
};

}  // namespace detail

KVSLIM_END_NAMESPACE
