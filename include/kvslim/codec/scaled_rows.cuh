// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/scaled_rows.hpp>
#include <kvslim/core/codec.cuh>

KVSLIM_BEGIN_NAMESPACE

template <class Inner, class Factor, factors_from From>
struct warp_codec<scaled_rows<Inner, Factor, From>>
    : detail::plain_warp_codec<scaled_rows<Inner, Factor, From>> {
  using codec = scaled_rows<Inner, Factor, From>;
  static constexpr int warp = detail::warp_threads, warps = warp_codec<Inner>::warps;

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % warp; }
  /// A thread a channel.
  template <class Read>
  static __device__ void fit(codec const&, Read const& read, index_t tokens, site const& at,
                             std::byte* state, float* scratch) {
    index_t const dim = at.dim, me = threadIdx.x, threads = blockDim.x;
    for (index_t d = me; d < dim; d += threads) scratch[d] = 0.0f;
    if constexpr (From == factors_from::rows)
      read.by_block(0, tokens, [&](float const* rows, index_t, index_t n) {
        for (index_t d = me; d < dim; d += threads)
          for (index_t i = 0; i < n; ++i) {
            float const size = fabsf(rows[i * dim + d]);
            scratch[d] = size > scratch[d] ? size : scratch[d];
          }
      });
    for (index_t d = me; d < dim; d += threads) codec::set_factor(state, at, d, scratch[d]);
  }
  template <class Team = detail::one_warp>
  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    for (index_t d = Team::thread(); d < at.dim; d += Team::threads)
      for (index_t i = 0; i < at.n; ++i) c.scale(rows[i * at.dim + d], at, d);
    Team::synchronize();
    detail::encode_by<Team, warp_codec<Inner>>(c.inner, rows, at, block);
  }
  template <class Use>
  static __device__ void each_channel(codec const& c, std::byte const* block, site const& at,
                                      Use const& use) {
    warp_codec<Inner>::each_channel(c.inner, block, at, use);
  }
  template <class Use>
  static __device__ void each_token(codec const& c, std::byte const* block, site const& at,
                                    index_t d, Use const& use) {
    warp_codec<Inner>::each_token(c.inner, block, at, d, use);
  }
  static __device__ void prepare(codec const&, float const* q, site const& at, float* own) {
    for (index_t d = lane(); d < at.dim; d += warp) own[d] = q[d] * codec::factor(at, d);
  }
  static __device__ void finish(codec const&, float* sum, site const& at, float* out) {
    for (index_t d = lane(); d < at.dim; d += warp) out[d] += sum[d] * codec::factor(at, d);
  }
  static __device__ void load(codec const& c, std::byte const* block, site const& at, float* out) {
    for (index_t d = lane(); d < at.dim; d += warp) out[d] = c.decode(block, at, d);
  }
};

KVSLIM_END_NAMESPACE
