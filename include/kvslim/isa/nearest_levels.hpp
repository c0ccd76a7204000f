// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Coding by codebooks: which level is next to each channel, by kernels. To the bit what
/// detail::nearest_level finds of (x - middle) / half, or of 0 where half is not positive.

#include <kvslim/isa/encode_kernels.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

#if KVSLIM_DETAIL_KERNELS

inline constexpr index_t level_chunk = 128;  ///< channels that are coded before they are packed

/// K of 32 tokens. of(d, middle, half) gives a channel's; put(d, words) gets four channels from d
/// on, token t's as the bytes of word t.
template <int Bits, class Of, class Put>
[[nodiscard]] inline bool nearest_of_keys(float const* rows, index_t dim, float const* levels,
                                          Of const& of, Put const& put) noexcept {
  return with_encoders(dim, [&](auto kernels) {
    alignas(64) local<float, level_chunk> middle, half;
    alignas(64) local<std::uint8_t, run_tokens * level_chunk> codes;
    for (index_t begin = 0; begin < dim; begin += level_chunk) {
      index_t const n = min(level_chunk, dim - begin);
      for (index_t d = 0; d < n; ++d) of(begin + d, middle[d], half[d]);
      for (index_t t = 0; t < run_tokens; ++t)
        decltype(kernels)::template nearest_levels<Bits, true>(
            rows + t * dim + begin, n, middle, half, levels, codes + t * level_chunk);
      for (index_t d = 0; d < n; d += 4) {
        local<std::uint32_t, run_tokens> words;
        for (index_t t = 0; t < run_tokens; ++t)
          __builtin_memcpy(words + t, codes + t * level_chunk + d, sizeof *words);
        put(begin + d, words);
      }
    }
  });
}
/// V of four tokens, each with one middle and half; put(d, words) gets 32 channels from d on, token
/// t's in byte t of a channel's word. Channels beyond the last are 0.
template <int Bits, class Put>
[[nodiscard]] inline bool nearest_of_values(float const* rows, index_t dim, float const* levels,
                                            float const* middle, float const* half,
                                            Put const& put) noexcept {
  return with_encoders(dim, [&](auto kernels) {
    constexpr index_t wide = 32;
    for (index_t d = 0; d < dim; d += wide) {
      alignas(64) local<std::uint8_t, 4 * wide> codes = {};
      for (index_t t = 0; t < 4; ++t)
        decltype(kernels)::template nearest_levels<Bits, false>(
            rows + t * dim + d, min(wide, dim - d), middle + t, half + t, levels, codes + t * wide);
      local<std::uint32_t, wide> words;
      for (index_t c = 0; c < wide; ++c)
        words[c] = codes[c] | static_cast<std::uint32_t>(codes[wide + c]) << 8 |
                   static_cast<std::uint32_t>(codes[2 * wide + c]) << 16 |
                   static_cast<std::uint32_t>(codes[3 * wide + c]) << 24;
      put(d, words);
    }
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

#endif

}  // namespace detail

KVSLIM_END_NAMESPACE
