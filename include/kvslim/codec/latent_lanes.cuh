// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// How the lanes of a warp go between coordinates and channels: of queries, sums and single tokens a
// lane has channels, of runs of keys matrix units make them.

#include <kvslim/codec/latent.hpp>
#include <kvslim/core/codec.cuh>
#include <kvslim/exec/matrix_unit.cuh>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

template <class Base, basis_from From, bool Grouped, element T>
struct latent_lanes<latent<Base, From, Grouped, T>>
    : plain_warp_codec<latent<Base, From, Grouped, T>> {
  using codec = latent<Base, From, Grouped, T>;

  static __device__ index_t lane() { return threadIdx.x % warp_threads; }

  /// One coordinate after the other, by all lanes.
  static __device__ void prepare(codec const& c, float const* q, site const& at, float* own) {
    auto const along = [&](T const* vector) {
      float sum = 0.0f;
      for (index_t d = lane(); d < at.dim; d += warp_threads) sum += q[d] * widen(vector[d]);
      return over_warp(sum, [](float x, float y) { return x + y; });
    };
    T const* const back = c.back_of(at, at.member);
    for (index_t j = 0; j < c.rank; ++j) {
      float const x = along(back + j * at.dim);
      if (lane() == 0) own[j] = x;
    }
    if constexpr (codec::has_mean) {
      float const x = along(c.mean_of(at, at.member));
      if (lane() == 0) own[c.rank] = x;
    }
  }
  static __device__ void finish(codec const& c, float const* sum, site const& at, float* out) {
    T const* const back = c.back_of(at, at.member);
    for (index_t d = lane(); d < at.dim; d += warp_threads) {
      float x = out[d];
      for (index_t j = 0; j < c.rank; ++j) x += sum[j] * widen(back[j * at.dim + d]);
      if constexpr (codec::has_mean) x += sum[c.rank] * widen(c.mean_of(at, at.member)[d]);
      out[d] = x;
    }
  }
  /// Coordinates are read a lane each, 32 at a time.
  static __device__ void load(codec const& c, std::byte const* block, site const& at, float* out) {
    T const* const back = c.back_of(at, at.member);
    for (index_t first = 0; first < at.dim; first += warp_threads) {
      index_t const d = min(first + lane(), at.dim - 1);
      float x = 0.0f;
      if constexpr (codec::has_mean) x += widen(c.mean_of(at, at.member)[d]);
      for (index_t j0 = 0; j0 < c.rank; j0 += warp_threads) {
        index_t const n = min(index_t{warp_threads}, c.rank - j0);
        float const mine = lane() < n ? c.coordinate(block, at, j0 + lane()) : 0.0f;
        for (index_t j = 0; j < n; ++j)
          x += __shfl_sync(0xffffffffu, mine, static_cast<int>(j)) *
               widen(back[(j0 + j) * at.dim + d]);
      }
      if (first + lane() < at.dim) out[d] = x;
    }
  }

  /// A step is 32 tokens and eight coordinates times 32 channels. TF32 holds elements of 16 bits;
  /// of floats it is given what 11 bits hold, and what that leaves.
  static __device__ void load_tile(codec const& c, std::byte const* block, site const& at,
                                   index_t d, index_t n, index_t other, index_t m, float* tile) {
    constexpr int wide = warp_tile::channels / 8, apart = warp_tile::apart;
    constexpr bool exact_coordinates = is_dense_key<Base> && sizeof(tail_type) == 2,
                   exact_back = sizeof(T) == 2;
    int const g = static_cast<int>(lane()) / 4, t = static_cast<int>(lane()) % 4,
              all = static_cast<int>(n + m), rank = static_cast<int>(c.rank);
    T const* const back = c.back_of(at, at.member);
    auto const channel = [&](int i) {  // some one behind the last
      index_t const k = i < all ? i : 0;
      return k < n ? d + k : other + k - n;
    };
    // Of tokens g, g + 8, g + 16, g + 24: their blocks, and their places there.
    auto const sizes = c.base.sizes(rank, at.n);
    std::byte const* from[4];
    index_t place[4];
    unrolled<4>([&](int k) {
      index_t const i = at.first + min(index_t{g + 8 * k}, at.n - 1);
      from[k] = block + i / sizes.block_tokens * sizes.block_bytes;
      place[k] = i % sizes.block_tokens;
    });
    float sum[wide][2][4] = {};  // [eight channels][16 tokens]
    if constexpr (codec::has_mean)
      unrolled<wide>([&](int u) {
        unrolled<4>([&](int i) {
          sum[u][0][i] = sum[u][1][i] =
              widen(c.mean_of(at, at.member)[channel(8 * u + 2 * t + i % 2)]);
        });
      });
    for (int j0 = 0; j0 < rank; j0 += 8) {
      std::uint32_t upper[2][4], rest[2][4];
      unrolled<8>([&](int i) {
        int const k = i % 4, j = j0 + t + i / 4 * 4;
        float const x = j < rank ? c.base.decode(from[k], c.inside(at, place[k], 1), j) : 0.0f;
        upper[k / 2][k % 2 + i / 4 * 2] = bit_cast<std::uint32_t>(upper_part(x));
        rest[k / 2][k % 2 + i / 4 * 2] = bit_cast<std::uint32_t>(x - upper_part(x));
      });
      unrolled<wide>([&](int u) {
        if (8 * u >= all) return;
        index_t const of = channel(8 * u + g);
        std::uint32_t b[2], lower[2];
        unrolled<2>([&](int e) {
          int const j = j0 + t + 4 * e;
          float const x = j < rank ? widen(back[j * at.dim + of]) : 0.0f;
          b[e] = bit_cast<std::uint32_t>(upper_part(x));
          lower[e] = bit_cast<std::uint32_t>(x - upper_part(x));
        });
        unrolled<2>([&](int half) {
          mma_tf32(sum[u][half], upper[half], b[0], b[1]);
          if constexpr (!exact_coordinates) mma_tf32(sum[u][half], rest[half], b[0], b[1]);
          if constexpr (!exact_back) mma_tf32(sum[u][half], upper[half], lower[0], lower[1]);
        });
      });
    }
    unrolled<wide>([&](int u) {
      unrolled<8>([&](int i) {
        int const column = 8 * u + 2 * t + i % 2, half = i / 4, row = 16 * half + i % 4 / 2 * 8 + g;
        tile[column * apart + row] = sum[u][half][i % 4];
      });
    });
  }

 private:
  using tail_type = typename Base::tail_type;
};

}  // namespace detail

KVSLIM_END_NAMESPACE
