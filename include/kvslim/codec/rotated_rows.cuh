// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/rotated_rows.hpp>
#include <kvslim/core/codec.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Row i of the matrix of a small order, or of its transpose: bit j is set where the entry is -1.
[[nodiscard]] __device__ inline std::uint64_t signs_of_hadamard(int m, int i, bool transposed) {
  std::uint64_t bits = 0;
  for (int j = 0; j < m; ++j)
    bits |= std::uint64_t{ops::negative_in_hadamard(m, transposed ? j : i, transposed ? i : j)}
            << j;
  return bits;
}
/// ops::multiply_column of all columns of `rows` rows by a warp. Synchronises after itself.
__device__ inline void multiply_columns_by_warp(int small, int large, bool back, float* x, int rows,
                                                index_t apart) {
  int const lane = static_cast<int>(threadIdx.x) % warp_threads,
            together = 2 * warp_threads / small;  // columns: two values a lane
  struct {
    int row, column;
    std::uint64_t signs;
    bool has;
    float sum;
  } mine[2];
  unrolled<2>([&](int h) {
    int const value = lane + h * warp_threads;
    mine[h].row = value % small;
    mine[h].column = value / small;
    mine[h].signs = signs_of_hadamard(small, mine[h].row, back);
  });
  for (int r = 0; r < rows; ++r, x += apart)
    for (int at = 0; at < large; at += together) {
      unrolled<2>([&](int h) {
        mine[h].has = mine[h].column < together && at + mine[h].column < large;
        mine[h].sum = 0.0f;
      });
      for (int j = 0; j < small; ++j)
        unrolled<2>([&](int h) {
          if (!mine[h].has) return;
          float const y = x[j * large + at + mine[h].column];
          mine[h].sum += (mine[h].signs >> j & 1u) != 0 ? -y : y;
        });
      __syncwarp();
      unrolled<2>([&](int h) {
        if (mine[h].has) x[mine[h].row * large + at + mine[h].column] = mine[h].sum;
      });
      __syncwarp();
    }
}
/// ops::rotate_by_hadamard of `rows` rows of n (at most 1024) values, `apart` from each other, by a
/// warp: the same sums, so the same values. Synchronises after itself.
__device__ KVSLIM_DETAIL_CALLED inline void rotate_by_warp(float* x, index_t n, std::uint64_t seed,
                                                           bool back, int rows = 1,
                                                           index_t apart = 0) {
  ops::hadamard_order const order = ops::order_of_hadamard(n);
  int const lane = static_cast<int>(threadIdx.x) % warp_threads, count = static_cast<int>(n),
            large = static_cast<int>(order.large), small = static_cast<int>(order.small);
  std::uint32_t flips = 0;  // of this lane's channels
  if (seed != 0)
    for (int d = lane, i = 0; d < count; d += warp_threads, ++i)
      flips |= std::uint32_t{ops::flips_sign(seed, d)} << i;
  auto const each_value = [&](auto const& f) {
    for (int r = 0; r < rows; ++r)
      for (int d = lane, i = 0; d < count; d += warp_threads, ++i) {
        float& y = x[r * apart + d];
        y = f(y, (flips >> i & 1u) != 0);
      }
    __syncwarp();
  };
  if (!back && seed != 0) each_value([](float y, bool flipped) { return flipped ? -y : y; });
  for (int step = 1; step < large; step *= 2) {
    for (int r = 0; r < rows; ++r)
      for (int i = lane; i < count / 2; i += warp_threads) {
        float* const at = x + r * apart + (2 * i - (i & (step - 1)));
        float const a = at[0], b = at[step];
        at[0] = a + b;
        at[step] = a - b;
      }
    __syncwarp();
  }
  if (small > 1) multiply_columns_by_warp(small, large, back, x, rows, apart);
  float const scale = ops::hadamard_scale(n);
  each_value([&](float y, bool flipped) { return product(y, back && flipped ? -scale : scale); });
}
/// The rows of a team, of which every warp has some. The caller synchronises afterwards.
template <class Team>
__device__ void rotate_by_team(float* rows, index_t n, index_t dim, std::uint64_t seed) {
  int const mine = (static_cast<int>(n) - Team::warp() + Team::warps - 1) / Team::warps;
  rotate_by_warp(rows + Team::warp() * dim, dim, seed, false, mine, Team::warps * dim);
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <class Inner>
struct warp_codec<rotated_rows<Inner>> {
  using codec = rotated_rows<Inner>;
  static constexpr int warp = detail::warp_threads, warps = warp_codec<Inner>::warps;

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % warp; }
  /// Warps have tokens in turn, then as the inner codec's.
  template <class Team = detail::one_warp>
  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    detail::rotate_by_team<Team>(rows, at.n, at.dim, c.seed);
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
