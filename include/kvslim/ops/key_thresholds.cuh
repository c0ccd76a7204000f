// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// The key that a given number of a group's keys reach, of several groups at once, by blocks all
/// over the device: twelve kernels, which count one digit of the keys and then choose it.

#include <kvslim/exec/cuda_block.cuh>

KVSLIM_BEGIN_CUDA_NAMESPACE

inline constexpr index_t key_stretch = 8 * block_threads;  // keys of a block
inline constexpr index_t block_keys = 8192;                // of a group: one block is as fast

/// A group's threshold as far as it is known, and how many keys are wanted of those that share
/// these digits; 0: it is found.
struct threshold_state {
  std::uint64_t threshold;
  std::int64_t wanted;
};
static_assert(sizeof(threshold_state) == 2 * sizeof(std::uint64_t));

/// Scratch: a state of each group, and counts by digit. `words` of 64 bits a group.
struct threshold_space {
  static constexpr index_t words = 2 + digit_bins / 2;
  static_assert(block_keys >= words);

  threshold_state* states;  // [groups]
  unsigned* counts;         // [groups, digit_bins]
  index_t groups;

  threshold_space(std::uint64_t* at, index_t n)
      : states(static_cast<threshold_state*>(static_cast<void*>(at))),
        counts(static_cast<unsigned*>(static_cast<void*>(at + 2 * n))),
        groups(n) {}
  /// Enqueues zeros everywhere.
  [[nodiscard]] status clear(cuda exec) const {
    return fill_bytes(exec, states, 0, groups * words * 8);
  }
  /// The threshold that `wanted` of `keys` keys are to reach; none below 1.
  __device__ void begin(index_t g, index_t wanted, index_t keys) const {
    bool const all = wanted >= keys;
    states[g] = {all ? 0 : ~std::uint64_t{0}, all ? 0 : max(0, wanted)};
  }
};

/// One block per part: counts a digit of its keys. Before the first digit a threshold of all ones
/// stands for none.
template <class Keys>
KVSLIM_DETAIL_KERNEL void count_keys_kernel(Keys keys, threshold_space space, key_digit digit) {
  __shared__ unsigned counts[digit_bins];
  index_t const part = blockIdx.x, g = keys.group_of(part);
  threshold_state const state = space.states[g];
  if (state.wanted == 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < digit_bins; i += block_threads) counts[i] = 0;
  __syncthreads();
  count_digits(digit, state.threshold, counts, [&](auto const& use) { keys.each(part, use); });
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < digit_bins; i += block_threads)
    if (counts[i] > 0) atomicAdd(&space.counts[g * digit_bins + i], counts[i]);
}

/// One block per group: the digit of the last key that is wanted. Leaves no counts.
template <class Space>
KVSLIM_DETAIL_KERNEL void choose_digit_kernel(Space space, key_digit digit) {
  index_t const g = blockIdx.x;
  threshold_state const state = space.states[g];
  if (state.wanted == 0) return;
  unsigned* const counts = space.counts + g * digit_bins;
  digit_place const place = place_of_key(counts, state.wanted);
  for (int i = static_cast<int>(threadIdx.x); i < digit_bins; i += block_threads) counts[i] = 0;
  if (threadIdx.x != 0) return;
  std::uint64_t const found = digit.high == 64 ? 0 : state.threshold;
  std::int64_t const wanted = state.wanted - place.above;
  space.states[g] = {found | static_cast<std::uint64_t>(place.digit) << digit.low(),
                     wanted == place.inside ? 0 : wanted};
}

/// Finds the thresholds that were begun. keys.group_of(part) is the group of a part, whose keys
/// keys.each(part, use) gives to use(key), every thread of a block its own; keys are distinct.
template <class Keys>
[[nodiscard]] status find_thresholds(cuda exec, Keys const& keys, index_t parts,
                                     threshold_space const& space) {
  for (int high = 64; high > 0; high -= digit_bits) {
    key_digit const digit{high};
    if (auto const s =
            launch(exec, {parts, block_threads}, count_keys_kernel<Keys>, keys, space, digit);
        !s)
      return s;
    if (auto const s = launch(exec, {space.groups, block_threads},
                              choose_digit_kernel<threshold_space>, space, digit);
        !s)
      return s;
  }
  return {};
}

KVSLIM_END_CUDA_NAMESPACE
