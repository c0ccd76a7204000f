// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

/// Selection under one total order: higher score first, ties to the earlier in text order (across
/// rows: the earlier row first), NaN last. The order is an integer, so that equal scores give equal
/// sets on the CPU and CUDA and in any layout.

#include <kvslim/core/keep_set.hpp>
#include <kvslim/exec/cpu.hpp>
#include <kvslim/ops/top_keys.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>

KVSLIM_BEGIN_NAMESPACE

namespace ops {

/// Whether a score reaches a quota's least; NaN reaches only the lowest bound.
[[nodiscard]] KVSLIM_HD inline bool reaches(float score, float least) noexcept {
  return least == -INFINITY || score >= least;
}

/// Scores as whole numbers, in 2^-32 of the row's largest: their sums are the same in any order.
struct mass_scale {
  double inverse = 0.0;  ///< of the largest score; 0: none is positive

  KVSLIM_HD constexpr explicit mass_scale(float largest) noexcept
      : inverse(largest > 0.0f ? 1.0 / static_cast<double>(largest) : 0.0) {}
  [[nodiscard]] KVSLIM_HD constexpr std::int64_t operator()(float score) const noexcept {
    if (!(score > 0.0f) || inverse == 0.0) return score == __builtin_inff() ? one : 0;
    double const part = static_cast<double>(score) * inverse;
    return part < 1.0 ? static_cast<std::int64_t>(part * static_cast<double>(one)) : one;
  }
  /// What has to be reached of a sum.
  [[nodiscard]] KVSLIM_HD static constexpr std::int64_t part_of(std::int64_t sum,
                                                                float cover) noexcept {
    double const part = static_cast<double>(sum) * static_cast<double>(cover);
    auto const whole = static_cast<std::int64_t>(part);
    return detail::min(sum, static_cast<double>(whole) < part ? whole + 1 : whole);
  }

 private:
  static constexpr std::int64_t one = std::int64_t{1} << 32;
};

/// Whether rank i of n tokens is protected, and in which turn: 0 pinned, 1 sink, 2 recent, 3 not.
[[nodiscard]] KVSLIM_HD inline int protection(bool pinned, quota const& q, index_t i,
                                              index_t n) noexcept {
  if (pinned) return 0;
  if (i < q.sinks) return 1;
  if (i >= n - q.recent) return 2;
  return 3;
}

/// How many tokens from the first on are not kept, up to n.
[[nodiscard]] inline index_t evicted_run(fate const* fates, index_t n) noexcept {
  static_assert(sizeof(fate) == 1 && static_cast<int>(fate::evicted) == 0);
  index_t i = 0;
  for (std::uint64_t eight = 0; i + 8 <= n; i += 8) {
    std::memcpy(&eight, fates + i, sizeof eight);
    if (eight != 0) break;
  }
  while (i < n && fates[i] == fate::evicted) ++i;
  return i;
}

/// How many of n tokens are kept.
[[nodiscard]] inline index_t kept_tokens(fate const* fates, index_t n) noexcept {
  static_assert(static_cast<int>(fate::kept) == 1 && static_cast<int>(fate::sure) == 2);
  constexpr std::uint64_t ones = 0x0101010101010101u;
  index_t i = 0, kept = 0;
  for (std::uint64_t eight = 0; i + 8 <= n; i += 8) {
    std::memcpy(&eight, fates + i, sizeof eight);
    kept += static_cast<index_t>(((eight | eight >> 1) & ones) * ones >> 56);  // sum of its bytes
  }
  for (; i < n; ++i) kept += fates[i] != fate::evicted ? 1 : 0;
  return kept;
}

struct protect_op {};

/// Fates of every (row, rank): `sure` for pinned tokens, then sinks from the first on, then recent
/// tokens from the newest on, while the quota's count lasts; evicted otherwise.
template <class Exec, class Text>
status protect(Exec const& exec, Text const& text, slice<quota const> quotas, fate* fates) {
  return implementation<protect_op, Exec>::run(exec, text, quotas, fates);
}

/// How many of `count` keys, sorted in the process, reach `need` with the mass of their scores.
template <class Mass>
inline index_t cover_keys(std::uint64_t* keys, index_t count, std::int64_t need,
                          Mass const& mass) noexcept {
  std::sort(keys, keys + count, [](std::uint64_t a, std::uint64_t b) { return a > b; });
  index_t n = 0;
  for (; n < count && need > 0; ++n) need -= mass(key_index(keys[n]));
  return n;
}

struct keep_best_op {};

/// Fills each row up to its quota with the best of its unprotected tokens. `keys` is scratch,
/// [rows, tokens].
template <class Exec, class Text>
status keep_best(Exec const& exec, Text const& text, score_view scores, slice<quota const> quotas,
                 std::uint64_t* keys, fate* fates) {
  return implementation<keep_best_op, Exec>::run(exec, text, scores, quotas, keys, fates);
}

struct hold_contest_op {};

/// Writes .winners of every row's facts: how many of its group's `seats` it wins with its scores of
/// the ranks that take part. `facts` lie group after group; .tokens and .recent are given. `keys`
/// is scratch, [rows, tokens].
template <class Exec, class Text>
status hold_contest(Exec const& exec, Text const& text, score_view scores, row_group group,
                    contest const& rules, std::uint64_t* keys, slice<row_facts> facts) {
  return implementation<hold_contest_op, Exec>::run(exec, text, scores, group, rules, keys, facts);
}

struct keep_all_op {};

/// Every token is kept, pinned ones for sure.
template <class Exec, class Text>
status keep_all(Exec const& exec, Text const& text, fate* fates) {
  return implementation<keep_all_op, Exec>::run(exec, text, fates);
}

struct list_columns_op {};

/// Brings the records of kept tokens, by (row, rank), together into keep.columns.
template <class Exec>
status list_columns(Exec const& exec, extents const& e, std::byte const* columns, index_t bytes,
                    keep_set const& keep) {
  return implementation<list_columns_op, Exec>::run(exec, e, columns, bytes, keep);
}

struct list_kept_op {};

/// Turns fates into a keep set: counts, begins, then ranks and cells in text order. Rows whose
/// count would exceed the room behind their begin are cut.
template <class Exec, class Text>
status list_kept(Exec const& exec, Text const& text, fate const* fates, keep_set const& keep) {
  return implementation<list_kept_op, Exec>::run(exec, text, fates, keep);
}

}  // namespace ops

