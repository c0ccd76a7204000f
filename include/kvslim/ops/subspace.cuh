// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The directions in which rows vary most (ops/subspace.hpp), by all threads of a block. Sums are
/// made in another order than one thread's, so that directions differ by rounding.

#include <kvslim/ops/dots.cuh>
#include <kvslim/ops/subspace.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr index_t tile_rows = 32, tile_directions = 32;
inline constexpr index_t tile_floats = tile_rows * tile_directions;

/// along[t, j] = rows[t] . basis[j] of n rows and `count` directions, no more of either than a tile
/// has; numbers behind a last direction are of no use. A warp has eight rows and four directions.
/// The caller synchronises before and after.
__device__ inline void dots_by_block(float const* rows, index_t n, float const* basis,
                                     index_t count, index_t width, float* along) {
  constexpr int deep = 8, wide = warp_threads / deep;
  index_t const lane = threadIdx.x % warp_threads, warps = blockDim.x / warp_threads,
                across = div_up(count, wide), all = div_up(n, deep) * across;
  for (index_t at = threadIdx.x / warp_threads; at < all; at += warps) {
    index_t const t = at / across * deep, j = at % across * wide;
    float sums[warp_threads] = {};
    add_dots<deep, wide>(rows + t * width, n - t, basis + j * width, count - j, width, sums);
    float const sum = sums_over_warp(sums);
    along[(t + lane / wide) * tile_directions + j + lane % wide] = sum;
  }
}

/// to[j] += sign * sum over t of along[t, j] * rows[t], of what dots_by_block found. A thread has a
/// channel of sixteen sums. The caller synchronises before and after.
__device__ inline void add_tile_by_block(float const* rows, index_t n, float const* along,
                                         index_t count, index_t width, float sign, float* to) {
  constexpr int fours = 4;
  auto const wide = static_cast<std::uint32_t>(width);
  auto const all = static_cast<std::uint32_t>(div_up(count, 4 * fours)) * wide;
  for (std::uint32_t at = threadIdx.x; at < all; at += blockDim.x) {
    index_t const c = at % wide, first = at / wide * (4 * fours);
    float sums[4 * fours] = {};
    for (index_t t = 0; t < n; ++t) {
      float const x = rows[t * width + c];
      unrolled<fours>([&](int k) {
        if (first + 4 * k >= count) return;
        auto const four =
            *reinterpret_cast<float4 const*>(along + t * tile_directions + first + 4 * k);
        sums[4 * k] += four.x * x;
        sums[4 * k + 1] += four.y * x;
        sums[4 * k + 2] += four.z * x;
        sums[4 * k + 3] += four.w * x;
      });
    }
    unrolled<4 * fours>([&](int k) {
      if (first + k < count) to[(first + k) * width + c] += sign * sums[k];
    });
  }
}

/// sums[j] += sum over n rows of (x . basis[j]) * x, of `rank` vectors. `along` is a tile, aligned
/// to 16 bytes. The caller synchronises before.
__device__ inline void add_projections_by_block(float const* rows, index_t n, float const* basis,
                                                index_t rank, index_t width, float* sums,
                                                float* along) {
  for (index_t t = 0; t < n; t += tile_rows)
    for (index_t j = 0; j < rank; j += tile_directions) {
      index_t const some = min(tile_rows, n - t), count = min(tile_directions, rank - j);
      dots_by_block(rows + t * width, some, basis + j * width, count, width, along);
      __syncthreads();
      add_tile_by_block(rows + t * width, some, along, count, width, 1.0f, sums + j * width);
      __syncthreads();
    }
}

/// Makes the vectors of a panel, which are orthogonal to all before them, orthonormal: a vector's
/// shares of those before it at a time, twice. before[i] is how long vector i was at first.
__device__ inline void orthonormalize_panel(float* vectors, index_t count, index_t width,
                                            float const* before, float* along) {
  index_t const me = threadIdx.x, threads = blockDim.x, warp = me / warp_threads,
                warps = threads / warp_threads;
  bool const first_lane = me % warp_threads == 0;
  for (index_t i = 0; i < count; ++i) {
    float* const x = vectors + i * width;
    for (int pass = 0; pass < 2; ++pass) {
      __syncthreads();
      for (index_t j = warp; j < i; j += warps) {
        float const share = dot_by_warp(x, vectors + j * width, width);
        if (first_lane) along[j] = share;
      }
      __syncthreads();
      for (index_t c = me; c < width && i > 0; c += threads) {
        float rest = x[c];
        for (index_t j = 0; j < i; ++j) rest -= along[j] * vectors[j * width + c];
        x[c] = rest;
      }
    }
    __syncthreads();
    float const length = std::sqrt(dot_by_warp(x, x, width));
    float const scale = length > 1e-5f * before[i] ? 1.0f / length : 0.0f;
    __syncthreads();
    for (index_t c = me; c < width; c += threads) x[c] = scale == 0.0f ? 0.0f : x[c] * scale;
  }
}

/// ops::orthonormalize, a panel of vectors at a time: what they have of all before them is taken
/// off, and they are made orthonormal; then both once more.
__device__ inline void orthonormalize_by_block(float* vectors, index_t rank, index_t width,
                                               float* along) {
  constexpr index_t panel = 16;
  __shared__ float before[panel];
  index_t const lane = threadIdx.x % warp_threads, warp = threadIdx.x / warp_threads,
                warps = blockDim.x / warp_threads;
  for (index_t p = 0; p < rank; p += panel) {
    index_t const count = min(panel, rank - p);
    float* const mine = vectors + p * width;
    for (int pass = p == 0 ? 1 : 0; pass < 2; ++pass) {
      __syncthreads();
      for (index_t i = warp; i < count; i += warps) {
        float const length = std::sqrt(dot_by_warp(mine + i * width, mine + i * width, width));
        if (lane == 0) before[i] = length;
      }
      for (index_t q = 0; q < p; q += tile_rows) {
        index_t const some = min(tile_rows, p - q);
        dots_by_block(vectors + q * width, some, mine, count, width, along);
        __syncthreads();
        add_tile_by_block(vectors + q * width, some, along, count, width, -1.0f, mine);
        __syncthreads();
      }
      orthonormalize_panel(mine, count, width, before, along);
    }
  }
  __syncthreads();
}

/// The vectors that an iteration starts from.
__device__ inline void start_subspace_by_block(index_t width, index_t rank, float* basis,
                                               float* along) {
  for (index_t i = threadIdx.x; i < rank * width; i += blockDim.x)
    basis[i] = ops::subspace_start(i / width, i % width);
  __syncthreads();
  orthonormalize_by_block(basis, rank, width, along);
}

/// ops::leading_subspace. each_rows(use) calls use(rows, n) in all threads with a few rows after
/// the others, which all of them can read.
template <class EachRows>
__device__ void leading_subspace_by_block(index_t tokens, index_t width, index_t rank,
                                          index_t rounds, EachRows const& each_rows, float* basis,
                                          float* sums) {
  alignas(16) __shared__ float along[tile_floats];
  index_t const me = threadIdx.x, threads = blockDim.x, all = rank * width;
  start_subspace_by_block(width, rank, basis, along);
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
