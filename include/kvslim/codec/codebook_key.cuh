// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/codebook_key.hpp>
#include <kvslim/core/codec.cuh>

KVSLIM_BEGIN_NAMESPACE

/// A lane four channels; one lane chooses what is kept aside.
template <int Bits, codebook_from From, element Tail>
struct warp_codec<codebook_key<Bits, From, Tail>>
    : detail::plain_warp_codec<codebook_key<Bits, From, Tail>> {
  using codec = codebook_key<Bits, From, Tail>;

  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    constexpr index_t quad = detail::unit_quad;
    index_t const dim = at.dim, lane = threadIdx.x % detail::warp_threads;
    auto const r = c.record_of(at);
    typename codec::parts const codes{dim, codec::block_tokens};
    for (index_t first = quad * lane; first < dim; first += quad * detail::warp_threads)
      for (index_t t = 0; t < codec::block_tokens; ++t)
        for (index_t d = first; d < first + quad; ++d)
          codes.put(detail::codes_of(block), t, d,
                    detail::nearest_level<Bits>(r.normal(rows[t * dim + d], d), r.find));
    if (lane == 0) c.put_aside(rows, at, r, block);
  }
};

KVSLIM_END_NAMESPACE
