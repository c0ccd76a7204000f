// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Rows of 4-bit floats (e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives) with a scale for each
// few channels. Bytes are ggml's block_mxfp4 and block_nvfp4.
//
// | type | channels of a scale | scale | bytes, and of how many channels | nibbles |
// |---|---|---|---|---|
// | mxfp4 | 32 | e8m0: 2^(byte - 127) | 17 of 32: scale, nibbles | byte i: channels i and i + 16 |
// | nvfp4 | 16 | e4m3 without sign | 36 of 64: four scales, nibbles | byte i of 8: i and i + 8 |
//
// The lower channel is in the low half of its byte. A row of nvfp4 whose last 64 channels are fewer
// ends with a shorter block of the same order.

#include <kvslim/isa/convert.hpp>
#include <kvslim/isa/encode_kernels.hpp>

#include <cstring>

KVSLIM_BEGIN_NAMESPACE

enum class fp4_block : std::uint8_t { mxfp4 = 39, nvfp4 = 40 };  ///< by ggml's own numbers

/// How a value between two of e2m1 is rounded if it is as near to both, and an e4m3 scale.
enum class fp4_rounding : std::uint8_t {
  ggml,  ///< towards zero; scales upwards, from 256 on to 448, below 2^-6 to at most 7 * 2^-9
  even,  ///< to the even code, both; the sign of what becomes zero stays
};

namespace detail {

template <fp4_block Type>
struct fp4_format {
  static constexpr bool float_codes = true;  ///< what kernels of rows of blocks ask
  static constexpr bool nv = Type == fp4_block::nvfp4;
  static constexpr index_t channels = nv ? 64 : 32, scaled = nv ? 16 : 32;
  static constexpr index_t codes_at = channels / scaled, bytes = codes_at + channels / 2;

