// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The checksum of serialized caches. It detects damage, not malice: two buffers that differ in
/// one word never have the same. ../store/README.md says what it is byte by byte.

#include <kvslim/core/config.hpp>
#include <kvslim/isa/path.hpp>

#include <cstdint>
#include <cstring>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

inline constexpr index_t checksum_lanes = 16;
inline constexpr index_t checksum_stripe = 8 * checksum_lanes;
#if defined(__GNUC__) && !defined(__CUDACC__)
#define KVSLIM_DETAIL_STRIPES [[gnu::always_inline]] inline
inline constexpr index_t checksum_words = 2;  // of a vector that every processor has
#else
#define KVSLIM_DETAIL_STRIPES inline
inline constexpr index_t checksum_words = 1;
#endif

[[nodiscard]] constexpr std::uint64_t checksum_step(std::uint64_t hash,
                                                    std::uint64_t word) noexcept {
  hash = (hash ^ word) * 0x100000001b3u;
  return hash ^ (hash >> 29);
}

/// Takes whole stripes into the sums, copying them where asked, in vectors of `Words` words. Every
/// step is one to one in the lane and in the word.
template <index_t Words, bool Copy>
KVSLIM_DETAIL_STRIPES void take_stripes(std::byte const* data, index_t bytes, std::uint64_t* sums,
                                        [[maybe_unused]] std::byte* out) noexcept {
#if defined(__GNUC__) && !defined(__CUDACC__)
  using vector [[gnu::vector_size(8 * Words)]] = std::uint64_t;
#else
  static_assert(Words == 1);
  using vector = std::uint64_t;
#endif
  constexpr std::size_t width = 8 * Words, vectors = checksum_stripe / width;
  vector state[vectors];
  std::memcpy(state, sums, checksum_stripe);
  for (index_t i = 0; i < bytes; i += checksum_stripe) {
#if defined(__GNUC__) && !defined(__CUDACC__)
#pragma GCC unroll 16
#endif
    for (std::size_t l = 0; l < vectors; ++l) {
      vector x;
      std::memcpy(&x, data + i + l * width, width);
      if constexpr (Copy) std::memcpy(out + i + l * width, &x, width);
      x ^= state[l];
      x += x << 9;
      state[l] = x ^ (x >> 29);
    }
  }
  std::memcpy(sums, state, checksum_stripe);
}

#if KVSLIM_DETAIL_X86
template <bool Copy>
[[gnu::target("avx2")]] void take_stripes_avx2(std::byte const* data, index_t bytes,
                                               std::uint64_t* sums, std::byte* out) noexcept {
  take_stripes<4, Copy>(data, bytes, sums, out);
}
template <bool Copy>
[[gnu::target("avx512f")]] void take_stripes_avx512(std::byte const* data, index_t bytes,
                                                    std::uint64_t* sums, std::byte* out) noexcept {
  take_stripes<8, Copy>(data, bytes, sums, out);
}
#endif

template <bool Copy>
[[nodiscard]] std::uint64_t checksum_and(std::byte const* data, index_t bytes, std::uint64_t hash,
                                         std::byte* out) noexcept {
  std::uint64_t sums[checksum_lanes];
  for (std::uint64_t l = 0; l < checksum_lanes; ++l) sums[l] = (l + 1) * 0x9e3779b97f4a7c15u;
  index_t i = bytes - bytes % checksum_stripe;
#if KVSLIM_DETAIL_X86
  if (isa::current() >= isa::path::avx512)
    take_stripes_avx512<Copy>(data, i, sums, out);
  else if (isa::current() == isa::path::avx2)
    take_stripes_avx2<Copy>(data, i, sums, out);
  else
#endif
    take_stripes<checksum_words, Copy>(data, i, sums, out);
  for (std::uint64_t const lane : sums) hash = checksum_step(hash, lane);
  if constexpr (Copy)
    if (bytes > i) std::memcpy(out + i, data + i, static_cast<std::size_t>(bytes - i));
  for (; i + 8 <= bytes; i += 8) {
    std::uint64_t word;
    std::memcpy(&word, data + i, sizeof word);
    hash = checksum_step(hash, word);
  }
  for (; i < bytes; ++i) hash = checksum_step(hash, static_cast<std::uint64_t>(data[i]));
  return hash;
}

/// Checksum of so many bytes at any address, which goes on from `hash`. Cost: one read.
[[nodiscard]] inline std::uint64_t checksum(std::byte const* data, index_t bytes,
                                            std::uint64_t hash) noexcept {
  return checksum_and<false>(data, bytes, hash, nullptr);
}

/// The same while copying to `out`, which must not overlap. Cost: one copy.
[[nodiscard]] inline std::uint64_t copy_with_checksum(std::byte const* data, index_t bytes,
                                                      std::uint64_t hash, std::byte* out) noexcept {
  return checksum_and<true>(data, bytes, hash, out);
}

#undef KVSLIM_DETAIL_STRIPES

}  // namespace detail

KVSLIM_END_NAMESPACE
