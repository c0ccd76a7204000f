// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda.cuh>
#include <kvslim/ops/rope.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Rows of a token: so many, and floats from one token, and from one of its rows, to the next.
struct rows_of_token {
  index_t count, token, row;
};

/// ops::rotate_rows of the rows of n tokens by themselves, by threads [0, threads) of which this
/// one is `me`: each turns a pair of channels of some tokens.
template <class Delta>
__device__ void rotate_rows_by_threads(rope const& r, index_t head_dim, index_t n,
                                       Delta const& delta, float* rows, rows_of_token const& of,
                                       index_t me, index_t threads) {
  index_t const pairs = r.rotated(head_dim) / 2, wide = min(pairs, threads);
  if (wide == 0) return;
  index_t const step = threads / wide, begin = me / wide;
  for (index_t i = me % wide; i < pairs && begin < step; i += wide) {
    double const each = r.frequency(head_dim, i);
    auto const [a, b] = r.pair(head_dim, i);
    for (index_t t = begin; t < n; t += step) {
      std::int64_t const by = delta(t);
      if (by == 0) continue;
      ops::pair_turn const turn(static_cast<double>(by) * each);
      for (index_t m = 0; m < of.count; ++m) {
        float* const row = rows + t * of.token + m * of.row;
        turn(row[a], row[b]);
      }
    }
  }
}

KVSLIM_END_CUDA_NAMESPACE
