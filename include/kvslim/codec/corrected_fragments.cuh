// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Planar codes to which a low rank is added, outliers kept aside or not (GEAR): where matrix units
// find the codes, and a warp what corrects a run of 32 tokens.

#include <kvslim/codec/low_rank_sum.cuh>
#include <kvslim/codec/outlier_key.hpp>
#include <kvslim/codec/outlier_value.hpp>
#include <kvslim/codec/planar_fragments.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// The planar codec within, and whether it keeps outliers aside.
template <class Base>
struct corrected_codes {
  static constexpr bool asides = false;
  using type = Base;
  [[nodiscard]] static KVSLIM_HD constexpr Base const& of(Base const& base) { return base; }
};
template <int Bits, element Tail>
struct corrected_codes<outlier_key<Bits, Tail, f16>> {
  static constexpr bool asides = true;
  using type = channel_key<Bits, Tail, f16>;
  [[nodiscard]] static KVSLIM_HD constexpr type const& of(outlier_key<Bits, Tail, f16> const& c) {
    return c.codes;
  }
};
template <int Bits, element Tail>
struct corrected_codes<outlier_value<Bits, Tail, f16>> {
  static constexpr bool asides = true;
  using type = token_value<Bits, Tail, f16>;
  [[nodiscard]] static KVSLIM_HD constexpr type const& of(outlier_value<Bits, Tail, f16> const& c) {
    return c.codes;
  }
};

/// What corrects the runs of a row's half.
template <class Codec>
struct run_corrections {
  static constexpr bool exist = false;
  template <class... Parts>
  __device__ explicit run_corrections(Parts const&...) {}
};
template <class Base>
struct run_corrections<low_rank_sum<Base>> {
  static constexpr bool exist = true, asides = corrected_codes<Base>::asides;
  using codec_type = low_rank_sum<Base>;

  std::uint8_t const* blocks;
  f16 const* shared;  // directions of the prompt's tokens
  std::uint32_t block_bytes, runs, prompt_tokens;
  std::uint32_t room;  // bytes from a block to its coefficients
  int tokens, dim, rank, grown_rank;
  std::uint32_t values = 0, places = 0;  // bytes from a block to what is kept aside
  int of_line = 0;
  bool wide = false;  // places have 16 bits

  __device__ run_corrections(codec_type const& c, std::byte const* first, std::byte const* state,
                             int channels)
      : blocks(codes_of(first)),
        block_bytes(static_cast<std::uint32_t>(c.sizes(channels, 0).block_bytes)),
        runs(static_cast<std::uint32_t>(c.tokens) / 32),
        tokens(static_cast<int>(c.tokens)),
        dim(channels),
        rank(static_cast<int>(c.rank)),
        grown_rank(static_cast<int>(c.grown_rank)) {
    auto const at = warp_codec<codec_type>::places_of(c, channels);
    shared = array_at<f16 const>(state + at.directions);
    prompt_tokens = *array_at<std::uint32_t const>(state);
    room = static_cast<std::uint32_t>(at.coefficients);
    if constexpr (asides) {
      auto const lists = c.base.lists_of(first, channels);
      of_line = static_cast<int>(2 * lists.each);
      values = static_cast<std::uint32_t>(lists.bytes - first);
      places = values + static_cast<std::uint32_t>(lists.lines * of_line * 2);
      wide = lists.length > 256;
    }
  }

  /// The block of a run, and the run's place there.
  struct place {
    std::uint8_t const* block;
    int run;
  };
  [[nodiscard]] __device__ place at(int run) const {
    auto const i = static_cast<std::uint32_t>(run);
    std::uint32_t const b = i / runs;
    return {blocks + static_cast<std::uint64_t>(b) * block_bytes, static_cast<int>(i - b * runs)};
  }
  /// Coefficients [32 tokens, rank] of a run, and the directions [rank, dim] that they are along.
  struct factors {
    f16 const *coefficients, *directions;
    int rank;
  };
  [[nodiscard]] __device__ factors factors_of(int run, place const& of) const {
    bool const of_prompt = static_cast<std::uint32_t>(run) * 32 < prompt_tokens;
    int const n = of_prompt ? rank : grown_rank;
    auto const* const mine = static_cast<f16 const*>(static_cast<void const*>(of.block + room));
    return {mine + of.run * 32 * n, of_prompt ? shared : mine + tokens * grown_rank, n};
  }
  /// Number i of all that is kept aside in a block, line by line: its place in the line, and
  /// itself.
  [[nodiscard]] __device__ int aside_place(std::uint8_t const* block, int i) const {
    std::uint8_t const* const at = block + places;
    return wide ? at[2 * i] | at[2 * i + 1] << 8 : at[i];
  }
  [[nodiscard]] __device__ float aside_value(std::uint8_t const* block, int i) const {
    return low_half(read_only<std::uint16_t>(block + values + 2 * i));
  }
};

