// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// A contest of rows for seats on CUDA. A large group (all layers, say) is counted by blocks all
/// over the device; a small one by one block.

#include <kvslim/ops/key_thresholds.cuh>
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

/// The keys of large groups, in stretches of rows.
struct contest_keys {
  contest_rows rows;
  index_t stretches;  // of a row

  [[nodiscard]] __device__ index_t group_of(index_t part) const {
    return part / stretches / rows.group.size();
  }
  template <class Use>
  __device__ void each(index_t part, Use const& use) const {
    index_t const at = part / stretches, size = rows.group.size();
    std::uint64_t const sure = rows.sure[at];
    rows.each(
        at / size, at % size,
        [&](std::uint64_t key) {
          if (key < sure) use(key);
        },
        part % stretches * key_stretch, key_stretch);
  }
};

/// One block per group: seats that are left.
template <class Rows>
KVSLIM_DETAIL_KERNEL void open_contest_kernel(Rows rows, threshold_space space) {
  index_t const g = blockIdx.x, size = rows.group.size();
  index_t open = 0, seated = 0;
  for (index_t m = threadIdx.x; m < size; m += block_threads) {
    open += rows.contenders(g * size + m) - rows.seated(g * size + m);
    seated += rows.seated(g * size + m);
  }
  open = block_sum(open);
  index_t const seats = rows.rules.seats - block_sum(seated);
  if (threadIdx.x == 0) space.begin(g, seats, open);
}

/// One block per row: how many of its contenders win.
template <class Rows>
KVSLIM_DETAIL_KERNEL void close_contest_kernel(Rows rows, threshold_space space) {
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

/// Two kernels; for groups of more than 8192 keys fifteen, and a fill.
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
    if (group.size() * (e.tokens - 1) < detail::block_keys)
      return detail::launch(exec, {groups, detail::block_threads},
                            detail::contest_kernel<rows_type>, rows);
    detail::threshold_space const space(keys + e.rows(), groups);
    if (auto const s = space.clear(exec); !s) return s;
    if (auto const s = detail::launch(exec, {groups, detail::block_threads},
                                      detail::open_contest_kernel<rows_type>, rows, space);
        !s)
      return s;
    index_t const stretches = detail::div_up(e.tokens, detail::key_stretch);
    if (auto const s = detail::find_thresholds(exec, detail::contest_keys{rows, stretches},
                                               e.rows() * stretches, space);
        !s)
      return s;
    return detail::launch(exec, {e.rows(), detail::block_threads},
                          detail::close_contest_kernel<rows_type>, rows, space);
  }
};

KVSLIM_END_NAMESPACE
