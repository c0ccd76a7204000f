// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// A contest of rows for seats on CUDA. A large group (all layers, say) is counted by blocks all
/// over the device, digit of its keys by digit; a small one by one block.

#include <kvslim/exec/cuda_block.cuh>
#include <kvslim/ops/select.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// Where the rows of a group stand in a contest.
struct contest_rows {
  extents e;
  score_view scores;
  row_group group;
  contest rules;
  row_facts* facts;     // group after group
  std::uint64_t* sure;  // likewise: keys from here on are seated before the contest

  [[nodiscard]] __device__ index_t contenders(index_t at) const {
    return rules.end(facts[at]) - rules.begin(facts[at]);
  }
  [[nodiscard]] __device__ index_t seated(index_t at) const {
    return max(0, min(rules.sure, contenders(at)));
  }
  /// Calls use(key) for every contender of member m of group g that this thread looks at, of those
  /// from `from` on the first `n`.
  template <class Use>
  __device__ void each(index_t g, index_t m, Use const& use, index_t from = 0,
                       index_t n = extents::most_tokens) const {
    float const* const score = scores.row(group.member_row(e, group.group_row(e, g), m));
    row_facts const& mine = facts[g * group.size() + m];
    index_t const begin = rules.begin(mine) + from, end = min(rules.end(mine), begin + n);
    for (index_t i = begin + threadIdx.x; i < end; i += block_threads)
      use(ops::order_key(score[i], m * e.tokens + i));
  }
};

/// One block per row: the keys that its `sure` best reach.
template <class Rows>
KVSLIM_DETAIL_KERNEL void seat_sure_kernel(Rows rows) {
  index_t const at = blockIdx.x, g = at / rows.group.size(), m = at % rows.group.size();
  index_t const seated = rows.seated(at);
  std::uint64_t threshold = ~std::uint64_t{0};  // above every key
  if (seated == rows.contenders(at))
    threshold = 0;
  else if (seated > 0)
    threshold = block_threshold(seated, [&](auto const& use) { rows.each(g, m, use); });
  if (threadIdx.x == 0) rows.sure[at] = threshold;
}

/// Of a small group: one block gives the seats that are left to the best of all rows.
template <class Rows>
KVSLIM_DETAIL_KERNEL void contest_kernel(Rows rows) {
  index_t const g = blockIdx.x, size = rows.group.size(), first = g * size;
  auto const each = [&](index_t m, auto const& use) {
    std::uint64_t const sure = rows.sure[first + m];
    rows.each(g, m, [&](std::uint64_t key) {
      if (key < sure) use(key);
    });
  };
  index_t open = 0, seats = rows.rules.seats;
  for (index_t m = 0; m < size; ++m) {
    open += rows.contenders(first + m) - rows.seated(first + m);
    seats -= rows.seated(first + m);
  }
  std::uint64_t threshold = ~std::uint64_t{0};
  if (seats >= open)
    threshold = 0;
  else if (seats > 0)
    threshold = block_threshold(seats, [&](auto const& use) {
      for (index_t m = 0; m < size; ++m) each(m, use);
    });
  for (index_t m = 0; m < size; ++m) {
    index_t won = 0;
    each(m, [&](std::uint64_t key) { won += key >= threshold ? 1 : 0; });
    won = block_sum(won);
    if (threadIdx.x == 0) rows.facts[first + m].winners = rows.seated(first + m) + won;
  }
}

/// A large group on its way: the key that has won so far, and seats left below it.
struct contest_state {
  std::uint64_t threshold;
  index_t wanted;  // 0: the threshold is found
};
static_assert(sizeof(contest_state) == 2 * sizeof(std::uint64_t));

/// Scratch of large groups, behind rows.sure: a state each, and counts by digit.
struct contest_space {
  contest_state* states;  // [groups]
  unsigned* counts;       // [groups, digit_bins]

  static constexpr index_t words = 2 + digit_bins / 2;  // of 64 bits, of a group
  contest_space(std::uint64_t* at, index_t groups)
      : states(static_cast<contest_state*>(static_cast<void*>(at))),
        counts(static_cast<unsigned*>(static_cast<void*>(at + 2 * groups))) {}
};
inline constexpr index_t contest_stretch = 8 * block_threads;  // tokens of a block
inline constexpr index_t small_contest = 8192;                // keys that one block counts as fast

/// One block per group: seats that are left, and no counts.
template <class Rows>
KVSLIM_DETAIL_KERNEL void open_contest_kernel(Rows rows, contest_space space) {
  index_t const g = blockIdx.x, size = rows.group.size();
  index_t open = 0, seated = 0;
  for (index_t m = threadIdx.x; m < size; m += block_threads) {
    open += rows.contenders(g * size + m) - rows.seated(g * size + m);
    seated += rows.seated(g * size + m);
  }
  open = block_sum(open);
  index_t const seats = rows.rules.seats - block_sum(seated);
  for (int i = static_cast<int>(threadIdx.x); i < digit_bins; i += block_threads)
    space.counts[g * digit_bins + i] = 0;
  if (threadIdx.x == 0)
    space.states[g] = {seats >= open ? 0 : ~std::uint64_t{0}, seats >= open ? 0 : max(0, seats)};
}

