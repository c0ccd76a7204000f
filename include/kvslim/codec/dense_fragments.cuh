// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Stored rows of f16 and bf16 as what m16n8k16 takes for A. Its words are two columns of one row;
// stored ones are two tokens of one channel of K, or two channels of one token of V, which are
// columns: of two stored words the low halves are a word of one row, the high ones of another.
//
// K: rows are tokens, columns are channels {0, 4}, {8, 12} of 16, the first one for lane t. V: rows
// are channels, columns are tokens {0, 4}, {1, 5} of 8, or {2, 6}, {3, 7}. Lane 4 g + t holds
// tokens 4 g to 4 g + 3 of a run of K, and of V those from 8 t on, of channels 4 g to 4 g + 3
// of 32.

#include <kvslim/codec/dense.cuh>
#include <kvslim/codec/runs.cuh>
#include <kvslim/codec/slice_of_key.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

template <element T>
inline constexpr run_order order_of_rows =
    std::is_same_v<T, bf16> ? run_order::bf16 : run_order::f16;

/// Runs of K: two tiles.
template <element T>
requires(sizeof(T) == 2) struct key_runs<dense_key<T>> {
  static constexpr bool exist = true;
  static constexpr run_order order = order_of_rows<T>;
  using element_type = T;
  static constexpr bool by_channel = false;
  /// Power of two below which queries must be: then products with what T holds stay floats, and
  /// parts of queries T.
  static constexpr int query_exponent = std::is_same_v<T, bf16> ? -8 : 15;
  [[nodiscard]] static KVSLIM_HD constexpr int query_channel(int t, int r, int i) {
    return t + 8 * r + 4 * i;
  }
  [[nodiscard]] static constexpr bool serves(dense_key<T> const&) { return true; }

  std::uint8_t const* blocks;
  std::uint32_t tile_bytes;

  __device__ key_runs(dense_key<T> const& codec, std::byte const* first, int dim)
      : blocks(array_at<std::uint8_t>(first)),
        tile_bytes(static_cast<std::uint32_t>(codec.sizes(dim, 0).block_bytes)) {}
  [[nodiscard]] __device__ std::uint8_t const* at(int run) const {
    return blocks + static_cast<std::uint64_t>(static_cast<std::uint32_t>(run) * 2) * tile_bytes;
  }
  /// A of one tile from lane t's four channels of a step.
  static __device__ void operand(uint2 const (&from)[4], int tile, std::uint32_t (&a)[4]) {
    for (int i = 0; i < 4; i += 2) {
      std::uint32_t const one = tile == 0 ? from[i].x : from[i].y,
                          other = tile == 0 ? from[i + 1].x : from[i + 1].y;
      a[i] = low_halves(one, other);
      a[i + 1] = high_halves(one, other);
    }
  }
};

/// Runs of V: 32 rows.
template <element T>
requires(sizeof(T) == 2) struct value_runs<dense_value<T>> {
  static constexpr bool exist = true;
  static constexpr run_order order = order_of_rows<T>;
  using held = uint2[4][4];  ///< of a unit of 32 channels, of a token: four channels

  std::uint8_t const* blocks;
  std::uint32_t row_bytes;

  __device__ value_runs(dense_value<T> const& codec, std::byte const* first, int dim)
      : blocks(array_at<std::uint8_t>(first)),
        row_bytes(static_cast<std::uint32_t>(codec.sizes(dim, 0).block_bytes)) {}
  /// Whether lanes read four channels at once, and half of them what a row of 16 more holds.
  [[nodiscard]] static constexpr bool serves(dense_value<T> const&, index_t dim, bool) {
    return dim % 16 == 0;
  }
  [[nodiscard]] __device__ std::uint8_t const* run(int i) const {
    return blocks + static_cast<std::uint64_t>(static_cast<std::uint32_t>(i) * 32) * row_bytes;
  }
  /// A of one tile from tokens 0, 1, 4 and 5 of eight, or those two behind.
  static __device__ void operand(uint2 const (&from)[4], int tile, std::uint32_t (&a)[4]) {
    for (int i = 0; i < 2; ++i) {
      std::uint32_t const one = tile == 0 ? from[i].x : from[i].y,
                          other = tile == 0 ? from[i + 2].x : from[i + 2].y;
      a[2 * i] = low_halves(one, other);
      a[2 * i + 1] = high_halves(one, other);
    }
  }
};

/// V as a slice of K: tiles of 16 tokens, channel by channel, whose rows are A's as they lie.
template <element T>
requires(sizeof(T) == 2) struct value_runs<slice_of_key<dense_key<T>>> {
  static constexpr bool exist = true;
  static constexpr run_order order = order_of_rows<T>;
  using held = uint4[4][2];  ///< of 16 channels, of one of two: eight tokens

  std::uint8_t const* blocks;
  std::uint32_t tile_bytes;

  __device__ value_runs(slice_of_key<dense_key<T>> const& codec, std::byte const* first, int)
      : blocks(array_at<std::uint8_t>(first)),
        tile_bytes(static_cast<std::uint32_t>(codec.sizes(0, 0).block_bytes)) {}
  /// Whether K has the channels behind V's that lanes read too.
  [[nodiscard]] static constexpr bool serves(slice_of_key<dense_key<T>> const& codec, index_t dim,
                                             bool) {
    return round_up(dim, 32) <= codec.key_dim;
  }
  [[nodiscard]] __device__ std::uint8_t const* run(int i) const {
    return blocks + static_cast<std::uint64_t>(static_cast<std::uint32_t>(i) * 2) * tile_bytes;
  }
  /// A of one tile of 16 channels from eight tokens of two of them: tokens 0, 1, 4 and 5, or those
  /// two behind.
  static __device__ void operand(uint4 const (&from)[2], int tokens, std::uint32_t (&a)[4]) {
    for (int i = 0; i < 2; ++i) {
      std::uint32_t const one = tokens == 0 ? from[i].x : from[i].y,
                          other = tokens == 0 ? from[i].z : from[i].w;
      a[i] = low_halves(one, other);
      a[i + 2] = high_halves(one, other);
    }
  }
};

KVSLIM_END_CUDA_NAMESPACE
