// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The CPU kernels that rebuild keys tile by tile; as those of attend_kernels.hpp, a caller runs
/// its plain loop where the answer is no.

#include <kvslim/isa/attend_kernels.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

#if KVSLIM_DETAIL_KERNELS

/// Turns `pairs` rows of a tile, `apart` rows from one to the next, against those `other` rows
/// behind them; turns[pairs] of detail::rope_turns, positions[32].
[[nodiscard]] inline bool turn_tile(float* tile, index_t pairs, index_t apart, index_t other,
                                    std::uint64_t const* turns,
                                    std::int32_t const* positions) noexcept {
  return with_kernels(1, [&](auto kernels, index_t, index_t) {
    decltype(kernels)::turn_pairs(tile, pairs, apart, other, turns, positions);
  });
}
/// Adds q[h] . rows of a tile to sums[h][32]; q is `dim` floats from one head to the next.
[[nodiscard]] inline bool dot_tile(float const* tile, index_t rows, float const* q, index_t heads,
                                   index_t dim, float* sums) noexcept {
  return with_kernels(heads, [&](auto kernels, index_t m, index_t h) {
    decltype(kernels)::dot_rows_of_tile(tile, rows, q + h * dim, m, dim, sums + h * run_tokens);
  });
}
/// Fills rows of a tile with what codes stand for between the thresholds of their channels.
template <int Bits>
[[nodiscard]] inline bool level_tile(level_codes const& codes, index_t unit, index_t quads,
                                     float const* lower, float const* upper, float* tile) noexcept {
  return with_kernels(1, [&](auto kernels, index_t, index_t) {
    decltype(kernels)::template fill_levels<Bits>(codes, unit, quads, lower, upper, tile);
  });
}
/// Adds the sum of z[j] * y[j][c] to rows c of a tile, z in tiles T[..][16].
template <class T>
[[nodiscard]] inline bool latent_tile(T const* z, index_t apart, index_t ranks, float const* y,
                                      index_t pitch, index_t rows, float* tile) noexcept {
  return with_kernels(1, [&](auto kernels, index_t, index_t) {
    decltype(kernels)::template add_latents<T>(z, apart, ranks, y, pitch, rows, tile);
  });
}

/// q[h] . row i of n rows of T that lie `apart` bytes from each other, to to[h * stride + i].
template <class T>
[[nodiscard]] inline bool dot_spaced(std::byte const* in, index_t apart, index_t dim, index_t n,
                                     float const* q, index_t heads, float* to,
                                     index_t stride) noexcept {
  for (index_t h = 0; h < heads; h += run_heads)
    if (!with_kernels(min(run_heads, heads - h), [&](auto kernels, index_t m, index_t first) {
          by_kernel_heads(m, [&](auto count) {
            decltype(kernels)::template dot_spaced<T, decltype(count)::value>(
                in, apart, dim, n, q + (h + first) * dim, to + (h + first) * stride, stride);
          });
        }))
      return false;
  return true;
}

#else

template <class T, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool dot_spaced(Args const&...) noexcept {
  return false;
}
template <class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool turn_tile(Args const&...) noexcept {
  return false;
}
template <class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool dot_tile(Args const&...) noexcept {
  return false;
}
template <int Bits, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool level_tile(Args const&...) noexcept {
  return false;
}
template <class T, class... Args>
[[nodiscard]] KVSLIM_HD constexpr bool latent_tile(Args const&...) noexcept {
  return false;
}

#endif

}  // namespace detail

KVSLIM_END_NAMESPACE
