// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/chosen_channels.hpp>
#include <kvslim/core/codec.cuh>

KVSLIM_BEGIN_NAMESPACE

template <class Inner>
struct warp_codec<chosen_channels<Inner>> {
  using codec = chosen_channels<Inner>;
  static constexpr int warp = detail::warp_threads, warps = warp_codec<Inner>::warps;

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % warp; }
  /// A thread a channel.
  template <class Read>
  static __device__ void fit(codec const& c, Read const& read, index_t, site const& at,
                             std::byte* state, float* scratch) {
    index_t const dim = at.dim, n = at.held, me = threadIdx.x, threads = blockDim.x;
    float *const length = scratch, *const some = length + dim;
    for (index_t d = me; d < dim; d += threads) length[d] = some[d] = 0.0f;
    auto const join = [&](float sum, float part) {
      return sum + detail::divide(part, static_cast<float>(n));
    };
    read.by_block(0, n, [&](float const* rows, index_t first, index_t count) {
      for (index_t d = me; d < dim; d += threads)
        for (index_t i = 0; i < count; ++i) {
          if (first + i > 0 && (first + i) % codec::stretch == 0) {
            length[d] = join(length[d], some[d]);
            some[d] = 0.0f;
          }
          some[d] += detail::product(rows[i * dim + d], rows[i * dim + d]);
        }
    });
    float const* const queries = static_cast<float const*>(at.table) + at.row * dim;
    for (index_t d = me; d < dim; d += threads) {
      float const x = (n > 0 ? join(length[d], some[d]) : 1.0f) * queries[d];
      length[d] = x >= 0.0f ? x : 0.0f;
    }
    __syncthreads();
    auto const stays = [&](index_t d) {
      index_t ahead = 0;
      for (index_t e = 0; e < dim; ++e)
        ahead += length[e] > length[d] || (length[e] == length[d] && e < d) ? 1 : 0;
      return ahead < c.kept(dim);
    };
    for (index_t d = me; d < dim; d += threads) some[d] = stays(d) ? 1.0f : 0.0f;
    __syncthreads();
    for (index_t d = me; d < dim; d += threads) {
      if (some[d] == 0.0f) continue;
      index_t before = 0;
      for (index_t e = 0; e < d; ++e) before += some[e] != 0.0f ? 1 : 0;
      detail::array_at<std::uint16_t>(state)[before] = static_cast<std::uint16_t>(d);
    }
  }
  /// What stays of a row moves to the front, 32 channels at a time, by one warp: no later one was
  /// read by then.
  template <class Team = detail::one_warp>
  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    index_t const n = c.kept(at.dim);
    std::uint16_t const* const list = codec::channels(at);
    for (index_t i = 0; i < at.n && Team::warp() == 0; ++i)
      for (index_t j0 = 0; j0 < n; j0 += warp) {
        index_t const j = j0 + lane();
        float const x = j < n ? rows[i * at.dim + list[j]] : 0.0f;
        __syncwarp();
        if (j < n) rows[i * n + j] = x;
        __syncwarp();
      }
    Team::synchronize();
    detail::encode_by<Team, warp_codec<Inner>>(c.inner, rows, c.inside(at), block);
  }
  template <class Use>
  static __device__ void each_channel(codec const& c, std::byte const* block, site const& at,
                                      Use const& use) {
    warp_codec<Inner>::each_channel(c.inner, block, c.inside(at), use);
  }
  template <class Use>
  static __device__ void each_token(codec const& c, std::byte const* block, site const& at,
                                    index_t j, Use const& use) {
    warp_codec<Inner>::each_token(c.inner, block, c.inside(at), j, use);
  }
  static __device__ void prepare(codec const& c, float const* q, site const& at, float* own) {
    std::uint16_t const* const list = codec::channels(at);
    for (index_t j = lane(); j < c.kept(at.dim); j += warp) own[j] = q[list[j]];
  }
  static __device__ void load(codec const& c, std::byte const* block, site const& at, float* out) {
    std::uint16_t const* const list = codec::channels(at);
    for (index_t d = lane(); d < at.dim; d += warp) out[d] = 0.0f;
    __syncwarp();
    for (index_t j = lane(); j < c.kept(at.dim); j += warp)
      out[list[j]] = c.coordinate(block, at, j);
  }
};

KVSLIM_END_NAMESPACE
