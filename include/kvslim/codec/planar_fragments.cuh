// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Planar units of 2, 4 and 8 bits as what m16n8k16 takes for A: a masked word of a unit is two f16
// whose values are the codes times 2^-24 (subnormal, which matrix units honour) and a power of two
// for the bit plane. Nothing is shuffled or converted.
//
// K: rows are tokens, columns are channels {0, 2, 1, 3} of a quad for each lane t, 16 channels a
// step. V: rows are channels, columns are tokens {0, 2, 1, 3} of a block of four. A run of 32
// tokens is two tiles of 16 rows; lane 4 g + t holds rows g ("half" 0) and g + 8 ("half" 1).

#include <kvslim/codec/channel_key.hpp>
#include <kvslim/codec/planar.cuh>
#include <kvslim/codec/prompt_channel_key.hpp>
#include <kvslim/codec/runs.cuh>
#include <kvslim/codec/token_key.hpp>
#include <kvslim/codec/token_value.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

template <int Bits>
inline constexpr bool unit_fragments_exist = Bits == 2 || Bits == 4 || Bits == 8;

template <int Bits>
struct unit_fragments {
  static_assert(unit_fragments_exist<Bits>);
  static constexpr int words = Bits / 2;  ///< of a unit that a lane holds

  /// Power of two that the codes of a tile's half hold too much.
  [[nodiscard]] static KVSLIM_HD constexpr int shift(int tile, int half) {
    return Bits == 2 ? 2 * (2 * tile + half) : Bits == 4 ? 4 * half : 0;
  }
  /// Token of a run that row g of a tile's half is: that of row g of the first one, and so many
  /// blocks of four and tokens of a block.
  [[nodiscard]] static __device__ int token(int g) { return Bits == 2 ? turned(g) : 2 * g; }
  [[nodiscard]] static KVSLIM_HD constexpr int block_step(int tile, int half) {
    return Bits == 2 ? 2 * (2 * tile + half) : 4 * half;
  }
  [[nodiscard]] static KVSLIM_HD constexpr int token_step(int tile) { return Bits == 2 ? 0 : tile; }
  /// Channel of a unit of V that row g of a tile's half is.
  [[nodiscard]] static __device__ int channel(int tile, int half, int g) {
    return Bits == 2 ? 8 * (2 * tile + half) + g : 16 * half + 2 * g + tile;
  }
  /// V's block of four tokens that lane t reads for the first step of a run; for the second it is
  /// the fourth behind that.
  [[nodiscard]] static __device__ int block(int t) { return Bits == 2 ? 2 * (t % 2) + t / 2 : t; }

  /// Bytes from a unit of K, or of V, to what lanes of row g read of it.
  [[nodiscard]] static __device__ int key_row(int g) { return Bits == 2 ? 4 * turned(g) : 8 * g; }
  [[nodiscard]] static __device__ int value_row(int g) { return Bits == 2 ? 4 * g : 8 * g; }
  static __device__ void load(std::uint8_t const* from, std::uint32_t (&to)[words]) {
    if constexpr (Bits == 2) {
      to[0] = read_only<std::uint32_t>(from);
    } else {
      for (int i = 0; i < words; i += 2) {
        auto const two = read_only<uint2>(from + 32 * i);
        to[i] = two.x;
        to[i + 1] = two.y;
      }
    }
  }
  /// A of one tile.
  static __device__ void operand(std::uint32_t const (&from)[words], int tile,
                                 std::uint32_t (&a)[4]) {
    if constexpr (Bits == 8) {
      for (int i = 0; i < 4; ++i) a[i] = from[tile + 2 * (i % 2)] >> (8 * (i / 2)) & 0x00ff00ffu;
    } else {
      constexpr std::uint32_t codes = Bits == 4 ? 0x000f000fu : 0x00030003u;
      std::uint32_t const low = from[Bits == 4 ? tile : 0], high = low >> 8;
      a[0] = low & codes << shift(tile, 0);
      a[1] = low & codes << shift(tile, 1);
      a[2] = high & codes << shift(tile, 0);
      a[3] = high & codes << shift(tile, 1);
    }
  }
  /// B of one step over V from weights [tile][half], each a word of what row g of that tile and
  /// half weighs in columns 2t and 2t + 1.
  static __device__ void weights(std::uint32_t const (&p)[2][2], int step, std::uint32_t (&b)[2]) {
    if constexpr (Bits == 2) {
      bool const odd = threadIdx.x % 2 != 0;  // pairs of lanes hold halves of two blocks
      std::uint32_t const kept = odd ? p[step][1] : p[step][0],
                          given = odd ? p[step][0] : p[step][1],
                          got = __shfl_xor_sync(0xffffffffu, given, 1);
      b[0] = odd ? got : kept;
      b[1] = odd ? kept : got;
    } else {
      b[0] = p[0][step];
      b[1] = p[1][step];
    }
  }

 private:
  /// The order in which 2-bit words are read, so that tokens of one block of V meet.
  [[nodiscard]] static __device__ int turned(int g) {
    return (g & 4) | (g & 1) << 1 | (g & 2) >> 1;
  }
};

/// Where a run's units and parameters begin.
struct run_place {
  std::uint8_t const* codes;
  std::uint8_t const* scale;  ///< f16, then as many minimums
};

template <int Bits>
inline constexpr run_order order_of_codes = Bits == 2 ? run_order::two_bits : run_order::codes;

