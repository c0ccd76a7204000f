// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Planar units of codes as the integer codecs lay them out, in the order that dot-product
// instructions read (ops/pack.hpp, store/README.md), and codes of any width in them.
//
// K: a unit is 32 tokens x 4 channels, code e = token * 4 + channel % 4. Units of one run of 32
// tokens are contiguous over channels, so a 32-bit word always holds 4 channels of one token (or a
// bit plane of it). V: a unit is 32 channels x 4 tokens, code e = channel % 32 * 4 + token.

#include <kvslim/ops/pack.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

inline constexpr index_t unit_tokens = 32;    ///< of a K unit
inline constexpr index_t unit_quad = 4;       ///< channels of a K unit, tokens of a V unit
inline constexpr index_t unit_channels = 32;  ///< of a V unit

/// Codes of 1 to 8 bits, of K or of V, in planar units. A width that is no power of two is cut into
/// parts of 4, 2 and 1 bits (its digits in base two), high bits first, and each part lies in units
/// of its own: all units of one part, then all of the next.
template <bool Keys, int Bits>
struct bit_parts {
  static_assert(Bits >= 1 && Bits <= 8, "kvslim: codes have 1 to 8 bits");
  static constexpr int width = Bits;
  static constexpr bool one_part = ops::planar_bits<Bits>;
  static constexpr int count = one_part ? 1 : Bits == 7 ? 3 : 2;
  index_t dim, tokens;  ///< of a block

  /// A part: its bits, bytes of a unit that lie in parts before it, bits below it.
  struct part_type {
    int bits;
    index_t before;
    int shift;
  };
  [[nodiscard]] static KVSLIM_HD constexpr part_type part_of(int i) noexcept {
    int bits = 8, left = Bits;
    for (;; bits /= 2) {
      if ((left & bits) == 0) continue;
      left -= bits;
      if (i-- == 0) return {bits, ops::unit_bytes<1> * (Bits - left - bits), left};
    }
  }

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
    return Keys ? t % unit_tokens * unit_quad + d % unit_quad
                : d % unit_channels * unit_quad + t % unit_quad;
  }
  /// Calls f(bits as a constant, bytes of a unit that lie in parts before it, bits below it).
  template <int I = 0, class F>
  static KVSLIM_HD void each(F const& f) {
    constexpr part_type p = part_of(I);
    f(std::integral_constant<int, p.bits>{}, p.before, p.shift);
    if constexpr (I + 1 < count) each<I + 1>(f);
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
    if constexpr (one_part) {
      ops::unpack_words<Bits>(codes + at * ops::unit_bytes<Bits>, words);
    } else {
      for (index_t i = 0; i < 32; ++i) words[i] = 0;
      each([&](auto part, index_t before, int shift) {
        constexpr int bits = decltype(part)::value;
        local<std::uint32_t, 32> mine;
        ops::unpack_words<bits>(codes + before * units() + at * ops::unit_bytes<bits>, mine);
        for (index_t i = 0; i < 32; ++i) words[i] |= mine[i] << shift;
      });
    }
  }
  /// The way back.
  KVSLIM_HD void pack(std::uint32_t const* words, std::uint8_t* codes, index_t at) const noexcept {
    if constexpr (one_part) {
      ops::pack_words<Bits>(words, codes + at * ops::unit_bytes<Bits>);
    } else {
      each([&](auto part, index_t before, int shift) {
        constexpr int bits = decltype(part)::value;
        local<std::uint32_t, 32> mine;
        for (index_t i = 0; i < 32; ++i) mine[i] = (words[i] >> shift) & ops::code_mask<bits>;
        ops::pack_words<bits>(mine, codes + before * units() + at * ops::unit_bytes<bits>);
      });
    }
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

/// How the codes of a run of 32 keys lie.
template <int Bits>
[[nodiscard]] KVSLIM_HD constexpr bit_parts<true, Bits> key_run(index_t dim) noexcept {
  return {dim, unit_tokens};
}
/// Those of the run that holds token t, of several runs one behind the other.
template <int Bits, class Byte>
[[nodiscard]] KVSLIM_HD constexpr Byte* run_of_keys(Byte* codes, index_t t, index_t dim) noexcept {
  return codes + t / unit_tokens * key_run<Bits>(dim).bytes();
}
/// One of these codes.
template <int Bits>
[[nodiscard]] KVSLIM_HD inline std::uint32_t get_key(std::uint8_t const* codes, index_t t,
                                                     index_t d, index_t dim) noexcept {
  return key_run<Bits>(dim).get(run_of_keys<Bits>(codes, t, dim), t % unit_tokens, d);
}

}  // namespace detail

KVSLIM_END_NAMESPACE
