// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/fp8_rows.hpp>
#include <kvslim/core/codec.cuh>

KVSLIM_BEGIN_NAMESPACE

template <bool Keys, element T, element Tail>
struct warp_codec<fp8_rows<Keys, T, Tail>> : detail::plain_warp_codec<fp8_rows<Keys, T, Tail>> {
  /// A lane a token: no two share a byte.
  static __device__ void encode(fp8_rows<Keys, T, Tail> const& c, float const* rows, site const& at,
                                std::byte* block) {
    for (index_t i = threadIdx.x % detail::warp_threads; i < at.n; i += detail::warp_threads) {
      site one = at;
      one.first += i;
      one.n = 1;
      c.encode(rows + i * at.dim, one, block);
    }
  }
};

KVSLIM_END_NAMESPACE
