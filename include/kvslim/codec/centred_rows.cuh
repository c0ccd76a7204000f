// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/centred_rows.hpp>
#include <kvslim/codec/rotated_rows.cuh>

KVSLIM_BEGIN_NAMESPACE

template <bool Keys, int Bits, element Tail>
struct warp_codec<centred_rows<Keys, Bits, Tail>> {
  using codec = centred_rows<Keys, Bits, Tail>;
  static constexpr int warp = detail::warp_threads;

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % warp; }
  /// One lane: a token's scale is tried eight times, and codes share bytes.
  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    if (lane() == 0) c.encode(rows, at, block);
  }
  template <class Use>
  static __device__ void each_channel(codec const& c, std::byte const* block, site const& at,
                                      Use const& use) {
    float const step = c.step(block, at);
    for (index_t d = 0; d < at.dim; ++d) use(d, c.coordinate(block, at, d, step));
  }
  /// Tokens lie in one block.
  template <class Use>
  static __device__ void each_token(codec const& c, std::byte const* block, site const& at,
                                    index_t d, Use const& use) {
    site one = at;
    one.n = 1;
    for (index_t i = 0; i < at.n; ++i, ++one.first) use(i, c.coordinate(block, one, d));
  }
  static __device__ void prepare(codec const& c, float const* q, site const& at, float* own) {
    for (index_t d = lane(); d < at.dim; d += warp) own[d] = q[d];
    __syncwarp();
    detail::rotate_by_warp(own, at.dim, c.seed, false);
  }
  static __device__ void finish(codec const& c, float* sum, site const& at, float* out) {
    detail::rotate_by_warp(sum, at.dim, c.seed, true);
    for (index_t d = lane(); d < at.dim; d += warp) out[d] += sum[d];
  }
  static __device__ void load(codec const& c, std::byte const* block, site const& at, float* out) {
    for (index_t j = lane(); j < at.dim; j += warp) out[j] = c.coordinate(block, at, j);
    __syncwarp();
    detail::rotate_by_warp(out, at.dim, c.seed, true);
  }
};

KVSLIM_END_NAMESPACE
