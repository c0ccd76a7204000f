// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/latent_lanes.cuh>
#include <kvslim/ops/dots.cuh>
#include <kvslim/ops/subspace.cuh>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Blocks fit the directions, those of all members one behind the other in a row.
template <class>
struct latent_fit;
template <class Base, basis_from From, bool Grouped, element T>
struct latent_fit<latent<Base, From, Grouped, T>> : latent_lanes<latent<Base, From, Grouped, T>> {
  using codec = latent<Base, From, Grouped, T>;

  [[nodiscard]] static KVSLIM_HD constexpr subspace_shape subspace(codec const& c, index_t dim) {
    return {group_of(c).size() * dim, c.rank, c.rounds};
  }
  template <class Read>
  [[nodiscard]] static __device__ Read const& subspace_rows(codec const&, Read const& read,
                                                            site const&) {
    return read;
  }
  static __device__ void put_subspace(codec const& c, index_t dim, float const* basis,
                                      std::byte* state) {
    auto const shape = subspace(c, dim);
    auto* const out = array_at<T>(state);
    for (index_t i = threadIdx.x; i < shape.rank * shape.width; i += blockDim.x) {
      index_t const d = i % dim, j = i / dim % shape.rank, m = i / dim / shape.rank;
      out[i] = from_float<T>(basis[j * shape.width + m * dim + d]);
    }
  }
  template <class Read>
  static __device__ void fit(codec const& c, Read const& read, index_t tokens, site const& at,
                             std::byte* state, float* scratch) {
    auto const [width, rank, rounds] = subspace(c, at.dim);
    leading_subspace_by_block(
        tokens, width, rank, rounds,
        [&](auto const& use) {
          read.by_block(0, tokens, [&](float const* rows, index_t, index_t n) { use(rows, n); });
        },
        scratch, scratch + rank * width);
    put_subspace(c, at.dim, scratch, state);
  }
};
template <class Base, bool Grouped, element T>
inline constexpr bool fits_subspace<latent<Base, basis_from::prompt, Grouped, T>> = true;

}  // namespace detail

/// Of single rows: a thread of a team makes a coordinate.
template <class Base, basis_from From, element T>
struct warp_codec<latent<Base, From, false, T>> : detail::latent_fit<latent<Base, From, false, T>> {
  using codec = latent<Base, From, false, T>;
  static constexpr int warps = warp_codec<Base>::warps;

  template <class Team = detail::one_warp>
  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    index_t const dim = at.dim, rank = c.rank, me = Team::thread();
    if constexpr (codec::has_mean) {
      T const* const mean = c.mean_of(at, at.member);
      for (index_t i = me; i < at.n * dim; i += Team::threads)
        rows[i] -= detail::widen(mean[i % dim]);
      Team::synchronize();
    }
    // Coordinates take the places of channels that were read: a token has no more of them.
    float const most = c.base.limit();
    T const* const vectors = c.basis_of(at, at.member);
    constexpr int deep = 4, wide = detail::warp_threads / deep,
                  mine = codec::most_rank / wide / Team::warps;
    index_t const lane = Team::lane(), t = lane / wide;
    for (index_t first = 0; first < at.n; first += deep) {
      float z[mine];
      index_t j = Team::warp() * wide;
      for (int k = 0; j < rank; ++k, j += Team::warps * wide) {
        float sums[detail::warp_threads] = {};
        detail::add_dots<deep, wide>(rows + first * dim, at.n - first, vectors + j * dim, rank - j,
                                     dim, sums);
        float const x = 0.0f + detail::sums_over_warp(sums);
        z[k] = x > most ? most : x < -most ? -most : x;
      }
      Team::synchronize();
      j = Team::warp() * wide + lane % wide;
      for (int k = 0; j < rank; ++k, j += Team::warps * wide)
        if (first + t < at.n) rows[(first + t) * rank + j] = z[k];
    }
    Team::synchronize();
    detail::encode_by<Team, warp_codec<Base>>(c.base, rows, c.inside(at, at.first, at.n), block);
  }
};

/// Of rows that share coordinates, [members, n, dim]: some at a time in shared memory, and from
/// there into blocks.
template <class Base, basis_from From, element T>
struct warp_codec<latent<Base, From, true, T>> : detail::latent_fit<latent<Base, From, true, T>> {
  using codec = latent<Base, From, true, T>;
  static constexpr int warps = detail::most_team_warps;

  template <class Team = detail::one_warp>
  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    constexpr index_t room = 4096;
    __shared__ float z[room];
    index_t const dim = at.dim, n = at.n, rank = c.rank, me = Team::thread();
    if constexpr (codec::has_mean) {
      for (index_t i = me; i < c.members() * n * dim; i += Team::threads)
        rows[i] -= detail::widen(c.mean_of(at, i / (n * dim))[i % dim]);
      Team::synchronize();
    }
    // Coordinates [j, j + count) of `some` tokens from i on.
    auto const project = [&](index_t i, index_t some, index_t j, index_t count) {
      float const most = c.base.limit();
      constexpr int deep = 4, wide = detail::warp_threads / deep;
      index_t const lane = Team::lane(), across = detail::div_up(count, wide),
                    tiles = detail::div_up(some, deep) * across;
      for (index_t tile = Team::warp(); tile < tiles; tile += Team::warps) {
        index_t const first = tile / across * deep, from = tile % across * wide,
                      t = first + lane / wide, to = from + lane % wide;
        float sums[detail::warp_threads] = {};
        for (index_t m = 0; m < c.members(); ++m)
          detail::add_dots<deep, wide>(rows + (m * n + i + first) * dim, some - first,
                                       c.basis_of(at, m) + (j + from) * dim, count - from, dim,
                                       sums);
        float const x = detail::sums_over_warp(sums);
        if (t < some && to < count) z[t * count + to] = x > most ? most : x < -most ? -most : x;
      }
      Team::synchronize();
    };
    if constexpr (codec::by_quads) {
      constexpr index_t quad = 4, wide = room / codec::most_tokens;
      for (index_t j = 0; j < rank; j += wide) {
        index_t const count = detail::min(wide, rank - j);
        project(0, n, j, count);
        for (index_t first = quad * me; first < count; first += quad * Team::threads)
          c.base.encode_quad(
              [&](index_t i, float* x) {
                for (index_t k = 0; k < quad; ++k) x[k] = z[i * count + first + k];
              },
              j + first, rank, block);
        Team::synchronize();
      }
    } else {
      auto const sizes = c.base.sizes(rank, n);
      for (index_t i = 0, some = 0; i < n; i += some) {
        index_t const place = at.first + i, first = place % sizes.block_tokens;
        some = detail::min(n - i, room / rank);
        if (sizes.block_tokens >= run_tokens) some = detail::min(some, sizes.block_tokens - first);
        project(i, some, 0, rank);
        detail::encode_by<Team, warp_codec<Base>>(
            c.base, z, c.inside(at, first, some),
            block + place / sizes.block_tokens * sizes.block_bytes);
        Team::synchronize();
      }
    }
  }
};

KVSLIM_END_NAMESPACE
