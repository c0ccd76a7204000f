// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// How the splits of a row become one: each leaves a partial result in scratch and takes a ticket,
// and the block that comes last merges them all, in the order of the splits whichever it is.

#include <kvslim/ops/exp.hpp>
#include <kvslim/ops/softmax.hpp>
#include <kvslim/run/attend_cut.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Writes log-sum-exp as asked.
__device__ inline void write_lse(attend_request<cuda_space> const& a, index_t row, float lse) {
  a.lse[row] = a.base2 ? lse * 1.44269504f : lse;
}

/// Whether this block is the last of `blocks` that come here with one ticket; it then sees what the
/// others wrote before. Every thread calls.
[[nodiscard]] __device__ inline bool comes_last(unsigned* ticket, int blocks) {
  __syncthreads();
  bool last = false;
  if (threadIdx.x == 0) {
    __threadfence();  // after the barrier: of what the whole block wrote
    last = atomicAdd(ticket, 1u) + 1 == static_cast<unsigned>(blocks);
    __threadfence();
  }
  return __syncthreads_or(last ? 1 : 0) != 0;
}

/// Which split of which row's heads a block takes; not yet which slots.
template <int Heads>
[[nodiscard]] __device__ row_block row_of_block(extents const& e,
                                                attend_request<cuda_space> const& a,
                                                attend_cut const& x, int item) {
  int const work = item / x.splits, kv_heads = static_cast<int>(e.kv_heads);
  row_block at{};
  at.split = item % x.splits;
  at.r = x.first_row + work / x.pieces;
  at.first = work % x.pieces * Heads;
  at.s = at.r / kv_heads - static_cast<int>(a.first_sequence);
  at.kv_head = at.r % kv_heads;
  at.heads = min_int(Heads, x.virtual_heads - at.first);
  return at;
}

/// Merges and writes a piece of a row's heads; every thread of the block that comes last calls.
/// `shared`: [attend_threads + 2, Heads].
template <int Heads>
__device__ void merge_partials(extents const& e, attend_request<cuda_space> const& a,
                               attend_cut const& x, row_block const& at, float* shared) {
  int const thread = static_cast<int>(threadIdx.x), lane = thread % warp_threads,
            width = static_cast<int>(e.value_width());
  index_t const floats = partial_floats(e), apart = x.virtual_heads * floats;
  float const* const parts = x.partial(e, at.r, 0, at.first);
  float* const weights = shared;
  float* const highs = weights + attend_threads * Heads;
  float* const factors = highs + Heads;
  for (int h = thread / warp_threads; h < at.heads; h += attend_warps) {
    float const* const state = parts + h * floats + width;  // of the first split
    float high = -INFINITY;
    for (int i = lane; i < x.splits; i += warp_threads) high = fmaxf(high, state[i * apart]);
    high = over_warp(high, [](float one, float other) { return fmaxf(one, other); });
    double sum = 0.0;
    for (int i = lane; i < x.splits && high > -INFINITY; i += warp_threads) {
      float const* const mine = state + i * apart;
      sum += static_cast<double>(ops::exp_nonpositive(mine[0] - high)) *
             (static_cast<double>(mine[1]) + static_cast<double>(mine[2]));
    }
    ops::softmax_state all{high,
                           over_warp(sum, [](double one, double other) { return one + other; })};
    query_place const place(x, at.kv_head, at.first + h);
    float own = 1.0f;
    if (a.sink_logits != nullptr) own = all.merge({a.sink_logits[place.head], 1.0}).mine;
    if (lane != 0) continue;
    highs[h] = high;
    factors[h] = all.total > 0.0 ? static_cast<float>(static_cast<double>(own) / all.total) : 0.0f;
    write_lse(a, place.row(a, at.s), all.log_sum());
  }
  for (int channels = 0; channels < width; channels += attend_threads) {
    int const d = channels + thread;
    float sum[Heads] = {}, lost[Heads] = {};
    for (int first = 0; first < x.splits; first += attend_threads) {
      int const n = min_int(attend_threads, x.splits - first);
      float const* const from = parts + first * apart;
      __syncthreads();
      for (int i = thread; i < n * Heads; i += attend_threads) {
        int const h = i % Heads;
        bool const counts = h < at.heads && highs[h] > -INFINITY;
        weights[i] =
            counts ? ops::exp_nonpositive(from[i / Heads * apart + h * floats + width] - highs[h]) *
                         factors[h]
                   : 0.0f;
      }
      __syncthreads();
      if (d >= width) continue;
      for (int i = 0; i < n; ++i)
        unrolled<Heads>([&](int h) {
          if (h < at.heads)
            add_exactly(sum[h], lost[h], 1.0f,
                        weights[i * Heads + h] * from[i * apart + h * floats + d]);
        });
    }
    __syncthreads();
    unrolled<Heads>([&](int h) { weights[thread * Heads + h] = sum[h] + lost[h]; });
    for (int h = 0; h < at.heads && d < width; ++h) {
      query_place const place(x, at.kv_head, at.first + h);
      a.out.put(at.s, place.head, place.token, d, weights[thread * Heads + h]);
    }
  }
}

/// Hands in this block's split; where it is the row's last, merges all of them. Every thread calls.
/// A call, because its code beside theirs costs the loops over slots registers that they do not
/// have. `shared`: as merge_partials.
template <int Heads>
__device__ KVSLIM_DETAIL_CALLED void finish_split(extents const& e,
                                                  attend_request<cuda_space> const& a,
                                                  attend_cut const& x, float* shared) {
  row_block const at = row_of_block<Heads>(e, a, x, static_cast<int>(blockIdx.x));
  if (comes_last(x.ticket(at.r, at.first), x.splits)) merge_partials<Heads>(e, a, x, at, shared);
}

KVSLIM_END_CUDA_NAMESPACE
