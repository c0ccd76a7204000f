// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/codec/low_rank_sum.hpp>
#include <kvslim/core/codec.cuh>
#include <kvslim/ops/subspace.cuh>

KVSLIM_BEGIN_NAMESPACE

/// A block fits the prompt's directions. A team encodes as it does the other codec, finds
/// coefficients a thread each, and grows directions of later blocks.
template <class Base>
struct warp_codec<low_rank_sum<Base>> : detail::plain_warp_codec<low_rank_sum<Base>> {
  using codec = low_rank_sum<Base>;
  static constexpr int warps = warp_codec<Base>::warps;

  /// Bytes from a block to its coefficients, from the state to the prompt's directions, and to the
  /// other codec's.
  struct places {
    index_t coefficients, directions, base_state;
  };
  [[nodiscard]] static __device__ places places_of(codec const& c, index_t dim) {
    return {c.base_bytes(dim), codec::state_head, c.base_state(dim)};
  }

  template <class Read>
  static __device__ void fit(codec const& c, Read const& read, index_t tokens, site const& at,
                             std::byte* state, float* scratch) {
    index_t const dim = at.dim, me = threadIdx.x, threads = blockDim.x, step = c.base_tokens(dim);
    float *const rows = scratch, *const basis = rows + c.tokens * dim,
                 *const sums = basis + c.rank * dim;
    auto* const inner = static_cast<std::byte*>(static_cast<void*>(sums + c.rank * dim));
    site whole = at;
    whole.state = state;
    if constexpr (Base::traits.fitted) {
      warp_codec<Base>::fit(c.base, read, tokens, c.inside(whole, 0, tokens),
                            state + c.base_state(dim), scratch);
      __syncthreads();
    }
    auto const take_off_base = [&] {
      for (index_t t = 0; t < c.tokens; t += step) {
        if (me < detail::warp_threads)
          warp_codec<Base>::encode(c.base, rows + t * dim, c.inside(whole, 0, step), inner);
        __syncthreads();
        take_off(c.base, inner, c.inside(whole, 0, 1), step, rows + t * dim, me, threads);
        __syncthreads();
      }
    };
    if (c.rank > 0)
      detail::leading_subspace_by_block(
          tokens, dim, c.rank, c.rounds,
          [&](auto const& use) {
            read.by_block(0, tokens, [&](float const* some, index_t first, index_t n) {
              for (index_t i = 0; i < n;) {
                index_t const to = (first + i) % c.tokens, take = detail::min(n - i, c.tokens - to);
                for (index_t j = me; j < take * dim; j += threads)
                  rows[to * dim + j] = some[i * dim + j];
                i += take;
                __syncthreads();
                if (to + take < c.tokens) continue;
                take_off_base();
                use(static_cast<float const*>(rows), c.tokens);
              }
            });
          },
          basis, sums);
    if (me == 0) {
      std::uint32_t const head[4] = {static_cast<std::uint32_t>(tokens)};
      std::memcpy(state, head, sizeof head);
    }
    auto* const directions = detail::array_at<f16>(state + codec::state_head);
    for (index_t i = me; i < c.rank * dim; i += threads)
      directions[i] = detail::narrow_within(basis[i]);
  }

  template <class Team = detail::one_warp>
  static __device__ void encode(codec const& c, float* rows, site const& at, std::byte* block) {
    index_t const dim = at.dim, step = c.base_tokens(dim), me = Team::thread();
    for (index_t t = 0; t < c.tokens; t += step)
      detail::encode_by<Team, warp_codec<Base>>(c.base, rows + t * dim, c.inside(at, 0, step),
                                                block + c.base_offset(dim, t));
    Team::synchronize();
    for (index_t t = 0; t < c.tokens; t += step)
      take_off(c.base, block + c.base_offset(dim, t), c.inside(at, 0, 1), step, rows + t * dim, me,
               Team::threads);
    Team::synchronize();
    auto* const room = detail::array_at<f16>(block + c.base_bytes(dim));
    if (!codec::shares(at)) {
      for (index_t j = 0; j < c.grown_rank; ++j) grow<Team>(c, rows, dim, j, room);
      return;
    }
    f16 const* const directions = detail::array_at<f16 const>(at.state + codec::state_head);
    for (index_t i = me; i < c.tokens * c.rank; i += Team::threads) {
      float const* const missed = rows + i / c.rank * dim;
      f16 const* const direction = directions + i % c.rank * dim;
      float sum = 0.0f;
      for (index_t d = 0; d < dim; ++d) sum += missed[d] * detail::widen(direction[d]);
      room[i] = detail::narrow_within(sum);
    }
  }

 private:
  /// low_rank_block::grow, then takes the direction off the rows: a thread has tokens, then
  /// channels, and adds up in the same order. The rows' length is another sum.
  template <class Team>
  static __device__ void grow(codec const& c, float* rows, index_t dim, index_t j, f16* room) {
    index_t const me = Team::thread(), threads = Team::threads, rank = c.grown_rank;
    f16* const coefficients = room + j;
    f16* const direction = room + c.tokens * rank + j * dim;
    float all = 0.0f;
    for (index_t t = Team::lane(); t < c.tokens; t += detail::warp_threads)
      for (index_t d = 0; d < dim; ++d) all += rows[t * dim + d] * rows[t * dim + d];
    all = detail::over_warp(all, [](float x, float y) { return x + y; });
    auto const project = [&](float scale) {
      for (index_t t = me; t < c.tokens; t += threads) {
        float sum = 0.0f;
        for (index_t d = 0; d < dim; ++d) sum += rows[t * dim + d] * detail::widen(direction[d]);
        coefficients[t * rank] = detail::narrow_within(sum * scale);
      }
      Team::synchronize();
    };
    auto const make_unit = [&] {
      Team::synchronize();
      float sum = 0.0f;
      for (index_t d = 0; d < dim; ++d)
        sum += detail::widen(direction[d]) * detail::widen(direction[d]);
      float const scale = sum > 0.0f ? 1.0f / std::sqrt(sum) : 0.0f;
      Team::synchronize();
      for (index_t d = me; d < dim; d += threads)
        direction[d] = detail::narrow_within(detail::widen(direction[d]) * scale);
      Team::synchronize();
    };
    for (index_t d = me; d < dim; d += threads)
      direction[d] = detail::narrow<f16>(ops::subspace_start(j, d));
    make_unit();
    float const shrink = all > 0.0f ? 1.0f / std::sqrt(all) : 0.0f;
    for (index_t round = 0; round < c.rounds; ++round) {
      project(shrink);
      for (index_t d = me; d < dim; d += threads) {
        float sum = 0.0f;
        for (index_t t = 0; t < c.tokens; ++t)
          sum += rows[t * dim + d] * shrink * detail::widen(coefficients[t * rank]);
        direction[d] = detail::narrow_within(sum);
      }
      make_unit();
    }
    project(1.0f);
    for (index_t t = 0; t < c.tokens; ++t) {
      float const along = detail::widen(coefficients[t * rank]);
      for (index_t d = me; d < dim; d += threads)
        rows[t * dim + d] -= along * detail::widen(direction[d]);
    }
    Team::synchronize();
  }
  /// Takes what a block of `tokens` tokens stands for off its values, a thread a number.
  static __device__ void take_off(Base const& base, std::byte const* block, site at, index_t tokens,
                                  float* rows, index_t me, index_t threads) {
    for (index_t i = me; i < tokens * at.dim; i += threads) {
      at.first = i / at.dim;
      rows[i] -= base.decode(block, at, i % at.dim);
    }
  }
};

KVSLIM_END_NAMESPACE
