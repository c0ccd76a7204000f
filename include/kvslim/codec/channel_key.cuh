// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/channel_key.hpp>
#include <kvslim/codec/planar.cuh>

KVSLIM_BEGIN_NAMESPACE

template <int Bits, element Tail, affine_parameter Param>
struct warp_codec<channel_key<Bits, Tail, Param>> {
  using codec = channel_key<Bits, Tail, Param>;

  static constexpr int warps = detail::most_team_warps;

  /// A thread a channel, then warps have words of a lane's unit in turn.
  template <class Team = detail::one_warp>
  static __device__ void encode(codec const& c, float const* rows, site const& at,
                                std::byte* block) {
    index_t const dim = at.dim, tokens = c.block_tokens();
    auto const stored = c.parameters(block, dim);
    for (index_t d = Team::thread(); d < dim; d += Team::threads) {
      float const* x = rows + d;
      for (index_t t0 = 0, to = d; t0 < tokens; t0 += c.group, to += dim) {
        ops::range r{*x, *x};
        for (index_t t = 0; t < c.group; ++t, x += dim) ops::widen_ranges<1>(x, &r.low, &r.high);
        stored.set(to, detail::fit_affine<Param>(r, Bits, c.rounding));
      }
    }
    Team::synchronize();
    using coder = detail::affine_coder<Param>;
    bool const alone = c.group % detail::unit_tokens == 0;  // one group has all tokens of a run
    for (index_t t = 0; t < tokens; t += detail::unit_tokens)
      for (index_t quad = Team::lane(); quad < dim / 4; quad += detail::warp_threads) {
        auto const store = [&](auto const& code) {
          detail::store_key_words(detail::key_run<Bits>(dim),
                                  detail::run_of_keys<Bits>(detail::codes_of(block), t, dim), quad,
                                  Team::warp(), Team::warps, code);
        };
        auto const coded = [&](index_t token, auto const& coders) {
          return detail::quad_codes(rows + (t + token) * dim + quad * 4, coders, Bits, c.rounding);
        };
        if (alone) {
          auto const group = stored.from(t / c.group * dim + quad * 4);
          coder const of[4] = {coder(group[0]), coder(group[1]), coder(group[2]), coder(group[3])};
          store([&](index_t token) { return coded(token, [&](int i) { return of[i]; }); });
        } else {
          store([&](index_t token) {
            auto const group = stored.from((t + token) / c.group * dim + quad * 4);
            return coded(token, [&](int i) { return coder(group[i]); });
          });
        }
      }
  }
  template <class Use>
  static __device__ void each_channel(codec const& c, std::byte const* block, site const& at,
                                      Use const& use) {
    int const dim = static_cast<int>(at.dim);
    auto const stored = c.parameters(block, dim).from(at.first / c.group * dim);
    detail::each_key_code<Bits>(
        detail::run_of_keys<Bits>(detail::codes_of(block), at.first, dim),
        static_cast<int>(at.first % detail::unit_tokens), dim, [&](int d, float code) {
          use(d, code * to_float(stored.scale[d]) + to_float(stored.low[d]));
        });
  }
};

KVSLIM_END_NAMESPACE
