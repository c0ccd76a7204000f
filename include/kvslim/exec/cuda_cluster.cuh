// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Blocks that work on one thing together. Devices from sm_90 on start the blocks of a cluster at
/// once; they wait for each other and read each other's shared memory. Every thread of every block
/// of a cluster calls together.

#include <kvslim/exec/cuda_block.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

// The tests' emulation brings a cluster of its own.
#if defined(KVSLIM_DETAIL_CLUSTER)
using KVSLIM_DETAIL_CLUSTER::cluster_barrier;
using KVSLIM_DETAIL_CLUSTER::cluster_rank;
using KVSLIM_DETAIL_CLUSTER::of_block;
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

/// What all blocks wrote to shared memory before is seen by all of them after it.
__device__ inline void cluster_barrier() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n\t"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

/// Which block of its cluster this one is.
[[nodiscard]] __device__ inline unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

/// Where the block of this rank keeps what this block keeps at `mine`, in shared memory. A barrier
/// comes before what is read there changes, and before that block ends.
template <class T>
[[nodiscard]] __device__ T const* of_block(T const* mine, unsigned rank) {
  T const* there;
  asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(mine), "r"(rank));
  return there;
}

#endif

/// The blocks of a cluster as one team: what block_team is for one block.
struct cluster_team {
  static constexpr int blocks = 8;  // as many as every such device can start
#if defined(KVSLIM_DETAIL_CLUSTER) || !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  static constexpr bool exists = true;

  [[nodiscard]] __device__ static index_t rank() { return cluster_rank(); }

  template <class T, class Combine>
  [[nodiscard]] __device__ static T over_blocks(T of_this, Combine const& combine) {
    __shared__ T shared;
    if (threadIdx.x == 0) shared = of_this;
    cluster_barrier();
    T all = *of_block(&shared, 0);
    for (unsigned b = 1; b < blocks; ++b) all = combine(all, *of_block(&shared, b));
    cluster_barrier();
    return all;
  }

  __device__ static void add_up(unsigned* counts) {
    constexpr unsigned mine = digit_bins / block_threads;
    unsigned sums[mine] = {};
    cluster_barrier();
    for (unsigned b = 0; b < blocks; ++b) {
      unsigned const* const theirs = of_block(counts, b);
      for (unsigned i = 0; i < mine; ++i) sums[i] += theirs[threadIdx.x + i * block_threads];
    }
    cluster_barrier();
    for (unsigned i = 0; i < mine; ++i) counts[threadIdx.x + i * block_threads] = sums[i];
    __syncthreads();
  }
#else
  static constexpr bool exists = false;
#endif
};

/// Whether the current device starts clusters, and runs code of this kernel that knows them.
template <class... Parameters>
[[nodiscard]] bool runs_clusters(void (*kernel)(Parameters...)) noexcept {
  int device = 0, can = 0;
  cudaFuncAttributes code{};
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&can, cudaDevAttrClusterLaunch, device) == cudaSuccess &&
         can != 0 &&
         cudaFuncGetAttributes(&code, reinterpret_cast<void const*>(kernel)) == cudaSuccess &&
         code.ptxVersion >= 90;
}

KVSLIM_END_CUDA_NAMESPACE
