// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/planar.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Codes of 1 to 8 bits, of K or of V, in planar units. A width that is no power of two is cut into
/// parts of 8, 4, 2 and 1 bits (its digits in base two), high bits first, and each part lies in
/// units of its own: all units of one part, then all of the next.
template <bool Keys, int Bits>
struct bit_parts {
  static constexpr int width = Bits;
  index_t dim, tokens;  ///< of a block

  /// Units of a block; of each part there are as many.
  [[nodiscard]] KVSLIM_HD constexpr index_t units() const noexcept {
    return Keys ? tokens / unit_tokens * (dim / unit_quad)
                : tokens / unit_quad * div_up(dim, unit_channels);
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t bytes() const noexcept {
    return units() * ops::unit_bytes<1> * Bits;
  }
  [[nodiscard]] KVSLIM_HD constexpr index_t unit(index_t t, index_t d) const noexcept {
    return Keys ? t / unit_tokens * (dim / unit_quad) + d / unit_quad
                : t / unit_quad * div_up(dim, unit_channels) + d / unit_channels;
  }
  [[nodiscard]] static KVSLIM_HD constexpr index_t place(index_t t, index_t d) noexcept {
    return Keys ? key_place(t, d) : value_place(t % unit_quad, d);
  }
  /// Calls f(bits as a constant, bytes of a unit that lie in parts before it, bits below it).
  template <class F>
  static KVSLIM_HD void each(F const& f) {
    if constexpr (Bits == 8) {
      f(std::integral_constant<int, 8>{}, 0, 0);
    } else {
      if constexpr ((Bits & 4) != 0) f(std::integral_constant<int, 4>{}, 0, Bits & 3);
      if constexpr ((Bits & 2) != 0)
        f(std::integral_constant<int, 2>{}, ops::unit_bytes<1> * (Bits & 4), Bits & 1);
      if constexpr ((Bits & 1) != 0)
        f(std::integral_constant<int, 1>{}, ops::unit_bytes<1> * (Bits & 6), 0);
    }
  }
  KVSLIM_HD void put(std::uint8_t* codes, index_t t, index_t d,
                     std::uint32_t value) const noexcept {
    each([&](auto part, index_t before, int shift) {
      constexpr int bits = decltype(part)::value;
      ops::put_unit<bits>(codes + before * units() + unit(t, d) * ops::unit_bytes<bits>,
                          place(t, d), (value >> shift) & ((1u << bits) - 1u));
    });
  }
  [[nodiscard]] KVSLIM_HD std::uint32_t get(std::uint8_t const* codes, index_t t,
                                            index_t d) const noexcept {
    std::uint32_t out = 0;
    each([&](auto part, index_t before, int shift) {
      constexpr int bits = decltype(part)::value;
      out |= ops::get_unit<bits>(codes + before * units() + unit(t, d) * ops::unit_bytes<bits>,
                                 place(t, d))
             << shift;
    });
    return out;
  }
  /// All 128 codes of a unit, as ops::unpack_words gives them.
  KVSLIM_HD void unpack(std::uint8_t const* codes, index_t at,
                        std::uint32_t* words) const noexcept {
    for (index_t i = 0; i < 32; ++i) words[i] = 0;
    each([&](auto part, index_t before, int shift) {
      constexpr int bits = decltype(part)::value;
      local<std::uint32_t, 32> mine;
      ops::unpack_words<bits>(codes + before * units() + at * ops::unit_bytes<bits>, mine);
      for (index_t i = 0; i < 32; ++i) words[i] |= mine[i] << shift;
    });
  }
  /// Word i of unpack alone.
  [[nodiscard]] KVSLIM_HD std::uint32_t word(std::uint8_t const* codes, index_t at,
                                             index_t i) const noexcept {
    std::uint32_t out = 0;
    each([&](auto part, index_t before, int shift) {
      constexpr int bits = decltype(part)::value;
      out |= ops::unit_word<bits>(codes + before * units() + at * ops::unit_bytes<bits>, i)
             << shift;
    });
    return out;
  }
};

}  // namespace detail

KVSLIM_END_NAMESPACE
