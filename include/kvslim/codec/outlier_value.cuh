// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/outlier_value.hpp>
#include <kvslim/core/codec.cuh>

KVSLIM_BEGIN_NAMESPACE

/// A lane four tokens, which share words.
template <int Bits, element Tail, affine_parameter Param>
struct warp_codec<outlier_value<Bits, Tail, Param>>
    : detail::plain_warp_codec<outlier_value<Bits, Tail, Param>> {
  using codec = outlier_value<Bits, Tail, Param>;
  using plain = detail::plain_warp_codec<codec>;

  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    if (c.tokens < run_tokens) return plain::encode(c, rows, at, block);
    constexpr index_t four = codec::inner_tokens;
    auto const aside = c.lists_of(block, at.dim);
    index_t const end = at.first + at.n;
    for (index_t unit = at.first / four + threadIdx.x % detail::warp_threads; unit * four < end;
         unit += detail::warp_threads)
      for (index_t t = detail::max(at.first, unit * four); t < detail::min(end, (unit + 1) * four);
           ++t)
        c.encode_token(rows + (t - at.first) * at.dim, t, at.dim, aside, block);
  }
};

KVSLIM_END_NAMESPACE