/// One block per stretch of a row: counts the keys that may still be the last to win. Before the
/// first digit a threshold of all ones stands for none.
template <class Rows>
KVSLIM_DETAIL_KERNEL void count_contest_kernel(Rows rows, contest_space space, key_digit digit,
                                               index_t stretches) {
  __shared__ unsigned counts[digit_bins];
  index_t const at = blockIdx.x / stretches, size = rows.group.size(), g = at / size;
  contest_state const state = space.states[g];
  if (state.wanted == 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < digit_bins; i += block_threads) counts[i] = 0;
  __syncthreads();
  std::uint64_t const sure = rows.sure[at];
  count_digits(digit, state.threshold, counts, [&](auto const& use) {
    rows.each(
        g, at % size,
        [&](std::uint64_t key) {
          if (key < sure) use(key);
        },
        blockIdx.x % stretches * contest_stretch, contest_stretch);
  });
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < digit_bins; i += block_threads)
    if (counts[i] > 0) atomicAdd(&space.counts[g * digit_bins + i], counts[i]);
}

/// One block per group: the digit of the last key that wins. Leaves no counts.
template <class Space>
KVSLIM_DETAIL_KERNEL void decide_contest_kernel(Space space, key_digit digit) {
  index_t const g = blockIdx.x;
  contest_state const state = space.states[g];
  if (state.wanted == 0) return;
  unsigned* const counts = space.counts + g * digit_bins;
  digit_place const place = place_of_key(counts, state.wanted);
  for (int i = static_cast<int>(threadIdx.x); i < digit_bins; i += block_threads) counts[i] = 0;
  if (threadIdx.x != 0) return;
  std::uint64_t const found = digit.high == 64 ? 0 : state.threshold;
  index_t const wanted = state.wanted - place.above;
  space.states[g] = {found | static_cast<std::uint64_t>(place.digit) << digit.low(),
                     wanted == place.inside ? 0 : wanted};
}

/// One block per row: how many of its contenders win.
template <class Rows>
KVSLIM_DETAIL_KERNEL void close_contest_kernel(Rows rows, contest_space space) {
  index_t const at = blockIdx.x, g = at / rows.group.size();
  std::uint64_t const sure = rows.sure[at], threshold = space.states[g].threshold;
  index_t won = 0;
  rows.each(g, at % rows.group.size(),
            [&](std::uint64_t key) { won += key < sure && key >= threshold ? 1 : 0; });
  won = block_sum(won);
  if (threadIdx.x == 0) rows.facts[at].winners = rows.seated(at) + won;
}

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

/// Two kernels, or fifteen for groups of more than 8192 keys.
template <>
struct implementation<ops::hold_contest_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, score_view scores, row_group group,
                    contest const& rules, std::uint64_t* keys, slice<row_facts> facts) {
    using rows_type = detail::contest_rows;
    auto const& e = text.extents();
    index_t const groups = group.groups(e);
    rows_type const rows{e, scores, group, rules, facts.data, keys};
    if (auto const s = detail::launch(exec, {e.rows(), detail::block_threads},
                                      detail::seat_sure_kernel<rows_type>, rows);
        !s)
      return s;
    if (group.size() * (e.tokens - 1) < detail::small_contest)
      return detail::launch(exec, {groups, detail::block_threads},
                            detail::contest_kernel<rows_type>, rows);
    static_assert(detail::small_contest >= detail::contest_space::words);
    detail::contest_space const space(keys + e.rows(), groups);
    if (auto const s = detail::launch(exec, {groups, detail::block_threads},
                                      detail::open_contest_kernel<rows_type>, rows, space);
        !s)
      return s;
    index_t const stretches = detail::div_up(e.tokens, detail::contest_stretch);
    for (int high = 64; high > 0; high -= detail::digit_bits) {
      detail::key_digit const digit{high};
      if (auto const s = detail::launch(exec, {e.rows() * stretches, detail::block_threads},
                                        detail::count_contest_kernel<rows_type>, rows, space, digit,
                                        stretches);
          !s)
        return s;
      if (auto const s =
              detail::launch(exec, {groups, detail::block_threads},
                             detail::decide_contest_kernel<detail::contest_space>, space, digit);
          !s)
        return s;
    }
    return detail::launch(exec, {e.rows(), detail::block_threads},
                          detail::close_contest_kernel<rows_type>, rows, space);
  }
};

KVSLIM_END_NAMESPACE
