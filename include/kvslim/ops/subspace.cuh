// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The directions in which rows vary most (ops/subspace.hpp), by all threads of a block. Sums are
/// made in another order than one thread's, so that directions differ by rounding.

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/subspace.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int along_room = 1024;  ///< products that a block holds at once

/// a . b, by a warp; every lane gets it.
[[nodiscard]] __device__ inline float dot_by_warp(float const* a, float const* b, index_t n) {
  float sum = 0.0f;
  for (index_t i = threadIdx.x % warp_threads; i < n; i += warp_threads) sum += a[i] * b[i];
  return over_warp(sum, [](float x, float y) { return x + y; });
}

/// ops::orthonormalize, a vector's shares of all before it at a time, twice.
__device__ inline void orthonormalize_by_block(float* vectors, index_t rank, index_t width,
                                               float* along) {
  index_t const me = threadIdx.x, threads = blockDim.x, warp = me / warp_threads,
                warps = threads / warp_threads;
  bool const first_lane = me % warp_threads == 0;
  for (index_t i = 0; i < rank; ++i) {
    float* const x = vectors + i * width;
    float const before = std::sqrt(dot_by_warp(x, x, width));
    for (int pass = 0; pass < 2; ++pass) {
      __syncthreads();
      for (index_t j = warp; j < i; j += warps) {
        float const share = dot_by_warp(x, vectors + j * width, width);
        if (first_lane) along[j] = share;
      }
      __syncthreads();
      for (index_t c = me; c < width; c += threads) {
        float rest = x[c];
        for (index_t j = 0; j < i; ++j) rest -= along[j] * vectors[j * width + c];
        x[c] = rest;
      }
    }
    __syncthreads();
    float const length = std::sqrt(dot_by_warp(x, x, width));
    float const scale = length > 1e-5f * before ? 1.0f / length : 0.0f;
    __syncthreads();
    for (index_t c = me; c < width; c += threads) x[c] = scale == 0.0f ? 0.0f : x[c] * scale;
  }
  __syncthreads();
}

/// sums[j] += sum over n rows of (x . basis[j]) * x, of `rank` vectors.
__device__ inline void add_projections_by_block(float const* rows, index_t n, float const* basis,
                                                index_t rank, index_t width, float* sums,
                                                float* along) {
  index_t const me = threadIdx.x, threads = blockDim.x, warp = me / warp_threads,
                warps = threads / warp_threads, together = along_room / rank;
  for (index_t first = 0; first < n; first += together) {
    index_t const some = min(together, n - first);
    float const* const x = rows + first * width;
    for (index_t t = 0; t < some; ++t)
      for (index_t j = warp; j < rank; j += warps) {
        float const share = dot_by_warp(x + t * width, basis + j * width, width);
        if (me % warp_threads == 0) along[t * rank + j] = share;
      }
    __syncthreads();
    auto const wide = static_cast<std::uint32_t>(width);
    for (auto at = static_cast<std::uint32_t>(me); at < static_cast<std::uint32_t>(rank) * wide;
         at += static_cast<std::uint32_t>(threads)) {
      std::uint32_t const j = at / wide, c = at % wide;
      float sum = sums[at];
      for (index_t t = 0; t < some; ++t) sum += along[t * rank + j] * x[t * width + c];
      sums[at] = sum;
    }
    __syncthreads();
  }
}

/// ops::leading_subspace. each_rows(use) calls use(rows, n) in all threads with a few rows after
/// the others, which all of them can read. At most along_room directions.
template <class EachRows>
__device__ void leading_subspace_by_block(index_t tokens, index_t width, index_t rank,
                                          index_t rounds, EachRows const& each_rows, float* basis,
                                          float* sums) {
  __shared__ float along[along_room];
  index_t const me = threadIdx.x, threads = blockDim.x, all = rank * width;
  for (index_t i = me; i < all; i += threads) basis[i] = ops::subspace_start(i / width, i % width);
  __syncthreads();
  orthonormalize_by_block(basis, rank, width, along);
  for (index_t round = 0; round < rounds; ++round) {
    for (index_t i = me; i < all; i += threads) sums[i] = 0.0f;
    __syncthreads();
    each_rows([&](float const* rows, index_t n) {
      add_projections_by_block(rows, n, basis, rank, width, sums, along);
    });
    float const share = tokens > 0 ? 1.0f / static_cast<float>(tokens) : 0.0f;
    for (index_t i = me; i < all; i += threads) basis[i] = sums[i] * share;
    __syncthreads();
    orthonormalize_by_block(basis, rank, width, along);
  }
}

KVSLIM_END_CUDA_NAMESPACE
