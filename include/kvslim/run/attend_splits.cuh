// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// Which splits rows are cut into, read from the rows themselves: of what one grid has, a long row
// gets many and a short one is left whole, as long as what a request sees of it. How the splits of
// a row become one: each leaves a partial result in scratch and takes a ticket, and the block that
// comes last merges them all, in the order of the splits whichever it is.

#include <kvslim/ops/exp.hpp>
#include <kvslim/ops/softmax.hpp>
#include <kvslim/run/attend_cut.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Writes log-sum-exp as asked.
__device__ inline void write_lse(attend_request<cuda_space> const& a, index_t row, float lse) {
  a.lse[row] = a.base2 ? lse * 1.44269504f : lse;
}

/// Sum of one value of every thread, which every thread gets. `words`: one of each warp.
[[nodiscard]] __device__ inline unsigned sum_of_threads(unsigned mine, unsigned* words) {
  mine = over_warp(mine, [](unsigned one, unsigned other) { return one + other; });
  __syncthreads();
  if (threadIdx.x % warp_threads == 0) words[threadIdx.x / warp_threads] = mine;
  __syncthreads();
  unsigned all = 0;
  for (int w = 0; w < attend_warps; ++w) all += words[w];
  return all;
}

inline constexpr int cut_steps = 4;  // halve what a longest split may have too much

/// Runs that spans of row r touch: one that two of them touch counts twice, as it is read.
[[nodiscard]] __device__ KVSLIM_DETAIL_CALLED inline int runs_of_spans(visible_spans const& visible,
                                                                       int r, int slots) {
  int const count = static_cast<int>(min(visible.counts[r], visible.most));
  int runs = 0;
  for (int i = 0; i < count; ++i) runs += runs_of_span(visible, r, i, slots);
  return runs;
}

/// Which slots a split has of a row that shows spans: nearly as many runs as every other. A warp
/// calls. A call, as is the sum above, because its code costs the loops over slots registers that
/// they do not have.
__device__ KVSLIM_DETAIL_CALLED inline void place_in_spans(visible_spans const& visible, int r,
                                                           int slots, split_place& place) {
  int const lane = lane_of_warp(), count = static_cast<int>(min(visible.counts[r], visible.most));
  int all = 0;
  for (int i = lane; i < count; i += warp_threads) all += runs_of_span(visible, r, i, slots);
  all = over_warp(all, [](int one, int other) { return one + other; });
  int const share = (all + place.splits - 1) / place.splits, first = place.split * share;
  if (lane == 0) {
    place.begin = first == 0 ? 0 : slots;
    place.end = slots;
  }
  __syncwarp();
  for (int base = 0, before = 0; base < count; base += warp_threads) {
    int const i = base + lane, mine = i < count ? runs_of_span(visible, r, i, slots) : 0;
    int to = mine;
    for (int step = 1; step < warp_threads; step *= 2) {
      int const other = __shfl_up_sync(0xffffffffu, to, step);
      if (lane >= step) to += other;
    }
    int const from = before + to - mine;
    auto const slot_of = [&](int run) {
      int const begin = visible.begin_end[(r * visible.most + i) * 2];
      return run == from ? begin : (begin / 32 + run - from) * 32;
    };
    if (0 < first && from <= first && first < from + mine) place.begin = slot_of(first);
    if (from <= first + share && first + share < from + mine) place.end = slot_of(first + share);
    before += __shfl_sync(0xffffffffu, to, warp_threads - 1);
  }
}

