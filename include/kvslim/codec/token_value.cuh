// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/planar.cuh>
#include <kvslim/codec/token_value.hpp>

KVSLIM_BEGIN_NAMESPACE

template <int Bits, element Tail, affine_parameter Param>
struct warp_codec<token_value<Bits, Tail, Param>> {
  using codec = token_value<Bits, Tail, Param>;

  static constexpr int warps = detail::most_team_warps;

  /// A thread a group of a token, then a word of the block.
  template <class Team = detail::one_warp>
  static __device__ void encode(codec const& c, float const* rows, site const& at,
                                std::byte* block) {
    int const dim = static_cast<int>(at.dim), first = static_cast<int>(at.first),
              tokens = static_cast<int>(at.n);
    int const width = static_cast<int>(c.width(dim)), groups = dim / width;
    int const units = static_cast<int>(detail::div_up(dim, detail::unit_channels));
    auto const stride = c.sizes(dim, 0).block_bytes;
    auto const parameters = [&](int t) {
      return c.parameters(block + t / 4 * stride, dim).from(t % 4 * groups);
    };
    for (detail::table_walk to(Team::thread(), Team::threads, groups); to.row < tokens; to.next()) {
      auto const range = detail::lane_range(rows + to.row * dim + to.column * width, width);
      parameters(first + to.row).set(to.column, detail::fit_affine<Param>(range, Bits, c.rounding));
    }
    Team::synchronize();
    int const blocks = static_cast<int>(detail::div_up(first + tokens, 4));
    bool const whole = width % static_cast<int>(detail::unit_channels) == 0;
    detail::each_part<detail::bit_parts<false, Bits>>([&](auto part, index_t before, int shift) {
      constexpr int bits = decltype(part)::value, each = detail::plane_words<bits>;
      auto* const codes = detail::codes_of(block) + before * units;
      for (detail::table_walk to(Team::thread(), Team::threads, units * each); to.row < blocks;
           to.next()) {
        int const b = to.row, unit = to.column / each, w = to.column % each;
        int const group =
            unit * static_cast<int>(detail::unit_channels) / width;  // the unit's, if whole
        std::uint32_t word = 0, written = 0;
        for (int t = first > b * 4 ? first : b * 4; t < first + tokens && t < b * 4 + 4; ++t) {
          auto const stored = parameters(t);
          detail::affine_coder<Param> coder(stored[group]);
          written |= 255u << (8 * (t % 4));
          for (int plane = 0; plane < detail::planes<bits>; ++plane) {
            int const d = unit * 32 + plane * each + w;
            if (d >= dim) continue;
            if (!whole) coder = detail::affine_coder<Param>(stored[d / width]);
            word |= (coder.code(rows[(t - first) * dim + d], Bits, c.rounding) >> shift &
                     ((1u << bits) - 1u))
                    << (8 * (t % 4) + plane * bits);
          }
        }
        auto* const to_word = codes + b * stride + unit * ops::unit_bytes<bits> + 4 * w;
        ops::store_word(to_word, (ops::load_word(to_word) & ~written) | word);
      }
    });
  }
  template <class Use>
  static __device__ void each_token(codec const& c, std::byte const* block, site const& at,
                                    index_t d, Use const& use) {
    int const width = static_cast<int>(c.width(at.dim)), groups = static_cast<int>(at.dim) / width,
              g = static_cast<int>(d) / width;
    int const end = static_cast<int>(at.first + at.n);
    auto const stride = c.sizes(at.dim, 0).block_bytes;
    for (int t = static_cast<int>(at.first); t < end;) {
      std::byte const* const here = block + t / 4 * stride;
      auto const stored = c.parameters(here, at.dim).from(g);
      std::uint32_t const word = c.coded(at.dim).word(
          detail::codes_of(here), d / detail::unit_channels, d % detail::unit_channels);
      for (int i = t % 4; i < 4 && t < end; ++i, ++t)
        use(t - static_cast<int>(at.first),
            detail::byte_of(word, i) * to_float(stored.scale[i * groups]) +
                to_float(stored.low[i * groups]));
    }
  }
};

KVSLIM_END_NAMESPACE
