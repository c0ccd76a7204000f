// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What the integer codecs do with codes in planar units (codec/bit_parts.hpp) on the CPU.

#include <kvslim/codec/affine.hpp>
#include <kvslim/codec/bit_parts.hpp>
#include <kvslim/codec/form.hpp>
#include <kvslim/isa/attend_kernels.hpp>
#include <kvslim/isa/convert.hpp>
#include <kvslim/isa/encode_kernels.hpp>
#include <kvslim/isa/lanes.hpp>
#include <kvslim/ops/pack.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

inline constexpr index_t partial_channels = 32;  ///< dot products sum so many, then add the sums

template <class Byte>
[[nodiscard]] KVSLIM_HD inline auto* codes_of(Byte* block) noexcept {
  if constexpr (std::is_const_v<Byte>)
    return reinterpret_cast<std::uint8_t const*>(block);
  else
    return reinterpret_cast<std::uint8_t*>(block);
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
  auto const parts = key_run<Bits>(dim);
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
      parts.pack(words, codes, d / unit_quad + quad);
    }
  });
}

/// sums[h][t] = sum over all channels of q[h] * scale(channel) * code, for the 32 tokens of one
/// run. The channels are summed in pieces, which keeps rounding errors apart.
template <int Bits, index_t Heads, class Scale>
KVSLIM_HD inline void dot_codes(std::uint8_t const* codes, index_t dim, float const* q,
                                Scale const& scale,
                                local<float, Heads, unit_tokens>& sums) noexcept {
  auto const parts = key_run<Bits>(dim);
  lane_sums<Heads, unit_tokens> total;
  for (index_t begin = 0; begin < dim; begin += partial_channels) {
    lane_sums<Heads, unit_tokens> part;
    index_t const end = min(dim, begin + partial_channels);
    for (index_t d0 = begin; d0 < end; d0 += unit_quad) {
      local<std::uint32_t, unit_tokens> words;
      parts.unpack(codes, d0 / unit_quad, words);
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
