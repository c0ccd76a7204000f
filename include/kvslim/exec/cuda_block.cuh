// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// What the threads of one block do together: sums, ordered lists, and the selection of the largest
/// keys. Every thread of a block of `block_threads` calls; memory may be reused at once.

#include <kvslim/exec/cuda.cuh>

#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr int block_threads = 512;

/// Combines one value of every thread; every thread gets the result.
template <class T, class Combine>
__device__ T over_block(T mine, Combine const& combine) {
  using reduction = cub::BlockReduce<T, block_threads>;
  __shared__ typename reduction::TempStorage storage;
  __shared__ T result;
  T const all = reduction(storage).Reduce(mine, combine);
  if (threadIdx.x == 0) result = all;
  __syncthreads();
  T const shared = result;
  __syncthreads();
  return shared;
}

struct plus {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

/// Sum of one value of every thread.
template <class T>
__device__ T block_sum(T mine) {
  return over_block(mine, plus{});
}

/// What the threads before this one hold, and all of them.
template <class T>
struct running_sum {
  T before, total;
};
template <class T>
__device__ running_sum<T> block_scan(T mine) {
  using scan = cub::BlockScan<T, block_threads>;
  __shared__ typename scan::TempStorage storage;
  running_sum<T> sum;
  scan(storage).ExclusiveSum(mine, sum.before, sum.total);
  __syncthreads();
  return sum;
}

/// What `combine`, which is associative, makes of `carried`, the threads before this one and this
/// one, in this order; `carried` becomes what it makes of all of them.
template <class T, class Combine>
__device__ T block_running(T mine, T& carried, Combine const& combine) {
  using scan = cub::BlockScan<T, block_threads, cub::BLOCK_SCAN_WARP_SCANS>;
  __shared__ typename scan::TempStorage storage;
  T upto, all;
  scan(storage).InclusiveScan(mine, upto, combine, all);
  __syncthreads();
  T const before = carried;
  carried = combine(before, all);
  return combine(before, upto);
}

/// A value of a sequence that falls into segments, and whether one begins here.
template <class T>
struct in_segment {
  T value;
  bool begins;
};
/// What `combine` makes of a segment's values; of several segments, of the last one's.
template <class Combine>
struct within_segments {
  Combine combine;

  template <class T>
  __device__ in_segment<T> operator()(in_segment<T> const& a, in_segment<T> const& b) const {
    return b.begins ? b : in_segment<T>{combine(a.value, b.value), a.begins};
  }
};
template <class Combine>
within_segments(Combine) -> within_segments<Combine>;

/// Calls use(i, place) for every i in [0, n) that has(i), place being its number among them, in
/// order; ends after `most` of them. Returns how many there were, at most `most`. A thread asks
/// for eight neighbours at once, so that a long list takes few scans.
template <class Has, class Use>
__device__ index_t block_list(index_t n, index_t most, Has const& has, Use const& use) {
  constexpr int each = 8;
  index_t found = 0;
  for (index_t base = 0; base < n && found < most; base += each * block_threads) {
    index_t const first = base + each * static_cast<index_t>(threadIdx.x);
    unsigned mine = 0;
    for (int j = 0; j < each; ++j)
      if (first + j < n && has(first + j)) mine |= 1u << j;
    auto const sum = block_scan(__popc(mine));
    index_t place = found + sum.before;
    for (int j = 0; j < each && place < most; ++j)
      if ((mine >> j & 1u) != 0) use(first + j, place++);
    found = min(most, found + sum.total);
  }
  return found;
}

inline constexpr int digit_bits = 11, digit_bins = 1 << digit_bits;

/// A digit of 64-bit keys: bits [low, high).
struct key_digit {
  int high;
  [[nodiscard]] __device__ int low() const { return high < digit_bits ? 0 : high - digit_bits; }
  /// The digit below this one; of 0 bits behind the last.
  [[nodiscard]] __device__ key_digit next() const { return {low()}; }
};

/// Counts this thread's keys by a digit, of those that equal `threshold` above it. `each(use)`
/// calls use(key) for every key; counts are shared by a block.
template <class Each>
__device__ void count_digits(key_digit at, std::uint64_t threshold, unsigned* counts,
                             Each const& each) {
  int const low = at.low();
  unsigned const mask = (1u << (at.high - low)) - 1u;
  unsigned last = 0, run = 0;  // equal digits in a row are counted together
  each([&](std::uint64_t key) {
    if (at.high < 64 && key >> at.high != threshold >> at.high) return;
    unsigned const digit = static_cast<unsigned>(key >> low) & mask;
    if (digit != last && run > 0) {
      atomicAdd(&counts[last], run);
      run = 0;
    }
    last = digit;
    ++run;
  });
  if (run > 0) atomicAdd(&counts[last], run);
}

/// Which digit the wanted-th key from the top has, how many keys have a larger one, and how many
/// this one. counts [digit_bins] are whole when a block comes here.
struct digit_place {
  unsigned digit;
  index_t above, inside;
};
__device__ inline digit_place place_of_key(unsigned const* counts, index_t wanted) {
  constexpr int mine = digit_bins / block_threads;
  __shared__ digit_place found;
  unsigned const top = digit_bins - 1 - threadIdx.x * mine;  // this thread's bins, from the top
  index_t sum = 0;
  for (unsigned i = 0; i < mine; ++i) sum += counts[top - i];
  index_t above = block_scan(sum).before;
  for (unsigned i = 0; i < mine; ++i) {
    index_t const inside = counts[top - i];
    if (above < wanted && wanted <= above + inside) found = {top - i, above, inside};
    above += inside;
  }
  __syncthreads();
  digit_place const place = found;
  __syncthreads();
  return place;
}

/// One block by itself. A team has `blocks` blocks, this one being its rank-th, and combines what
/// they hold: one value each, which every thread of a block knows, or counts by digit.
struct block_team {
  static constexpr bool exists = true;  ///< on the device that is compiled for
  static constexpr int blocks = 1;
  [[nodiscard]] __device__ static index_t rank() { return 0; }
  template <class T, class Combine>
  [[nodiscard]] __device__ static T over_blocks(T of_this, Combine const&) {
    return of_this;
  }
  /// Every block gets the sums of all. `counts` are shared memory.
  __device__ static void add_up(unsigned*) { __syncthreads(); }
};

/// Sum of one value of every thread of a team.
template <class Team, class T>
__device__ T team_sum(T mine) {
  return Team::over_blocks(block_sum(mine), plus{});
}

/// The key that exactly `wanted` of a team's keys reach, found digit by digit from the top until a
/// digit is wanted whole. `each(use)` calls use(key) for every key of this thread; keys are
/// distinct. 1 <= wanted <= keys.
template <class Team = block_team, class Each>
__device__ std::uint64_t block_threshold(index_t wanted, Each const& each) {
  __shared__ unsigned counts[digit_bins];
  std::uint64_t threshold = 0;
  for (key_digit at{64}; at.high > 0; at = at.next()) {
    for (int i = static_cast<int>(threadIdx.x); i < digit_bins; i += block_threads) counts[i] = 0;
    __syncthreads();
    count_digits(at, threshold, counts, each);
    Team::add_up(counts);
    digit_place const place = place_of_key(counts, wanted);
    threshold |= static_cast<std::uint64_t>(place.digit) << at.low();
    wanted -= place.above;
    if (place.inside == wanted) break;
  }
  return threshold;
}

KVSLIM_END_CUDA_NAMESPACE