template <host_executor Exec>
struct implementation<ops::protect_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, slice<quota const> quotas, fate* fates) {
    auto const& e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
      quota const q = quotas[r];
      fate* const mine = fates + r * e.tokens;
      index_t room = q.count;
      for (index_t i = 0; i < n; ++i) mine[i] = fate::evicted;
      auto const give = [&](index_t i) {
        if (room <= 0 || mine[i] == fate::sure) return;
        mine[i] = fate::sure;
        --room;
      };
      for (index_t i = 0; i < n; ++i)
        if (text.pinned(s, h, i)) give(i);
      for (index_t i = 0; i < detail::min(q.sinks, n); ++i) give(i);
      for (index_t i = n - 1; i >= detail::max(0, n - q.recent); --i) give(i);
    });
    return {};
  }
};

template <host_executor Exec>
struct implementation<ops::keep_best_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, score_view scores,
                    slice<quota const> quotas, std::uint64_t* keys, fate* fates) {
    auto const& e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const n = text.tokens(r / e.kv_heads, r % e.kv_heads);
      quota const q = quotas[r];
      fate* const mine = fates + r * e.tokens;
      std::uint64_t* const row = keys + r * e.tokens;
      index_t room = q.count, open = 0;
      for (index_t i = 0; i < n;) {
        index_t const run = ops::evicted_run(mine + i, n - i);
        if (q.least == -INFINITY) {
          ops::order_keys(scores.row(r) + i, i, run, row + open);
          open += run;
        } else {
          for (index_t j = i; j < i + run; ++j)
            if (ops::reaches(scores.row(r)[j], q.least))
              row[open++] = ops::order_key(scores.row(r)[j], j);
        }
        for (i += run; i < n && mine[i] != fate::evicted; ++i) --room;
      }
      room = detail::max(0, detail::min(room, open));
      if (q.cover > 0.0f) {
        float const* const score = scores.row(r);
        float largest = 0.0f;
        for (index_t i = 0; i < n; ++i) largest = score[i] > largest ? score[i] : largest;
        ops::mass_scale const scale(largest);
        std::int64_t sum = 0, kept = 0;
        for (index_t i = 0; i < n; ++i) {
          sum += scale(score[i]);
          kept += mine[i] != fate::evicted ? scale(score[i]) : 0;
        }
        std::int64_t const need = ops::mass_scale::part_of(sum, q.cover) - kept;
        room = detail::min(
            room, ops::cover_keys(row, open, need, [&](index_t i) { return scale(score[i]); }));
      }
      if (room == 0) return;
      std::uint64_t const least = ops::nth_key(row, open, room);
      if (q.least > -INFINITY || q.cover > 0.0f) {  // some are left out, or sorted
        for (index_t i = 0; i < open; ++i)          // no branch on the keys
          mine[ops::key_index(row[i])] = row[i] >= least ? fate::kept : fate::evicted;
        return;
      }
      static_assert(static_cast<int>(fate::kept) == 1);
      std::uint64_t const* next = row;
      for (index_t i = 0; i < n;) {  // the same runs again
        index_t const run = ops::evicted_run(mine + i, n - i);
        ops::reach_keys(next, run, least, reinterpret_cast<std::uint8_t*>(mine + i));
        next += run;
        i += run;
        while (i < n && mine[i] != fate::evicted) ++i;
      }
    });
    return {};
  }
};

