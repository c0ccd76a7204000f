// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/channel_key.hpp>
#include <kvslim/codec/planar.cuh>

KVSLIM_BEGIN_NAMESPACE

template <int Bits, element Tail, affine_parameter Param>
struct warp_codec<channel_key<Bits, Tail, Param>> {
  using codec = channel_key<Bits, Tail, Param>;

  static __device__ void encode(codec const& c, float const* rows, site const& at,
                                std::byte* block) {
    index_t const dim = at.dim, tokens = c.block_tokens();
    auto const stored = c.parameters(block, dim);
    for (index_t quad = detail::lane(); quad < dim / 4; quad += detail::warp_threads) {
      float const* const x = rows + quad * 4;
      affine<Param> fitted[4];  // of the last group, which is the only one if it fills its runs
      for (index_t t0 = 0; t0 < tokens; t0 += c.group) {
        float least[4], most[4];
        for (int i = 0; i < 4; ++i) least[i] = most[i] = x[t0 * dim + i];
        for (index_t t = 1; t < c.group; ++t) ops::widen_ranges<4>(x + (t0 + t) * dim, least, most);
        for (int i = 0; i < 4; ++i) {
          fitted[i] = detail::fit_affine<Param>({least[i], most[i]}, Bits, c.rounding);
          stored.set(t0 / c.group * dim + quad * 4 + i, fitted[i]);
        }
      }
      bool const alone = c.group == tokens;
      for (index_t t = 0; t < tokens; t += detail::unit_tokens)
        detail::store_key_words(
            detail::key_run<Bits>(dim), detail::run_of_keys<Bits>(detail::codes_of(block), t, dim),
            quad, [&](index_t token) {
              auto const mine = stored.from((t + token) / c.group * dim + quad * 4);
              return detail::quad_codes(
                  x + (t + token) * dim, [&](int i) { return alone ? fitted[i] : mine[i]; }, Bits,
                  c.rounding);
            });
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