/// The split that this block takes; false where there is none for it. A row that is active has at
/// least one. No split has more runs than `most`, about the fewest for which there are blocks
/// enough: rows of one length are cut into x.splits each, a long one beside short ones into more.
/// Every thread calls; `memory`: split_words + attend_warps, of which split_words hold the result.
template <class Packed>
[[nodiscard]] __device__ bool find_split(Packed const& packed, attend_request<cuda_space> const& a,
                                         attend_cut const& x, float* memory) {
  auto& found = *reinterpret_cast<split_place*>(memory);
  auto* const words = reinterpret_cast<unsigned*>(memory + split_words);
  int const thread = static_cast<int>(threadIdx.x), lane = thread % warp_threads,
            place = static_cast<int>(blockIdx.x) / x.pieces,
            kv_heads = static_cast<int>(packed.extents().kv_heads);
  auto const is_active = [&](int row) {
    return a.active == nullptr || a.active[row / kv_heads] != 0;
  };
  if (x.splits == 1) {
    if (thread == 0) found = {place, 0, 1, place, 0, packed.raw_row(x.first_row + place).slots, {}};
    __syncthreads();
    return is_active(place);
  }
  auto const mine = static_cast<unsigned>(place), rows = static_cast<unsigned>(x.rows),
             places = rows * static_cast<unsigned>(x.splits);
  auto const runs_of = [&](int row) {
    if (row >= x.rows || !is_active(row)) return 0u;
    int const r = x.first_row + row, slots = packed.raw_row(r).slots;
    if (a.visible.begin_end == nullptr) return (static_cast<unsigned>(slots) + 31) / 32;
    return static_cast<unsigned>(runs_of_spans(a.visible, r, slots));
  };
  unsigned const own = runs_of(thread);  // spans are added up once, in all but large batches
  auto const splits_of = [&](int row, unsigned most) {
    if (row >= x.rows || !is_active(row)) return 0u;
    unsigned const runs = row == thread ? own : runs_of(row);
    return runs == 0 ? 1u : (runs + most - 1) / most;
  };
  auto const splits_in_all = [&](unsigned most) {
    unsigned sum = 0;
    for (int row = thread; row < x.rows; row += attend_threads) sum += splits_of(row, most);
    return sum_of_threads(sum, words);
  };
  unsigned const runs = splits_in_all(1);
  unsigned least = runs > places ? (runs - 1) / places + 1 : 1,
           most = runs / (places - rows) + 1;  // enough, rounding each row up
  if (splits_in_all(least) <= places) most = least;
  for (int i = 0; i < cut_steps && least < most; ++i) {
    unsigned const middle = least + (most - least) / 2;
    if (splits_in_all(middle) <= places)
      most = middle;
    else
      least = middle + 1;
  }
  unsigned before = 0;  // splits of rows so far
  for (int base = 0; base < x.rows && before <= mine; base += attend_threads) {
    int const row = base + thread;
    unsigned const splits = splits_of(row, most);
    unsigned to = splits;
    for (unsigned step = 1; step < warp_threads; step *= 2) {
      unsigned const other = __shfl_up_sync(0xffffffffu, to, step);
      if (static_cast<unsigned>(lane) >= step) to += other;
    }
    __syncthreads();
    if (lane == warp_threads - 1) words[thread / warp_threads] = to;
    __syncthreads();
    to += before;
    for (int w = 0; w < attend_warps; ++w) {
      if (w < thread / warp_threads) to += words[w];
      before += words[w];
    }
    if (to - splits <= mine && mine < to)
      found = {row, static_cast<int>(mine - (to - splits)), static_cast<int>(splits), place, 0, 0,
               {}};
  }
  __syncthreads();
  if (mine >= before) return false;
  int const r = x.first_row + found.row, slots = packed.raw_row(r).slots;
  if (a.visible.begin_end != nullptr) {
    if (thread < warp_threads) place_in_spans(a.visible, r, slots, found);
  } else if (thread == 0) {
    int const all = (slots + 31) / 32, share = (all + found.splits - 1) / found.splits,
              first = min_int(all, min_int(found.split, all) * share);
    found.begin = min_int(slots, first * 32);
    found.end = min_int(slots, min_int(all, first + share) * 32);
  }
  __syncthreads();
  return true;
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

/// What a block is about that takes this split; not yet which slots.
template <int Heads>
[[nodiscard]] __device__ row_block row_of_block(extents const& e, attend_cut const& x,
                                                split_place const& part) {
  int const kv_heads = static_cast<int>(e.kv_heads);
  row_block at{};
  at.r = x.first_row + part.row;
  at.s = part.row / kv_heads;
  at.kv_head = part.row % kv_heads;
  at.first = static_cast<int>(blockIdx.x) % x.pieces * Heads;
  at.heads = min_int(Heads, x.virtual_heads - at.first);
  return at;
}

/// Merges and writes a piece of a row's heads; every thread of the block that comes last calls.
/// `memory`: [attend_threads + 2, Heads].
template <int Heads>
__device__ void merge_partials(extents const& e, attend_request<cuda_space> const& a,
                               attend_cut const& x, split_place const& part, float* memory) {
  row_block const at = row_of_block<Heads>(e, x, part);
  int const thread = static_cast<int>(threadIdx.x), lane = thread % warp_threads,
            width = static_cast<int>(e.value_width());
  index_t const floats = partial_floats(e), apart = x.virtual_heads * floats;
  float const* const parts = x.partial(e, part.place - part.split, at.first);
  float* const weights = memory;
  float* const highs = weights + attend_threads * Heads;
  float* const factors = highs + Heads;
  for (int h = thread / warp_threads; h < at.heads; h += attend_warps) {
    float const* const state = parts + h * floats + width;  // of the first split
    float high = -INFINITY;
    for (int i = lane; i < part.splits; i += warp_threads) high = fmaxf(high, state[i * apart]);
    high = over_warp(high, [](float one, float other) { return fmaxf(one, other); });
    double sum = 0.0;
    for (int i = lane; i < part.splits && high > -INFINITY; i += warp_threads) {
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
    for (int first = 0; first < part.splits; first += attend_threads) {
      int const n = min_int(attend_threads, part.splits - first);
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
  auto const& part = *reinterpret_cast<split_place const*>(shared);
  int const first_head = static_cast<int>(blockIdx.x) % x.pieces * Heads;
  if (comes_last(x.ticket(part.row, first_head), part.splits))
    merge_partials<Heads>(e, a, x, part, shared + split_words);
}

KVSLIM_END_CUDA_NAMESPACE
