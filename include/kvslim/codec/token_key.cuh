// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/planar.cuh>
#include <kvslim/codec/token_key.hpp>

KVSLIM_BEGIN_NAMESPACE

template <int Bits, element Tail, affine_parameter Param>
struct warp_codec<token_key<Bits, Tail, Param>> {
  using codec = token_key<Bits, Tail, Param>;

  static constexpr int warps = detail::most_team_warps;

  /// Threads beside each other look at a token, warps have words of a lane's unit in turn.
  template <class Team = detail::one_warp>
  static __device__ void encode(codec const& c, float const* rows, site const& at,
                                std::byte* block) {
    index_t const dim = at.dim;
    auto* const codes = detail::codes_of(block);
    auto const stored = c.parameters(block, dim).from(at.first);
    int const mine = Team::thread() / Team::warps, share = static_cast<int>(dim) / Team::warps;
    ops::range range{};
    if (mine < at.n)
      range = detail::lane_range(rows + mine * dim + Team::thread() % Team::warps * share, share);
    range = detail::joined_range<Team::warps>(range);
    if (mine < at.n && Team::thread() % Team::warps == 0)
      stored.set(mine, detail::fit_affine<Param>(range, Bits, rounding::precise));
    Team::synchronize();
    bool const whole = at.n == detail::unit_tokens;
    for (index_t quad = whole ? Team::lane() : Team::thread(); quad < dim / 4;
         quad += whole ? detail::warp_threads : Team::threads) {
      auto const token = [&](index_t t) {
        detail::affine_coder<Param> const coder(stored[t]);
        return detail::quad_codes(
            rows + t * dim + quad * 4, [&](int) { return coder; }, Bits, rounding::precise);
      };
      if (whole) {
        detail::store_key_words(c.coded(dim), codes, quad, Team::warp(), Team::warps, token);
      } else {
        for (index_t t = 0; t < at.n; ++t)
          for (index_t i = 0; i < 4; ++i)
            c.coded(dim).put(codes, at.first + t, quad * 4 + i, (token(t) >> (8 * i)) & 255u);
      }
    }
  }
  template <class Use>
  static __device__ void each_channel(codec const& c, std::byte const* block, site const& at,
                                      Use const& use) {
    auto const a = c.parameters(block, at.dim)[at.first];
    float const scale = to_float(a.scale), low = to_float(a.low);
    detail::each_key_code<Bits>(detail::codes_of(block), static_cast<int>(at.first),
                                static_cast<int>(at.dim),
                                [&](int d, float code) { use(d, code * scale + low); });
  }
};

KVSLIM_END_NAMESPACE
