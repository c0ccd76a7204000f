// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Planar units by a warp: lanes own stored words when they encode, a token's key or a channel's
// values when they read.

#include <kvslim/codec/planar.hpp>
#include <kvslim/core/codec.cuh>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Words of a unit's bit plane, and the codes' bit planes of a unit.
template <int Bits>
inline constexpr int plane_words = static_cast<int>(ops::unit_bytes<Bits>) / 4;
template <int Bits>
inline constexpr int planes = 8 / Bits;

[[nodiscard]] __device__ inline int lane() { return static_cast<int>(threadIdx.x) % warp_threads; }

/// Range of `count` values by one lane, which starts where its neighbours do not: rows in shared
/// memory then meet no bank twice.
[[nodiscard]] __device__ inline ops::range lane_range(float const* x, int count) {
  int i = static_cast<int>(threadIdx.x) % count;
  ops::range r{x[i], x[i]};
  for (int n = 1; n < count; ++n) {
    i = i + 1 == count ? 0 : i + 1;
    ops::widen_ranges<1>(x + i, &r.low, &r.high);
  }
  return r;
}

/// Stores the words of a key unit: codes(token) gives the four codes of one token, a byte each.
template <int Bits, class Code>
__device__ void store_key_words(std::uint8_t* unit, Code const& codes) {
  for (int i = 0; i < plane_words<Bits>; ++i) {
    std::uint32_t word = 0;
    for (int plane = 0; plane < planes<Bits>; ++plane)
      word |= codes(plane * plane_words<Bits> + i) << (plane * Bits);
    ops::store_word(unit + 4 * i, word);
  }
}

/// What store_key_words asks for: four channels of one token, encoded.
template <class Parameters>
[[nodiscard]] __device__ std::uint32_t quad_codes(float const* x, Parameters const& parameters,
                                                  int bits, rounding mode) {
  std::uint32_t word = 0;
  for (int c = 0; c < 4; ++c) word |= encode_affine(x[c], parameters(c), bits, mode) << (8 * c);
  return word;
}

/// Calls use(d, code) for every channel of one token of a run of 32 (its place in the run).
template <int Bits, class Use>
__device__ void each_key_code(std::uint8_t const* units, int token, int dim, Use const& use) {
  for (int quad = 0; quad < dim / 4; ++quad) {
    std::uint32_t const word =
        ops::unit_word<Bits>(units + quad * static_cast<int>(ops::unit_bytes<Bits>), token);
    for (int c = 0; c < 4; ++c) use(quad * 4 + c, byte_of(word, c));
  }
}

}  // namespace detail

KVSLIM_END_NAMESPACE