/// Runs of K's codes: blocks of channel_key's in each of low_rank_sum's.
template <class Base, class Codes = typename corrected_codes<Base>::type>
struct corrected_key_runs : planar_key_runs<key_runs<Codes>::bits, Codes> {
  using codec_type = low_rank_sum<Base>;
  using planar = planar_key_runs<key_runs<Codes>::bits, Codes>;

  std::uint32_t outer_bytes, outer_runs;
  std::uint8_t const* prompt;  // parameters of the whole prompt; or null

  __device__ corrected_key_runs(codec_type const& c, std::byte const* first, int dim,
                                std::byte const* state)
      : planar(corrected_codes<Base>::of(c.base), first, dim),
        outer_bytes(static_cast<std::uint32_t>(c.sizes(dim, 0).block_bytes)),
        outer_runs(static_cast<std::uint32_t>(c.tokens) / 32),
        prompt(nullptr) {
    if constexpr (corrected_codes<Base>::asides)
      if (c.base.whole_prompt) {
        this->block_bytes = this->runs * this->run_bytes;
        prompt = codes_of(state) + warp_codec<codec_type>::places_of(c, dim).base_state;
      }
  }
  [[nodiscard]] static constexpr bool serves(codec_type const& c) {
    if constexpr (corrected_codes<Base>::asides)
      if (c.base.codes.residual != c.tokens) return false;
    return c.tokens % 32 == 0 && planar::serves(corrected_codes<Base>::of(c.base));
  }
  [[nodiscard]] __device__ run_place at(int run) const {
    auto const i = static_cast<std::uint32_t>(run);
    std::uint32_t const outer = i / outer_runs, within = i - outer * outer_runs,
                        inner = within / this->runs;
    std::uint8_t const* const begin =
        this->blocks + static_cast<std::uint64_t>(outer) * outer_bytes + inner * this->block_bytes;
    return {begin + (within - inner * this->runs) * this->run_bytes,
            prompt != nullptr ? prompt : begin + this->runs * this->run_bytes};
  }
};
template <int Bits, element Tail>
struct key_runs<low_rank_sum<channel_key<Bits, Tail, f16>>>
    : corrected_key_runs<channel_key<Bits, Tail, f16>> {
  using corrected_key_runs<channel_key<Bits, Tail, f16>>::corrected_key_runs;
};
template <int Bits, element Tail>
struct key_runs<low_rank_sum<outlier_key<Bits, Tail, f16>>>
    : corrected_key_runs<outlier_key<Bits, Tail, f16>> {
  using corrected_key_runs<outlier_key<Bits, Tail, f16>>::corrected_key_runs;
};

/// Runs of V's codes: blocks of four tokens in each of low_rank_sum's.
template <class Base, class Codes = typename corrected_codes<Base>::type>
struct corrected_value_runs : value_runs<Codes> {
  using codec_type = low_rank_sum<Base>;

  std::uint32_t outer_bytes, outer_runs;

  __device__ corrected_value_runs(codec_type const& c, std::byte const* first, int dim)
      : value_runs<Codes>(corrected_codes<Base>::of(c.base), first, dim),
        outer_bytes(static_cast<std::uint32_t>(c.sizes(dim, 0).block_bytes)),
        outer_runs(static_cast<std::uint32_t>(c.tokens) / 32) {}
  [[nodiscard]] static constexpr bool serves(codec_type const& c, index_t dim, bool single) {
    if constexpr (corrected_codes<Base>::asides)
      if (c.base.tokens != c.tokens) return false;
    return dim <= 128 && c.tokens % 32 == 0 &&
           value_runs<Codes>::serves(corrected_codes<Base>::of(c.base), dim, single);
  }
  [[nodiscard]] __device__ std::uint8_t const* run(int i) const {
    auto const all = static_cast<std::uint32_t>(i);
    std::uint32_t const outer = all / outer_runs;
    return this->blocks + static_cast<std::uint64_t>(outer) * outer_bytes +
           (all - outer * outer_runs) * 8 * this->block_bytes;
  }
};
template <int Bits, element Tail>
struct value_runs<low_rank_sum<token_value<Bits, Tail, f16>>>
    : corrected_value_runs<token_value<Bits, Tail, f16>> {
  using corrected_value_runs<token_value<Bits, Tail, f16>>::corrected_value_runs;
};
template <int Bits, element Tail>
struct value_runs<low_rank_sum<outlier_value<Bits, Tail, f16>>>
    : corrected_value_runs<outlier_value<Bits, Tail, f16>> {
  using corrected_value_runs<outlier_value<Bits, Tail, f16>>::corrected_value_runs;
};

KVSLIM_END_CUDA_NAMESPACE
