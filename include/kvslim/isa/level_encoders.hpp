// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Coding by levels that are no equal steps, by kernels, and packing whole planar units; what is
/// stored is the same to the bit as by plain loops.

#include <kvslim/isa/encode_kernels.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

#if KVSLIM_DETAIL_KERNELS

inline constexpr index_t level_chunk = 128;  ///< channels that are coded before they are packed

/// K of 32 tokens, four channels of all to a unit: code(t, d, n, out) finds the codes of token t's
/// channels [d, d + n) as bytes, put(d, words) gets four channels from d on, token t's in word t.
template <class Code, class Put>
inline void put_key_units(index_t dim, Code const& code, Put const& put) noexcept {
  alignas(64) local<std::uint8_t, run_tokens * level_chunk> codes;
  for (index_t begin = 0; begin < dim; begin += level_chunk) {
    index_t const n = min(level_chunk, dim - begin);
    for (index_t t = 0; t < run_tokens; ++t) code(t, begin, n, codes + t * level_chunk);
    for (index_t d = 0; d < n; d += 4) {
      local<std::uint32_t, run_tokens> words;
      for (index_t t = 0; t < run_tokens; ++t)
        __builtin_memcpy(words + t, codes + t * level_chunk + d, sizeof *words);
      put(begin + d, static_cast<std::uint32_t const*>(words));
    }
  }
}
/// V of four tokens, 32 channels of all to a unit: put(d, words) gets those from d on, token t's in
/// byte t of a channel's word; channels beyond the last are 0.
template <class Code, class Put>
inline void put_value_units(index_t dim, Code const& code, Put const& put) noexcept {
  constexpr index_t wide = 32;
  for (index_t d = 0; d < dim; d += wide) {
    alignas(64) local<std::uint8_t, 4 * wide> codes = {};
    for (index_t t = 0; t < 4; ++t) code(t, d, min(wide, dim - d), codes + t * wide);
    local<std::uint32_t, wide> words;
    for (index_t c = 0; c < wide; ++c)
      words[c] = codes[c] | static_cast<std::uint32_t>(codes[wide + c]) << 8 |
                 static_cast<std::uint32_t>(codes[2 * wide + c]) << 16 |
                 static_cast<std::uint32_t>(codes[3 * wide + c]) << 24;
    put(d, static_cast<std::uint32_t const*>(words));
  }
}
template <bool Keys, class Code, class Put>
inline void put_units(index_t dim, Code const& code, Put const& put) noexcept {
  if constexpr (Keys)
    put_key_units(dim, code, put);
  else
    put_value_units(dim, code, put);
}

/// K of 32 tokens: which level is next to (x - middle) / half, 0 where half is not positive.
/// of(d, middle, half) gives a channel's.
template <int Bits, class Of, class Put>
[[nodiscard]] inline bool nearest_of_keys(float const* rows, index_t dim, float const* levels,
                                          Of const& of, Put const& put) noexcept {
  return with_encoders(dim, [&](auto kernels) {
    alignas(64) local<float, level_chunk> middle, half;
    put_key_units(
        dim,
        [&](index_t t, index_t begin, index_t n, std::uint8_t* out) {
          for (index_t d = 0; d < n && t == 0; ++d) of(begin + d, middle[d], half[d]);
          decltype(kernels)::template nearest_levels<Bits, true>(rows + t * dim + begin, n, middle,
                                                                 half, levels, out);
        },
        put);
  });
}
/// V of four tokens, with one middle and half each.
template <int Bits, class Put>
[[nodiscard]] inline bool nearest_of_values(float const* rows, index_t dim, float const* levels,
                                            float const* middle, float const* half,
                                            Put const& put) noexcept {
  return with_encoders(dim, [&](auto kernels) {
    put_value_units(
        dim,
        [&](index_t t, index_t d, index_t n, std::uint8_t* out) {
          decltype(kernels)::template nearest_levels<Bits, false>(rows + t * dim + d, n, middle + t,
                                                                  half + t, levels, out);
        },
        put);
  });
}
/// Whether the kernels below code rows of so many channels; they are for those alone.
[[nodiscard]] inline bool codes_levels(index_t dim) noexcept {
  return with_encoders(dim, [](auto) {});
}
/// K of 32 tokens or V of four: how many of the 2^Bits - 1 `bounds` are below x * factor[token].
template <bool Keys, int Bits, class Put>
inline void count_bounds_below(float const* rows, index_t dim, float const* factor,
                               float const* bounds, Put const& put) noexcept {
  with_encoders(dim, [&](auto kernels) {
    put_units<Keys>(
        dim,
        [&](index_t t, index_t d, index_t n, std::uint8_t* out) {
          decltype(kernels)::template bounds_below<Bits>(rows + t * dim + d, n, factor[t], bounds,
                                                         out);
        },
        put);
  });
}
/// The same tokens: 1 where x is not negative.
template <bool Keys, class Put>
inline void signs_of(float const* rows, index_t dim, Put const& put) noexcept {
  with_encoders(dim, [&](auto kernels) {
    put_units<Keys>(
        dim,
        [&](index_t t, index_t d, index_t n, std::uint8_t* out) {
          decltype(kernels)::not_negative(rows + t * dim + d, n, out);
        },
        put);
  });
}
/// x -= size * levels[how many bounds are below x * factor], rounded once.
template <int Bits>
inline void take_levels(float* x, index_t dim, float factor, float const* bounds,
                        float const* levels, double size) noexcept {
  with_encoders(dim, [&](auto kernels) {
    decltype(kernels)::template take_levels<Bits>(x, dim, factor, bounds, levels, size);
  });
}

#else

template <int Bits, class Of, class Put>
[[nodiscard]] KVSLIM_HD constexpr bool nearest_of_keys(float const*, index_t, float const*,
                                                       Of const&, Put const&) noexcept {
  return false;
}
template <int Bits, class Put>
[[nodiscard]] KVSLIM_HD constexpr bool nearest_of_values(float const*, index_t, float const*,
                                                         float const*, float const*,
                                                         Put const&) noexcept {
  return false;
}
[[nodiscard]] KVSLIM_HD constexpr bool codes_levels(index_t) noexcept { return false; }
template <bool Keys, int Bits, class Put>
KVSLIM_HD constexpr void count_bounds_below(float const*, index_t, float const*, float const*,
                                            Put const&) noexcept {}
template <bool Keys, class Put>
KVSLIM_HD constexpr void signs_of(float const*, index_t, Put const&) noexcept {}
template <int Bits>
KVSLIM_HD constexpr void take_levels(float*, index_t, float, float const*, float const*,
                                     double) noexcept {}

#endif

}  // namespace detail

KVSLIM_END_NAMESPACE
