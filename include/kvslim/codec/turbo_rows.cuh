// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/rotated_rows.cuh>
#include <kvslim/codec/turbo_rows.hpp>

KVSLIM_BEGIN_NAMESPACE

template <bool Keys, int Bits, turbo_form Form, element Tail>
struct warp_codec<turbo_rows<Keys, Bits, Form, Tail>> {
  using codec = turbo_rows<Keys, Bits, Form, Tail>;
  static constexpr int warp = detail::warp_threads, warps = 1;

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % warp; }
  /// One lane: codes share bytes.
  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    if (lane() == 0) c.encode(rows, at, block);
  }
  template <class Use>
  static __device__ void each_channel(codec const& c, std::byte const* block, site const& at,
                                      Use const& use) {
    auto const token = c.read_token(block, at);
    for (index_t j = 0; j < codec::parts * at.dim; ++j) use(j, c.coordinate(block, at, j, token));
  }
  /// Tokens lie in one block.
  template <class Use>
  static __device__ void each_token(codec const& c, std::byte const* block, site const& at,
                                    index_t j, Use const& use) {
    site one = at;
    one.n = 1;
    for (index_t i = 0; i < at.n; ++i, ++one.first) use(i, c.coordinate(block, one, j));
  }
  static __device__ void prepare(codec const& c, float const* q, site const& at, float* own) {
    index_t const dim = at.dim;
    for (index_t d = lane(); d < dim; d += warp) own[d] = q[d];
    __syncwarp();
    detail::rotate_by_warp(own, dim, c.seed, false);
    if constexpr (codec::inner) {
      float* const last = own + (codec::parts - 1) * dim;
      for (index_t d = lane(); d < dim; d += warp) last[d] = own[d];
      __syncwarp();
      detail::rotate_by_warp(last, dim, c.second_seed(), false);
    }
  }
  static __device__ void finish(codec const& c, float* sum, site const& at, float* out) {
    index_t const dim = at.dim;
    if constexpr (codec::inner) {
      float* const last = sum + (codec::parts - 1) * dim;
      detail::rotate_by_warp(last, dim, c.second_seed(), true);
      if constexpr (codec::parts == 2)
        for (index_t d = lane(); d < dim; d += warp) sum[d] += last[d];
      __syncwarp();
    }
    detail::rotate_by_warp(sum, dim, c.seed, true);
    for (index_t d = lane(); d < dim; d += warp) out[d] += sum[d];
  }
  static __device__ void load(codec const& c, std::byte const* block, site const& at, float* out) {
    index_t const dim = at.dim, last = (codec::parts - 1) * dim;
    auto const token = c.read_token(block, at);
    for (index_t j = lane(); j < dim; j += warp) out[j] = c.coordinate(block, at, last + j, token);
    __syncwarp();
    if constexpr (codec::inner) detail::rotate_by_warp(out, dim, c.second_seed(), true);
    if constexpr (codec::parts == 2) {
      for (index_t j = lane(); j < dim; j += warp) out[j] += c.coordinate(block, at, j, token);
      __syncwarp();
    }
    detail::rotate_by_warp(out, dim, c.seed, true);
  }
};

KVSLIM_END_NAMESPACE
