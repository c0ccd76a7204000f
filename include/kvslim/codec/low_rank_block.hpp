// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What codec/low_rank_sum.hpp stores beside codes: directions that what codes miss is sought in,
// and how far each token lies along them.

#include <kvslim/isa/convert.hpp>
#include <kvslim/isa/outlier_kernels.hpp>
#include <kvslim/ops/subspace.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// A block's part of low rank: coefficients [tokens, rank] times directions [rank, dim], as f16.
struct low_rank_factors {
  f16 const* coefficients;
  f16 const* directions;
  index_t rank;
};

[[nodiscard]] KVSLIM_HD inline f16 narrow_within(float x) noexcept {
  constexpr float most = 65504.0f;
  return narrow<f16>(x > most ? most : x < -most ? -most : x);
}

/// A block's shape. What is missed of channel d of token t, a multiple of eight of them, is
/// missed(t, d).
struct low_rank_block {
  index_t tokens, dim;

  /// What tokens miss along a direction, times `scale`; `stride` apart.
  template <class Missed>
  KVSLIM_HD void find_coefficients(Missed const& missed, f16 const* direction, float scale,
                                   f16* out, index_t stride) const noexcept {
    constexpr index_t once = 8;  // each sum waits for itself
    for (index_t t0 = 0; t0 < tokens; t0 += once) {
      float sum[once] = {};
      for (index_t d = 0; d < dim; ++d) {
        float const x = widen(direction[d]);
        for (index_t i = 0; i < once; ++i) sum[i] += missed(t0 + i, d) * x;
      }
      for (index_t i = 0; i < once; ++i) out[(t0 + i) * stride] = narrow_within(sum[i] * scale);
    }
  }
  /// Direction j of `rank` that are the block's own, and its coefficients: power iteration in
  /// `room`, coefficients[tokens][rank] and directions[rank][dim], on numbers that f16 holds.
  template <class Missed>
  KVSLIM_HD void grow(Missed const& missed, index_t rank, index_t rounds, index_t j,
                      f16* room) const noexcept {
    f16* const coefficients = room + j;
    f16* const direction = room + tokens * rank + j * dim;
    float all = 0.0f;
    for (index_t t = 0; t < tokens; ++t)
      for (index_t d = 0; d < dim; ++d) {
        float const x = missed(t, d);
        all += x * x;
      }
    float const shrink = all > 0.0f ? 1.0f / std::sqrt(all) : 0.0f;
    for (index_t d = 0; d < dim; ++d) direction[d] = narrow<f16>(ops::subspace_start(j, d));
    make_unit(direction);
    for (index_t round = 0; round < rounds; ++round) {
      find_coefficients(missed, direction, shrink, coefficients, rank);
      constexpr index_t once = 4;
      for (index_t d0 = 0; d0 < dim; d0 += once) {
        index_t const n = min(once, dim - d0);
        float sum[once] = {};
        for (index_t t = 0; t < tokens; ++t) {
          float const x = widen(coefficients[t * rank]);
          for (index_t i = 0; i < n; ++i) sum[i] += missed(t, d0 + i) * shrink * x;
        }
        for (index_t i = 0; i < n; ++i) direction[d0 + i] = narrow_within(sum[i]);
      }
      make_unit(direction);
    }
    find_coefficients(missed, direction, 1.0f, coefficients, rank);
  }
  KVSLIM_HD void make_unit(f16* direction) const noexcept {
    float sum = 0.0f;
    for (index_t d = 0; d < dim; ++d) sum += widen(direction[d]) * widen(direction[d]);
    float const scale = sum > 0.0f ? 1.0f / std::sqrt(sum) : 0.0f;
    for (index_t d = 0; d < dim; ++d) direction[d] = narrow_within(widen(direction[d]) * scale);
  }

  /// Coefficients of rows [tokens, dim] along `rank` directions.
  KVSLIM_HD void find_all(float const* missed, f16 const* directions, index_t rank,
                          f16* coefficients) const noexcept {
    auto const number = [&](index_t t, index_t d) { return missed[t * dim + d]; };
    for (index_t j = 0; j < rank; ++j)
      find_coefficients(number, directions + j * dim, 1.0f, coefficients + j, rank);
  }
  /// All of a block's own directions; rows become what these miss too.
  KVSLIM_HD void grow_all(float* missed, index_t rank, index_t rounds, f16* room) const noexcept {
    for (index_t j = 0; j < rank; ++j) {
      grow([&](index_t t, index_t d) { return missed[t * dim + d]; }, rank, rounds, j, room);
      f16 const* const direction = room + tokens * rank + j * dim;
      for (index_t t = 0; t < tokens; ++t) {
        float const along = widen(room[t * rank + j]);
        for (index_t d = 0; d < dim; ++d) missed[t * dim + d] -= along * widen(direction[d]);
      }
    }
  }
};

/// Coefficients along the directions that a block shares, or its own directions where it shares
/// none, for rows of what is missed, which change.
KVSLIM_HD inline void find_or_grow(low_rank_block const& block, float* missed, f16 const* shared,
                                   index_t rank, index_t rounds, f16* room) noexcept {
  by_instructions([&] {
    if (shared != nullptr)
      block.find_all(missed, shared, rank, room);
    else
      block.grow_all(missed, rank, rounds, room);
  });
}

}  // namespace detail

KVSLIM_END_NAMESPACE