  /// Half of a block's scale, which goes with e2m1's values doubled; all bytes are something.
  [[nodiscard]] static KVSLIM_HD constexpr float half_scale(std::uint8_t byte) noexcept {
    if constexpr (nv) {
      auto const magnitude = static_cast<std::uint8_t>(byte & 0x7fu);
      return magnitude == 0x7f ? 0.0f : 0.5f * to_float(e4m3{magnitude});
    } else {
      return bit_cast<float>(byte < 2 ? 0x00200000u << byte
                                      : static_cast<std::uint32_t>(byte - 1) << 23);
    }
  }
};
static_assert(fp4_format<fp4_block::mxfp4>::bytes == 17);
static_assert(fp4_format<fp4_block::nvfp4>::bytes == 36);

/// What is read at once: 16 channels, whose scale is one, at any multiple of 16 of a row.
inline constexpr index_t fp4_piece = 16;
struct fp4_place {
  index_t scale, codes;  ///< bytes of the row
  index_t apart;         ///< channels between the two of a byte
  bool high;             ///< the piece is the high halves (mxfp4)
};
template <fp4_block Type>
[[nodiscard]] KVSLIM_HD constexpr fp4_place place_of_fp4(index_t piece, index_t dim) noexcept {
  using format = fp4_format<Type>;
  if constexpr (format::nv) {
    index_t const block = piece / 4, left = dim / fp4_piece - block * 4,
                  scales = left < 4 ? left : 4, at = block * format::bytes;
    return {at + piece % 4, at + scales + piece % 4 * 8, 8, false};
  } else {
    index_t const at = piece / 2 * format::bytes;
    return {at, at + 1, 16, piece % 2 != 0};
  }
}

/// An e2m1 code's value doubled.
[[nodiscard]] KVSLIM_HD constexpr float fp4_doubled(std::uint32_t code) noexcept {
  std::uint32_t const magnitude = code & 7u;
  float const small = bit_cast<float>((magnitude << 22) + (128u << 23)) - 2.0f;
  float const x = magnitude < 2 ? small : bit_cast<float>((magnitude << 22) + (127u << 23));
  return with_sign(x, (code & 8u) << 28);
}

/// The scale byte of channels whose largest magnitude is `most` (over the scale of all, if any).
template <fp4_block Type>
[[nodiscard]] KVSLIM_HD inline std::uint8_t fit_fp4(float most, fp4_rounding rule) noexcept {
  if constexpr (fp4_format<Type>::nv) {
    float const x = divide(most, 6.0f);
    if (rule == fp4_rounding::even) return from_float<e4m3>(x).bits;
    if (!(x > 0.0f)) return 0;
    if (x >= 256.0f) return 0x7e;
    if (x < 0.015625f) {
      auto const units = static_cast<int>(product(x, 512.0f) + 0.5f);
      return static_cast<std::uint8_t>(units < 7 ? units : 7);
    }
    auto const rounded = bit_cast<std::uint32_t>(x) + (1u << 19);
    std::uint32_t const bits = (rounded >> 20) - (120u << 3);
    return static_cast<std::uint8_t>(bits < 0x78 ? bits : 0x7e);
  } else {
    // 2^-120: nothing that is stored depends on whether subnormal floats are flushed to zero.
    if (!(most >= 7.52316385e-37f)) return 0;
    return static_cast<std::uint8_t>((bit_cast<std::uint32_t>(most) >> 23) - 2u);
  }
}
/// The code of x for a scale, which is twice `half`.
[[nodiscard]] KVSLIM_HD inline std::uint32_t fp4_code(float x, float half,
                                                      fp4_rounding rule) noexcept {
  float const size = x < 0.0f ? -x : x;
  bool const even = rule == fp4_rounding::even;
  // What lies halfway between neighbours, doubled. Products are exact for scales that are stored.
  constexpr float ties[7] = {0.5f, 1.5f, 2.5f, 3.5f, 5.0f, 7.0f, 10.0f};
  std::uint32_t code = 0;
  for (int i = 0; i < 7; ++i) {
    float const tie = ties[i] * half;
    code += size > tie || (even && i % 2 != 0 && size == tie) ? 1u : 0u;
  }
  bool const negative = (bit_cast<std::uint32_t>(x) >> 31) != 0;
  return negative && (even || code > 0) ? code | 8u : code;
}

/// Where the codes of channels with one scale go, and half of it; 0: all of them are 0.
struct opened_fp4 {
  float half;
  std::byte* codes;
};

/// A row; all's is the scale of all (1 for mxfp4).
template <fp4_block Type>
KVSLIM_HD inline void encode_fp4(float const* x, index_t dim, float all, fp4_rounding rule,
                                 std::byte* row) noexcept {
  using format = fp4_format<Type>;
  auto const open = [&](index_t d, float most) -> opened_fp4 {
    std::uint8_t const scale = fit_fp4<Type>(format::nv ? divide(most, all) : most, rule);
    fp4_place const at = place_of_fp4<Type>(d / fp4_piece, dim);
    row[at.scale] = static_cast<std::byte>(scale);
    float half = format::half_scale(scale);
    if constexpr (format::nv) half *= all;
    bool const nothing = format::nv ? !(half > 0.0f) : scale == 0;
    return {nothing ? 0.0f : half, row + at.codes};
  };
  if (encode_fp4_row<format::scaled>(x, dim, rule == fp4_rounding::even, open)) return;
  constexpr index_t apart = format::scaled / 2;  // channels between the two of a byte
  for (index_t d = 0; d < dim; d += format::scaled) {
    float most = 0.0f;
    for (index_t c = d; c < d + format::scaled; ++c) {
      float const size = x[c] < 0.0f ? -x[c] : x[c];
      most = size > most ? size : most;
    }
    auto const [half, codes] = open(d, most);
    for (index_t c = 0; c < apart; ++c) {
      std::uint32_t const low = half > 0.0f ? fp4_code(x[d + c], half, rule) : 0u,
                          high = half > 0.0f ? fp4_code(x[d + c + apart], half, rule) : 0u;
      codes[c] = static_cast<std::byte>(low | high << 4);
    }
  }
}

/// Channels [16 * piece, 16 * piece + 16) of a row, without the scale of all.
template <fp4_block Type>
KVSLIM_HD inline void load_fp4(std::byte const* row, index_t piece, index_t dim,
                               float* x) noexcept {
  fp4_place const at = place_of_fp4<Type>(piece, dim);
  float const half = fp4_format<Type>::half_scale(static_cast<std::uint8_t>(row[at.scale]));
  for (index_t c = 0; c < fp4_piece; ++c) {
    auto const byte = static_cast<std::uint32_t>(row[at.codes + c % at.apart]);
    x[c] = fp4_doubled(at.high || c >= at.apart ? byte >> 4 : byte & 15u) * half;
  }
}
/// Channel d of a row.
template <fp4_block Type>
[[nodiscard]] KVSLIM_HD inline float fp4_value(std::byte const* row, index_t d,
                                               index_t dim) noexcept {
  fp4_place const at = place_of_fp4<Type>(d / fp4_piece, dim);
  auto const byte = static_cast<std::uint32_t>(row[at.codes + d % at.apart]);
  bool const high = at.high || d % fp4_piece >= at.apart;
  return fp4_doubled(high ? byte >> 4 : byte & 15u) *
         fp4_format<Type>::half_scale(static_cast<std::uint8_t>(row[at.scale]));
}

}  // namespace detail

KVSLIM_END_NAMESPACE
