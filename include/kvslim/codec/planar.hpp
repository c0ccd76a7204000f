// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Planar units of codes as the integer codecs lay them out, in the order that dot-product
// instructions read (ops/pack.hpp, store/README.md).
//
// K: a unit is 32 tokens x 4 channels, code e = token * 4 + channel % 4. Units of one run of 32
// tokens are contiguous over channels, so a 32-bit word always holds 4 channels of one token (or a
// bit plane of it). V: a unit is 32 channels x 4 tokens, code e = channel % 32 * 4 + token.

#include <kvslim/codec/affine.hpp>
#include <kvslim/codec/form.hpp>
#include <kvslim/isa/attend_kernels.hpp>
#include <kvslim/isa/convert.hpp>
#include <kvslim/isa/encode_kernels.hpp>
#include <kvslim/isa/lanes.hpp>
#include <kvslim/ops/pack.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

inline constexpr index_t unit_tokens = 32;       ///< of a K unit
inline constexpr index_t unit_quad = 4;          ///< channels of a K unit, tokens of a V unit
inline constexpr index_t unit_channels = 32;     ///< of a V unit
inline constexpr index_t partial_channels = 32;  ///< dot products sum so many, then add the sums

template <class Byte>
[[nodiscard]] KVSLIM_HD inline auto* codes_of(Byte* block) noexcept {
  if constexpr (std::is_const_v<Byte>)
    return reinterpret_cast<std::uint8_t const*>(block);
  else
    return reinterpret_cast<std::uint8_t*>(block);
}

/// Offset of the K unit that holds channel d of token t.
template <int Bits>
[[nodiscard]] KVSLIM_HD constexpr index_t key_unit(index_t t, index_t d, index_t dim) noexcept {
  return (t / unit_tokens * (dim / unit_quad) + d / unit_quad) * ops::unit_bytes<Bits>;
}
[[nodiscard]] KVSLIM_HD constexpr index_t key_place(index_t t, index_t d) noexcept {
  return t % unit_tokens * unit_quad + d % unit_quad;
}
template <int Bits>
KVSLIM_HD inline void put_key(std::uint8_t* codes, index_t t, index_t d, index_t dim,
                              std::uint32_t code) noexcept {
  ops::put_unit<Bits>(codes + key_unit<Bits>(t, d, dim), key_place(t, d), code);
}
template <int Bits>
[[nodiscard]] KVSLIM_HD inline std::uint32_t get_key(std::uint8_t const* codes, index_t t,
                                                     index_t d, index_t dim) noexcept {
  return ops::get_unit<Bits>(codes + key_unit<Bits>(t, d, dim), key_place(t, d));
}

/// Offset of the V unit that holds channel d.
template <int Bits>
[[nodiscard]] KVSLIM_HD constexpr index_t value_unit(index_t d) noexcept {
  return d / unit_channels * ops::unit_bytes<Bits>;
}
[[nodiscard]] KVSLIM_HD constexpr index_t value_place(index_t t, index_t d) noexcept {
  return d % unit_channels * unit_quad + t;
}

/// Byte `at` of a word as a float.
[[nodiscard]] KVSLIM_HD constexpr float byte_of(std::uint32_t word, index_t at) noexcept {
  return static_cast<float>(static_cast<std::int32_t>((word >> (8 * at)) & 255u));
}

/// Calls f(n, d) for channels [d, d + n) of dim, n a constant: 32 and, at the end, four. (Compilers
/// unroll loops of 16 before they think of vector registers.)
template <class F>
KVSLIM_HD inline void by_channels(index_t dim, F const& f) noexcept {
  index_t d = 0;
  for (; d + 32 <= dim; d += 32) f(std::integral_constant<index_t, 32>{}, d);
  for (; d < dim; d += 4) f(std::integral_constant<index_t, 4>{}, d);
}

/// Codes of the 32 tokens of one run, all channels, into its units. params(t, d, n, scale, low)
/// gives what channels [d, d + n) of token t use; n is a constant.
template <int Bits, class Params>
KVSLIM_HD inline void encode_key_run(float const* rows, index_t dim, rounding mode,
                                     Params const& params, std::uint8_t* codes) noexcept {
  by_channels(dim, [&](auto channels, index_t d) {
    constexpr index_t n = decltype(channels)::value;
    local<std::uint8_t, unit_tokens, n> tile;
    for (index_t t = 0; t < unit_tokens; ++t) {
      local<float, n> scale, low;
      params(t, d, channels, scale, low);
      encode_affine<n>(rows + t * dim + d, scale, low, Bits, mode, tile[t]);
    }
    for (index_t quad = 0; quad < n / unit_quad; ++quad) {
      local<std::uint32_t, unit_tokens> words;
      for (index_t t = 0; t < unit_tokens; ++t)
        std::memcpy(words + t, tile[t] + quad * unit_quad, sizeof *words);
      ops::pack_words<Bits>(words, codes + (d / unit_quad + quad) * ops::unit_bytes<Bits>);
    }
  });
}

/// sums[h][t] = sum over all channels of q[h] * scale(channel) * code, for the 32 tokens of one
/// run. The channels are summed in pieces, which keeps rounding errors apart.
template <int Bits, index_t Heads, class Scale>
KVSLIM_HD inline void dot_codes(std::uint8_t const* codes, index_t dim, float const* q,
                                Scale const& scale,
                                local<float, Heads, unit_tokens>& sums) noexcept {
  lane_sums<Heads, unit_tokens> total;
  for (index_t begin = 0; begin < dim; begin += partial_channels) {
    lane_sums<Heads, unit_tokens> part;
    index_t const end = min(dim, begin + partial_channels);
    for (index_t d0 = begin; d0 < end; d0 += unit_quad) {
      local<std::uint32_t, unit_tokens> words;
      ops::unpack_words<Bits>(codes + d0 / unit_quad * ops::unit_bytes<Bits>, words);
      for (index_t c = 0; c < unit_quad; ++c) {
        index_t const d = d0 + c;
        float const s = scale(d);
        local<float, unit_tokens> x;
        for (index_t t = 0; t < unit_tokens; ++t) x[t] = byte_of(words[t], c);
        part.add(x, [&](index_t h) { return q[h * dim + d] * s; });
      }
    }
    total.add(part);
  }
  total.store(sums);
}

/// Sum of x(i) for i in [0, n): sixteen interleaved sums, which vector registers hold, then their
/// sum by halves.
template <class X>
[[nodiscard]] KVSLIM_HD inline float sum_of(index_t n, X const& x) noexcept {
  constexpr index_t width = 16;
  float part[width] = {};
  index_t i = 0;
  for (; i + width <= n; i += width)
    for (index_t j = 0; j < width; ++j) part[j] += x(i + j);
  for (index_t j = 0; i + j < n; ++j) part[j] += x(i + j);
  for (index_t half = width / 2; half > 0; half /= 2)
    for (index_t j = 0; j < half; ++j) part[j] += part[half + j];
  return part[0];
}

}  // namespace detail

KVSLIM_END_NAMESPACE
