// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/planar.cuh>
#include <kvslim/codec/prompt_channel_key.hpp>

KVSLIM_BEGIN_NAMESPACE

template <int Bits, element Tail, affine_parameter Param>
struct warp_codec<prompt_channel_key<Bits, Tail, Param>>
    : detail::plain_warp_codec<prompt_channel_key<Bits, Tail, Param>> {
  using codec = prompt_channel_key<Bits, Tail, Param>;
  static constexpr int warps = detail::most_team_warps;

  /// A thread a channel.
  template <class Read>
  static __device__ void fit(codec const&, Read const& read, index_t tokens, site const& at,
                             std::byte* state, float* scratch) {
    index_t const dim = at.dim, me = threadIdx.x, threads = blockDim.x;
    float *const least = scratch, *const most = least + dim;
    for (index_t d = me; d < dim; d += threads) {
      least[d] = -codec::unknown;
      most[d] = codec::unknown;
    }
    read.by_block(0, tokens, [&](float const* rows, index_t first, index_t n) {
      for (index_t d = me; d < dim; d += threads) {
        ops::range r{first == 0 ? rows[d] : least[d], first == 0 ? rows[d] : most[d]};
        for (index_t i = 0; i < n; ++i) ops::widen_ranges<1>(rows + i * dim + d, &r.low, &r.high);
        least[d] = r.low;
        most[d] = r.high;
      }
    });
    auto const stored = detail::parameters_at<Param>(state, dim);
    for (index_t d = me; d < dim; d += threads)
      stored.set(d, detail::fit_affine<Param>({least[d], most[d]}, Bits, rounding::precise));
  }
  /// A lane four channels; warps have words of its unit in turn.
  template <class Team = detail::one_warp>
  static __device__ void encode(codec const&, float const* rows, site const& at, std::byte* block) {
    index_t const dim = at.dim;
    auto const stored = codec::parameters(at);
    bool const whole = at.n == detail::unit_tokens;
    for (index_t d = (whole ? Team::lane() : Team::thread()) * 4; d < dim;
         d += 4 * (whole ? detail::warp_threads : Team::threads)) {
      using coder = detail::affine_coder<Param>;
      coder const mine[4] = {coder(stored[d]), coder(stored[d + 1]), coder(stored[d + 2]),
                             coder(stored[d + 3])};
      auto const codes = [&](index_t t) {
        return detail::quad_codes(
            rows + t * dim + d, [&](int i) { return mine[i]; }, Bits, rounding::precise);
      };
      if (whole) {
        detail::store_key_words(codec::coded(dim), detail::codes_of(block), d / 4, Team::warp(),
                                Team::warps, codes);
        continue;
      }
      for (index_t t = 0; t < at.n; ++t)
        for (index_t i = 0; i < 4; ++i)
          codec::coded(dim).put(detail::codes_of(block), at.first + t, d + i,
                                (codes(t) >> (8 * i)) & 255u);
    }
  }
};

KVSLIM_END_NAMESPACE
