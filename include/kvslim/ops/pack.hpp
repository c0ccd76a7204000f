// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Codes of 1 to 8 bits in bytes, in two orders.
///
/// *Stream*: a little-endian bit stream, first code in the lowest bits; the order of KIVI's 32-bit
/// words at 2, 4 and 8 bits. *Planar*: units of 128 codes for 1, 2, 4 and 8 bits. A unit is 16 *
/// bits bytes; code e sits in byte e % (16 * bits) at bit bits * (e / (16 * bits)). Masking (or
/// shifting and masking) a whole register therefore yields codes in order, which is what the
/// attention kernels read; see store/README.md.

#include <kvslim/core/elements.hpp>

#include <cstring>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Bytes of `count` codes in stream order.
[[nodiscard]] KVSLIM_HD constexpr index_t stream_bytes(int bits, index_t count) noexcept {
  return detail::div_up(count * bits, 8);
}

/// Writes code `i` of a stream whose bytes were zero. Codes must be below 2^Bits.
template <int Bits>
KVSLIM_HD constexpr void put_stream(std::uint8_t* bytes, index_t i, std::uint32_t code) noexcept {
  static_assert(Bits >= 1 && Bits <= 8, "kvslim: codes have 1 to 8 bits");
  index_t const bit = i * Bits;
  auto const shifted = code << (bit % 8);
  bytes[bit / 8] = static_cast<std::uint8_t>(bytes[bit / 8] | shifted);
  if (bit % 8 + Bits > 8)
    bytes[bit / 8 + 1] = static_cast<std::uint8_t>(bytes[bit / 8 + 1] | (shifted >> 8));
}

template <int Bits>
[[nodiscard]] KVSLIM_HD constexpr std::uint32_t get_stream(std::uint8_t const* bytes,
                                                           index_t i) noexcept {
  static_assert(Bits >= 1 && Bits <= 8, "kvslim: codes have 1 to 8 bits");
  index_t const bit = i * Bits;
  std::uint32_t word = bytes[bit / 8];
  if (bit % 8 + Bits > 8) word |= static_cast<std::uint32_t>(bytes[bit / 8 + 1]) << 8;
  return (word >> (bit % 8)) & ((1u << Bits) - 1u);
}

inline constexpr index_t unit_codes = 128;

template <int Bits>
inline constexpr index_t unit_bytes = index_t{16} * Bits;

/// Whether units hold codes of so many bits; others are cut into such (codec/bit_parts.hpp).
template <int Bits>
inline constexpr bool planar_bits = Bits == 1 || Bits == 2 || Bits == 4 || Bits == 8;

/// The low bits of every byte of a word.
template <int Bits>
inline constexpr std::uint32_t code_mask = ((1u << Bits) - 1u) * 0x01010101u;

/// Writes code e of a planar unit, leaving the others alone.
template <int Bits>
KVSLIM_HD constexpr void put_unit(std::uint8_t* unit, index_t e, std::uint32_t code) noexcept {
  static_assert(planar_bits<Bits>, "kvslim: planar units hold 1, 2, 4 or 8 bit codes");
  auto& byte = unit[e % unit_bytes<Bits>];
  auto const shift = static_cast<int>(e / unit_bytes<Bits>) * Bits;
  auto const mask = ((1u << Bits) - 1u) << shift;
  byte = static_cast<std::uint8_t>((byte & ~mask) | (code << shift));
}

template <int Bits>
[[nodiscard]] KVSLIM_HD constexpr std::uint32_t get_unit(std::uint8_t const* unit,
                                                         index_t e) noexcept {
  auto const shift = static_cast<int>(e / unit_bytes<Bits>) * Bits;
  return (static_cast<std::uint32_t>(unit[e % unit_bytes<Bits>]) >> shift) & ((1u << Bits) - 1u);
}

/// All 128 codes of a unit as 32 words of four: word i holds codes 4i .. 4i + 3, the first in the
/// low byte. Whole words are moved, so that compilers use vector registers.
template <int Bits>
KVSLIM_HD inline void unpack_words(std::uint8_t const* unit, std::uint32_t* words) noexcept {
  constexpr index_t each = unit_bytes<Bits> / 4;
  detail::local<std::uint32_t, each> packed;
  std::memcpy(packed, unit, sizeof packed);
  for (index_t plane = 0; plane < 8 / Bits; ++plane)
    for (index_t i = 0; i < each; ++i)
      words[plane * each + i] = (packed[i] >> (plane * Bits)) & code_mask<Bits>;
}

/// Four bytes at an address divisible by four, as one word.
[[nodiscard]] KVSLIM_HD inline std::uint32_t load_word(std::uint8_t const* at) noexcept {
  std::uint32_t word;
  std::memcpy(&word, __builtin_assume_aligned(at, 4), 4);
  return word;
}
KVSLIM_HD inline void store_word(std::uint8_t* at, std::uint32_t word) noexcept {
  std::memcpy(__builtin_assume_aligned(at, 4), &word, 4);
}

/// Word i of unpack_words alone.
template <int Bits>
[[nodiscard]] KVSLIM_HD inline std::uint32_t unit_word(std::uint8_t const* unit,
                                                       index_t i) noexcept {
  constexpr index_t each = unit_bytes<Bits> / 4;
  return (load_word(unit + i % each * 4) >> (i / each * Bits)) & code_mask<Bits>;
}

/// The way back: 32 words of four codes become a unit.
template <int Bits>
KVSLIM_HD inline void pack_words(std::uint32_t const* words, std::uint8_t* unit) noexcept {
  constexpr index_t each = unit_bytes<Bits> / 4;
  detail::local<std::uint32_t, each> packed = {};
  for (index_t plane = 0; plane < 8 / Bits; ++plane)
    for (index_t i = 0; i < each; ++i) packed[i] |= words[plane * each + i] << (plane * Bits);
  std::memcpy(unit, packed, sizeof packed);
}

}  // namespace ops

KVSLIM_END_NAMESPACE
