// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/codebook.hpp>
#include <kvslim/core/codec.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Bins that all threads of a block fill: each has some, and looks at all values in order, so that
/// sums are one thread's.
struct shared_bins : level_bins {
  static constexpr float nowhere = -4.0f;  ///< a value that no bin takes

  __device__ void clear_by_block() const {
    for (index_t i = threadIdx.x; i < floats; i += blockDim.x) bins[i] = 0.0f;
    __syncthreads();
  }
  __device__ void add_by_block(float const* y, index_t n) const {
    index_t const me = threadIdx.x, threads = blockDim.x;
    for (index_t v = 0; v < n; ++v)
      if (y[v] != nowhere && bin_of(y[v]) % threads == me) add(y[v]);
  }
  /// fit(), by all threads: bins are theirs, then levels, each summed up in order.
  template <int Bits>
  __device__ void fit_by_block(float* levels) const {
    constexpr index_t n = index_t{1} << Bits;
    constexpr std::uint8_t none = 255;
    __shared__ float at[n];
    __shared__ std::uint8_t nearest[count];
    index_t const me = threadIdx.x, threads = blockDim.x;
    __syncthreads();
    bool const any = __syncthreads_or(me == 0 && begin<Bits>(at)) != 0;
    for (int round = 0; round < rounds && any; ++round) {
      for (index_t i = me; i < count; i += threads)
        nearest[i] =
            bins[i] == 0.0f ? none : static_cast<std::uint8_t>(nearest_level<Bits>(mean(i), at));
      __syncthreads();
      for (index_t j = me; j < n; j += threads) {
        float next = 0.0f, weight = 0.0f;
        for (index_t i = 0; i < count; ++i) {
          if (nearest[i] != j) continue;
          next += bins[count + i];
          weight += bins[i];
        }
        if (weight > 0.0f) at[j] = next / weight;
      }
      __syncthreads();
    }
    for (index_t j = me; j < n; j += threads) levels[j] = at[j];
  }
};

KVSLIM_END_CUDA_NAMESPACE