/// Runs of K in blocks of one run or several; parameters are channels' or tokens'.
template <int Bits, class Codec, bool ByChannel = Codec::traits.whole_blocks>
struct planar_key_runs {
  static constexpr bool exist = unit_fragments_exist<Bits>;
  static constexpr run_order order = order_of_codes<Bits>;
  using element_type = f16;  ///< of queries
  static constexpr int bits = Bits;
  static constexpr bool by_channel = ByChannel;
  /// Power of two below which queries must be, so that they stay f16 when they are multiplied by
  /// the largest scale that there is: 2^17 / (2^Bits - 1).
  static constexpr int query_exponent = !by_channel ? 15 : Bits == 2 ? 0 : Bits == 4 ? 2 : 6;
  /// Channel of a step of 16 whose query is half i of word r of lane t's B.
  [[nodiscard]] static KVSLIM_HD constexpr int query_channel(int t, int r, int i) {
    return 4 * t + r + 2 * i;
  }

  std::uint8_t const* blocks;
  std::uint32_t block_bytes, run_bytes, runs, inverse;

  __device__ planar_key_runs(Codec const& codec, std::byte const* first, int dim)
      : blocks(codes_of(first)) {
    auto const sizes = codec.sizes(dim, 0);
    block_bytes = static_cast<std::uint32_t>(sizes.block_bytes);
    run_bytes = static_cast<std::uint32_t>(dim * 4 * Bits);
    runs = by_channel ? static_cast<std::uint32_t>(sizes.block_tokens) / 32 : 1;
    inverse = (0x80000000u + runs - 1) / runs;
  }
  /// Whether all tokens of a run have one scale a channel, or one each.
  [[nodiscard]] static constexpr bool serves(Codec const& codec) {
    if constexpr (by_channel)
      return codec.group % 32 == 0;
    else
      return true;
  }
  [[nodiscard]] __device__ run_place at(int run) const {
    auto const i = static_cast<std::uint32_t>(run);
    std::uint32_t const block =
        by_channel ? static_cast<std::uint32_t>(static_cast<std::uint64_t>(i) * inverse >> 31) : i;
    std::uint8_t const* const begin = blocks + static_cast<std::uint64_t>(block) * block_bytes;
    return {begin + (i - block * runs) * run_bytes, begin + runs * run_bytes};
  }
};
template <int Bits, element Tail>
struct key_runs<token_key<Bits, Tail, f16>> : planar_key_runs<Bits, token_key<Bits, Tail, f16>> {
  using planar_key_runs<Bits, token_key<Bits, Tail, f16>>::planar_key_runs;
};
template <int Bits, element Tail>
struct key_runs<channel_key<Bits, Tail, f16>>
    : planar_key_runs<Bits, channel_key<Bits, Tail, f16>> {
  using planar_key_runs<Bits, channel_key<Bits, Tail, f16>>::planar_key_runs;
};

/// Channels' parameters are the row's, in the state.
template <int Bits, element Tail>
struct key_runs<prompt_channel_key<Bits, Tail, f16>>
    : planar_key_runs<Bits, prompt_channel_key<Bits, Tail, f16>, true> {
  using codec_type = prompt_channel_key<Bits, Tail, f16>;
  using planar = planar_key_runs<Bits, codec_type, true>;

  std::uint8_t const* parameters;

  __device__ key_runs(codec_type const& codec, std::byte const* first, int dim,
                      std::byte const* state)
      : planar(codec, first, dim), parameters(codes_of(state)) {}
  [[nodiscard]] static constexpr bool serves(codec_type const&) { return true; }
  [[nodiscard]] __device__ run_place at(int run) const {
    auto const block = static_cast<std::uint32_t>(run);  // of one run
    return {this->blocks + static_cast<std::uint64_t>(block) * this->block_bytes, parameters};
  }
};

/// V in blocks of four tokens.
template <int Bits, element Tail>
struct value_runs<token_value<Bits, Tail, f16>> {
  using codec_type = token_value<Bits, Tail, f16>;
  static constexpr bool exist = unit_fragments_exist<Bits>;
  static constexpr run_order order = order_of_codes<Bits>;
  static constexpr int bits = Bits;

  std::uint8_t const* blocks;
  std::uint32_t block_bytes, code_bytes, groups, units_of_group;

  __device__ value_runs(codec_type const& codec, std::byte const* first, int dim)
      : blocks(codes_of(first)) {
    auto const units = static_cast<std::uint32_t>(div_up(dim, 32)),
               width = static_cast<std::uint32_t>(codec.width(dim));
    block_bytes = static_cast<std::uint32_t>(codec.sizes(dim, 0).block_bytes);
    code_bytes = units * 16 * Bits;
    groups = static_cast<std::uint32_t>(dim) / width;
    units_of_group = groups == 1 ? units : width / 32;
  }
  /// Whether a unit of 32 channels has one scale; one for all of them, if `single`.
  [[nodiscard]] static constexpr bool serves(codec_type const& codec, index_t dim, bool single) {
    index_t const width = codec.width(dim);
    return width == dim || (!single && width % 32 == 0);
  }
  [[nodiscard]] __device__ std::uint8_t const* run(int i) const {
    return blocks + static_cast<std::uint64_t>(static_cast<std::uint32_t>(i) * 8) * block_bytes;
  }
  /// Bytes from a run to the scales of a token, f16[groups]; the minimums lie groups * 8 further
  /// on.
  [[nodiscard]] __device__ std::uint32_t scale(int token) const {
    auto const t = static_cast<std::uint32_t>(token);
    return t / 4 * block_bytes + code_bytes + t % 4 * groups * 2;
  }
};

KVSLIM_END_CUDA_NAMESPACE
