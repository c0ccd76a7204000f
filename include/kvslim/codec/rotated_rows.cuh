// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/rotated_rows.hpp>
#include <kvslim/core/codec.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// ops::rotate_by_hadamard by a warp: the same sums, so the same values. Synchronises after itself.
__device__ inline void rotate_by_warp(float* x, index_t n, std::uint64_t seed, bool back) {
  ops::hadamard_order const order = ops::order_of_hadamard(n);
  int const lane = static_cast<int>(threadIdx.x) % warp_threads;
  if (!back && seed != 0) {
    for (index_t d = lane; d < n; d += warp_threads) x[d] = ops::flips_sign(seed, d) ? -x[d] : x[d];
    __syncwarp();
  }
  for (index_t step = 1; step < order.large; step *= 2) {
    for (index_t i = lane; i < n / 2; i += warp_threads) {
      index_t const d = i / step * 2 * step + i % step;
      float const a = x[d], b = x[d + step];
      x[d] = a + b;
      x[d + step] = a - b;
    }
    __syncwarp();
  }
  if (order.small > 1) {
    for (index_t at = lane; at < order.large; at += warp_threads)
      ops::multiply_column(order, at, back, x);
    __syncwarp();
  }
  float const scale = ops::hadamard_scale(n);
  for (index_t d = lane; d < n; d += warp_threads)
    x[d] = product(x[d], back && ops::flips_sign(seed, d) ? -scale : scale);
  __syncwarp();
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <class Inner>
struct warp_codec<rotated_rows<Inner>> {
  using codec = rotated_rows<Inner>;
  static constexpr int warp = detail::warp_threads, warps = warp_codec<Inner>::warps;

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % warp; }
  /// A warp a token, then as the inner codec's.
  template <class Team = detail::one_warp>
  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    for (index_t i = Team::warp(); i < at.n; i += Team::warps)
      detail::rotate_by_warp(rows + i * at.dim, at.dim, c.seed, false);
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
    for (index_t j = lane(); j < at.dim; j += warp) out[j] = c.inner.decode(block, at, j);
    __syncwarp();
    detail::rotate_by_warp(out, at.dim, c.seed, true);
  }
};

KVSLIM_END_NAMESPACE
