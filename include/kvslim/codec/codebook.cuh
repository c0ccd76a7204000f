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
};

KVSLIM_END_CUDA_NAMESPACE
