// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Floats of 8 bits as what m16n8k16 takes for A: a byte of two stored words each makes a word of
// two f16, which hold every e5m2, and every e4m3 times 2^-8. Rows and columns are those of
// codec/dense_fragments.cuh.

#include <kvslim/codec/dense.cuh>
#include <kvslim/codec/fp8_rows.hpp>
#include <kvslim/codec/planar.hpp>
#include <kvslim/codec/runs.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// What f16 words hold of T.
template <element T>
struct byte_fragments {
  static constexpr int exponent = std::is_same_v<T, e4m3> ? 8 : 0;  ///< of two, that they lack

  /// Byte k of either word.
  [[nodiscard]] static __device__ std::uint32_t halves_of(std::uint32_t low, std::uint32_t high,
                                                          int k) {
#if defined(__CUDA_ARCH__)
    std::uint32_t const x = __byte_perm(low, high, static_cast<unsigned>(k << 4 | (4 + k) << 12));
#else
    std::uint32_t const x = (low >> 8 * k & 255u) << 8 | (high >> 8 * k & 255u) << 24;
#endif
    if constexpr (exponent == 0)
      return x & 0xff00ff00u;
    else
      return (x >> 1 & 0x3f803f80u) | (x & 0x80008000u);
  }
  /// A of one tile of K from lane t's four channels of a step, four tokens each.
  static __device__ void key_operand(std::uint32_t const (&from)[4], int tile,
                                     std::uint32_t (&a)[4]) {
    for (int i = 0; i < 4; ++i)
      a[i] = halves_of(from[i / 2 * 2], from[i / 2 * 2 + 1], 2 * tile + i % 2);
  }
  /// A of one tile of V from tokens 0, 1, 4 and 5 of eight, or those two behind, four channels
  /// each.
  static __device__ void value_operand(std::uint32_t const (&from)[4], int tile,
                                       std::uint32_t (&a)[4]) {
    for (int i = 0; i < 4; ++i) a[i] = halves_of(from[i / 2], from[i / 2 + 2], 2 * tile + i % 2);
  }
};

/// Runs of K or V: 32 tokens, and what scales them.
template <element T>
struct byte_runs {
  static constexpr bool exist = true;
  static constexpr run_order order = run_order::bytes;
  using fragments = byte_fragments<T>;

  std::uint8_t const* blocks;
  std::uint32_t run_bytes, row_bytes;
  float scale;  // of all tokens; 0: each has its own, behind the codes

  __device__ byte_runs(std::byte const* first, int dim, bool scaled, float of_all)
      : blocks(codes_of(first)),
        run_bytes(static_cast<std::uint32_t>(32 * (dim + (scaled ? 4 : 0)))),
        row_bytes(static_cast<std::uint32_t>(dim)),
        scale(scaled ? 0.0f : of_all) {}
  [[nodiscard]] __device__ std::uint8_t const* at(int run) const {
    return blocks + static_cast<std::uint64_t>(static_cast<std::uint32_t>(run)) * run_bytes;
  }
  /// Scales of four tokens of a run.
  __device__ void scales_of(int run, int first, float (&to)[4]) const {
    if (scale > 0.0f) {
      for (float& x : to) x = scale;
      return;
    }
    auto const four =
        read_only<uint4>(at(run) + 32 * row_bytes + 4 * static_cast<std::uint32_t>(first));
    to[0] = bit_cast<float>(four.x);
    to[1] = bit_cast<float>(four.y);
    to[2] = bit_cast<float>(four.z);
    to[3] = bit_cast<float>(four.w);
  }
};
template <element T>
struct byte_key_runs : byte_runs<T> {
  using element_type = f16;  ///< of queries
  static constexpr bool by_channel = false;
  static constexpr int query_exponent = 15;
  using byte_runs<T>::byte_runs;
  [[nodiscard]] static KVSLIM_HD constexpr int query_channel(int t, int r, int i) {
    return t + 8 * r + 4 * i;
  }
};

template <element T, element Tail>
struct key_runs<fp8_rows<true, T, Tail>> : byte_key_runs<T> {
  using codec_type = fp8_rows<true, T, Tail>;
  __device__ key_runs(codec_type const& codec, std::byte const* first, int dim)
      : byte_key_runs<T>(first, dim, codec.scale == 0.0f, codec.scale) {}
  [[nodiscard]] static constexpr bool serves(codec_type const& codec) { return codec.group == 0; }
};
template <element T, element Tail>
struct value_runs<fp8_rows<false, T, Tail>> : byte_runs<T> {
  using codec_type = fp8_rows<false, T, Tail>;
  __device__ value_runs(codec_type const& codec, std::byte const* first, int dim)
      : byte_runs<T>(first, dim, codec.scale == 0.0f, codec.scale) {}
  [[nodiscard]] static constexpr bool serves(codec_type const& codec, index_t dim, bool) {
    return codec.group == 0 && dim % 16 == 0;
  }
};
template <element T>
requires(sizeof(T) == 1) struct key_runs<dense_key<T>> : byte_key_runs<T> {
  __device__ key_runs(dense_key<T> const&, std::byte const* first, int dim)
      : byte_key_runs<T>(first, dim, false, 1.0f) {}
  [[nodiscard]] static constexpr bool serves(dense_key<T> const&) { return true; }
};
template <element T>
requires(sizeof(T) == 1) struct value_runs<dense_value<T>> : byte_runs<T> {
  __device__ value_runs(dense_value<T> const&, std::byte const* first, int dim)
      : byte_runs<T>(first, dim, false, 1.0f) {}
  [[nodiscard]] static constexpr bool serves(dense_value<T> const&, index_t dim, bool) {
    return dim % 16 == 0;
  }
};

KVSLIM_END_CUDA_NAMESPACE