template <host_executor Exec>
struct implementation<ops::hold_contest_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, score_view scores, row_group group,
                    contest const& rules, std::uint64_t* keys, slice<row_facts> facts) {
    auto const& e = text.extents();
    exec.for_each(group.groups(e), [=](index_t g) {
      index_t const first = group.group_row(e, g);
      std::uint64_t* const all = keys + g * group.size() * e.tokens;
      index_t open = 0, seats = rules.seats;
      for (index_t m = 0; m < group.size(); ++m) {
        index_t const r = group.member_row(e, first, m);
        row_facts& mine = facts[g * group.size() + m];
        index_t const begin = rules.begin(mine), n = rules.end(mine) - begin;
        index_t const sure = detail::min(rules.sure, n);
        std::uint64_t* const row = all + open;
        for (index_t i = 0; i < n; ++i)
          row[i] = ops::order_key(scores.row(r)[begin + i], m * e.tokens + begin + i);
        ops::top_keys(row, n, sure);
        for (index_t i = sure; i < n; ++i) row[i - sure] = row[i];
        mine.winners = sure;
        seats -= sure;
        open += n - sure;
      }
      seats = detail::max(0, detail::min(seats, open));
      ops::top_keys(all, open, seats);
      for (index_t i = 0; i < seats; ++i)
        ++facts[g * group.size() + ops::key_index(all[i]) / e.tokens].winners;
    });
    return {};
  }
};

template <host_executor Exec>
struct implementation<ops::keep_all_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, fate* fates) {
    auto const e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
      for (index_t i = 0; i < n; ++i)
        fates[r * e.tokens + i] = text.pinned(s, h, i) ? fate::sure : fate::kept;
    });
    return {};
  }
};

template <host_executor Exec>
struct implementation<ops::list_columns_op, Exec> {
  static status run(Exec const& exec, extents const& e, std::byte const* columns, index_t bytes,
                    keep_set const& keep) {
    exec.for_each(e.rows(), [=](index_t r) {
      for (index_t i = keep.begins[r]; i < keep.begins[r + 1]; ++i)
        std::memcpy(keep.columns + i * bytes, columns + (r * e.tokens + keep.ranks[i]) * bytes,
                    static_cast<std::size_t>(bytes));
    });
    return {};
  }
};

template <host_executor Exec>
struct implementation<ops::list_kept_op, Exec> {
  template <class Text>
  static status run(Exec const& exec, Text const& text, fate const* fates, keep_set const& keep) {
    auto const& e = text.extents();
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const n = text.tokens(r / e.kv_heads, r % e.kv_heads);
      keep.begins[r + 1] = ops::kept_tokens(fates + r * e.tokens, n);
    });
    exec.for_each(1, [=](index_t) {
      keep.begins[0] = 0;
      for (index_t r = 0; r < e.rows(); ++r)
        keep.begins[r + 1] = detail::min(keep.room, keep.begins[r] + keep.begins[r + 1]);
    });
    exec.for_each(e.rows(), [=](index_t r) {
      index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
      index_t at = keep.begins[r];
      index_t const end = keep.begins[r + 1];
      fate const* const mine = fates + r * e.tokens;
      for (index_t i = 0; i < n && at < end; ++i) {  // no branch on the fates
        keep.ranks[at] = static_cast<std::int32_t>(i);
        keep.cells[at] = static_cast<std::int32_t>(text.cell(s, h, i));
        at += mine[i] != fate::evicted ? 1 : 0;
      }
    });
    return {};
  }
};

KVSLIM_END_NAMESPACE
