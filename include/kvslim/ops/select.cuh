// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/exec/cuda_cluster.cuh>
#include <kvslim/ops/contest.cuh>
#include <kvslim/ops/select.hpp>

KVSLIM_BEGIN_CUDA_NAMESPACE

/// One block per row. What is pinned, a sink and recent is listed turn by turn, in the order in
/// which the quota's count is given to it.
template <class Text>
KVSLIM_DETAIL_KERNEL void protect_kernel(Text text, slice<quota const> quotas, fate* fates) {
  auto const& e = text.extents();
  index_t const r = blockIdx.x, s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
  quota const q = quotas[r];
  fate* const mine = fates + r * e.tokens;
  for (index_t i = threadIdx.x; i < n; i += block_threads) mine[i] = fate::evicted;
  __syncthreads();
  auto const is = [&](index_t i, int turn) {
    return ops::protection(text.pinned(s, h, i), q, i, n) == turn;
  };
  index_t const newest = n - 1;
  index_t room = q.count;
  room -= block_list(
      n, room, [&](index_t i) { return is(i, 0); },
      [&](index_t i, index_t) { mine[i] = fate::sure; });
  room -= block_list(
      min(q.sinks, n), room, [&](index_t i) { return is(i, 1); },
      [&](index_t i, index_t) { mine[i] = fate::sure; });
  block_list(
      min(q.recent, n), room, [&](index_t i) { return is(newest - i, 2); },
      [&](index_t i, index_t) { mine[newest - i] = fate::sure; });
}

/// The key from which on the scores of a team's keys reach `need`, bit by bit from the top: 0 if
/// all together do not. `each(use)` calls use(key, mass) for every key of this thread. need > 0.
template <class Team, class Each>
__device__ std::uint64_t cover_threshold(std::int64_t need, Each const& each) {
  std::uint64_t threshold = 0;
  for (int bit = 63; bit >= 0; --bit) {
    std::uint64_t const higher = threshold | std::uint64_t{1} << bit;
    std::int64_t sum = 0;
    each([&](std::uint64_t key, std::int64_t mass) { sum += key >= higher ? mass : 0; });
    if (team_sum<Team>(sum) >= need) threshold = higher;
  }
  return threshold;
}

/// The open tokens of a stretch of a row. Where all fit, they are read once; the upper halves of
/// their keys lie in a block's shared memory then.
struct open_tokens {
  static constexpr index_t room = 8192;
  static constexpr std::uint32_t closed = 1;  // no score has this one

  fate const* fates;
  float const* scores;
  index_t begin, end;
  float least;
  std::uint32_t* held;  // [room]

  [[nodiscard]] __device__ bool fit() const { return end - begin <= room; }
  [[nodiscard]] __device__ std::uint32_t word(index_t i) const {
    return fates[i] == fate::evicted && ops::reaches(scores[i], least) ? ops::order_word(scores[i])
                                                                       : closed;
  }
  __device__ void read() const {
    if (fit())
      for (index_t i = begin + threadIdx.x; i < end; i += block_threads) held[i - begin] = word(i);
  }
  /// Calls use(index, key) for every open token of this thread, which has read it itself.
  template <class Use>
  __device__ void each(Use const& use) const {
    for (index_t i = begin + threadIdx.x; i < end; i += block_threads)
      if (auto const w = fit() ? held[i - begin] : word(i); w != closed)
        use(i, ops::order_key(w, i));
  }
};

/// One team per row; by single blocks of long rows those with a cover alone. The kept set is what
/// reaches a threshold among the keys of open tokens.
template <class Team, class Text>
KVSLIM_DETAIL_KERNEL void keep_best_kernel(Text text, score_view scores, slice<quota const> quotas,
                                           fate* fates, bool covers_only) {
  if constexpr (Team::exists) {
    KVSLIM_DETAIL_DYNAMIC_SHARED(shared);
    auto const& e = text.extents();
    index_t const r = blockIdx.x / Team::blocks, n = text.tokens(r / e.kv_heads, r % e.kv_heads),
                  stretch = div_up(n, index_t{Team::blocks}),
                  begin = min(n, Team::rank() * stretch), end = min(n, begin + stretch);
    quota const q = quotas[r];
    if (covers_only && !(q.cover > 0.0f)) return;
    fate* const mine = fates + r * e.tokens;
    float const* const score = scores.row(r);
    open_tokens const tokens{
        mine, score, begin, end, q.least, static_cast<std::uint32_t*>(static_cast<void*>(shared))};
    auto const each = [&](auto const& use) { tokens.each(use); };
    auto const all = [&](auto const& use) {
      for (index_t i = begin + threadIdx.x; i < end; i += block_threads) use(i);
    };
    tokens.read();
    index_t taken = 0, open = 0;
    all([&](index_t i) { taken += mine[i] != fate::evicted; });
    each([&](index_t, std::uint64_t) { ++open; });
    taken = team_sum<Team>(taken);
    open = team_sum<Team>(open);
    index_t const room = min(q.count - taken, open);
    if (room <= 0) return;
    std::uint64_t threshold = 0;
    if (room < open)
      threshold = block_threshold<Team>(
          room, [&](auto const& use) { each([&](index_t, std::uint64_t key) { use(key); }); });
    if (q.cover > 0.0f) {
      auto const larger = [](float a, float b) { return a > b ? a : b; };
      float largest = 0.0f;
      all([&](index_t i) { largest = larger(score[i], largest); });
      ops::mass_scale const scale(Team::over_blocks(over_block(largest, larger), larger));
      std::int64_t sum = 0, kept = 0;
      all([&](index_t i) {
        sum += scale(score[i]);
        kept += mine[i] != fate::evicted ? scale(score[i]) : 0;
      });
      sum = team_sum<Team>(sum);
      std::int64_t const need = ops::mass_scale::part_of(sum, q.cover) - team_sum<Team>(kept);
      if (need <= 0) return;
      std::uint64_t const covered = cover_threshold<Team>(need, [&](auto const& use) {
        each([&](index_t i, std::uint64_t key) { use(key, scale(score[i])); });
      });
      threshold = covered > threshold ? covered : threshold;
    }
    each([&](index_t i, std::uint64_t key) {
      if (key >= threshold) mine[i] = fate::kept;
    });
  }
}

/// Keys of long rows without a cover, which blocks all over the device look at.
template <class Text>
struct open_keys {
  Text text;
  score_view scores;
  slice<quota const> quotas;
  fate* fates;
  index_t stretches;  // of a row

  [[nodiscard]] __device__ index_t group_of(index_t part) const { return part / stretches; }
  /// Calls use(fate, key, is open) for every token of this thread.
  template <class Use>
  __device__ void tokens(index_t part, Use const& use) const {
    auto const& e = text.extents();
    index_t const r = group_of(part), n = text.tokens(r / e.kv_heads, r % e.kv_heads),
                  begin = part % stretches * key_stretch, end = min(n, begin + key_stretch);
    quota const q = quotas[r];
    fate* const mine = fates + r * e.tokens;
    float const* const score = scores.row(r);
    if (q.cover > 0.0f) return;
    for (index_t i = begin + threadIdx.x; i < end; i += block_threads)
      use(mine[i], ops::order_key(score[i], i),
          mine[i] == fate::evicted && ops::reaches(score[i], q.least));
  }
  template <class Use>
  __device__ void each(index_t part, Use const& use) const {
    tokens(part, [&](fate&, std::uint64_t key, bool open) {
      if (open) use(key);
    });
  }
};

/// One block per part: adds up tokens that are kept already (in .threshold) and open ones
/// (.wanted).
template <class Keys>
KVSLIM_DETAIL_KERNEL void count_open_kernel(Keys keys, threshold_space space) {
  index_t taken = 0, open = 0;
  keys.tokens(blockIdx.x, [&](fate one, std::uint64_t, bool is_open) {
    taken += one != fate::evicted ? 1 : 0;
    open += is_open ? 1 : 0;
  });
  taken = block_sum(taken);
  open = block_sum(open);
  if (threadIdx.x != 0) return;
  threshold_state& row = space.states[keys.group_of(blockIdx.x)];
  using word = unsigned long long;
  atomicAdd(reinterpret_cast<word*>(&row.threshold), static_cast<word>(taken));
  atomicAdd(reinterpret_cast<word*>(&row.wanted), static_cast<word>(open));
}
struct begin_rows_body {
  slice<quota const> quotas;
  threshold_space space;

  __device__ void operator()(index_t r) const {
    threshold_state const counted = space.states[r];
    space.begin(r, quotas[r].count - static_cast<index_t>(counted.threshold), counted.wanted);
  }
};
template <class Keys>
KVSLIM_DETAIL_KERNEL void keep_reaching_kernel(Keys keys, threshold_space space) {
  std::uint64_t const threshold = space.states[keys.group_of(blockIdx.x)].threshold;
  keys.tokens(blockIdx.x, [&](fate& one, std::uint64_t key, bool open) {
    if (open && key >= threshold) one = fate::kept;
  });
}

/// One block per row: how many it keeps, in begins[row + 1].
template <class Text>
KVSLIM_DETAIL_KERNEL void count_kept_kernel(Text text, fate const* fates, keep_set keep) {
  auto const& e = text.extents();
  index_t const r = blockIdx.x, n = text.tokens(r / e.kv_heads, r % e.kv_heads);
  index_t count = 0;
  for (index_t i = threadIdx.x; i < n; i += block_threads)
    count += fates[r * e.tokens + i] != fate::evicted ? 1 : 0;
  count = block_sum(count);
  if (threadIdx.x == 0) keep.begins[r + 1] = count;
}

/// One block: counts become begins, cut at the keep set's room.
template <class Keep>
KVSLIM_DETAIL_KERNEL void place_rows_kernel(Keep keep, index_t rows) {
  index_t end = 0;
  for (index_t base = 0; base < rows; base += block_threads) {
    index_t const r = base + threadIdx.x, mine = r < rows ? keep.begins[r + 1] : 0;
    auto const sum = block_scan(mine);
    if (r < rows) keep.begins[r + 1] = min(keep.room, end + sum.before + mine);
    end += sum.total;
  }
  if (threadIdx.x == 0) keep.begins[0] = 0;
}

/// One block per row: ranks and cells of what it keeps.
template <class Text>
KVSLIM_DETAIL_KERNEL void list_kept_kernel(Text text, fate const* fates, keep_set keep) {
  auto const& e = text.extents();
  index_t const r = blockIdx.x, s = r / e.kv_heads, h = r % e.kv_heads, first = keep.begins[r];
  block_list(
      text.tokens(s, h), keep.begins[r + 1] - first,
      [&](index_t i) { return fates[r * e.tokens + i] != fate::evicted; },
      [&](index_t i, index_t place) {
        keep.ranks[first + place] = static_cast<std::int32_t>(i);
        keep.cells[first + place] = static_cast<std::int32_t>(text.cell(s, h, i));
      });
}

/// Moves one word of one kept record. Index: [row, entry, word].
struct list_columns_body {
  index_t tokens, words;
  std::uint32_t const* columns;
  keep_set keep;

  __device__ void operator()(index_t at) const {
    index_t const r = at / (tokens * words), entry = keep.begins[r] + at / words % tokens;
    if (entry >= keep.begins[r + 1]) return;
    static_cast<std::uint32_t*>(static_cast<void*>(keep.columns))[entry * words + at % words] =
        columns[(r * tokens + keep.ranks[entry]) * words + at % words];
  }
};

/// Every held token is kept, pinned ones for sure.
template <class Text>
struct keep_all_body {
  Text text;
  fate* fates;
  __device__ void operator()(index_t at) const {
    auto const& e = text.extents();
    index_t const r = at / e.tokens, i = at % e.tokens, s = r / e.kv_heads, h = r % e.kv_heads;
    if (i < text.tokens(s, h)) fates[at] = text.pinned(s, h, i) ? fate::sure : fate::kept;
  }
};

KVSLIM_END_CUDA_NAMESPACE

KVSLIM_BEGIN_NAMESPACE

template <>
struct implementation<ops::protect_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, slice<quota const> quotas, fate* fates) {
    return detail::launch(exec, {text.extents().rows(), detail::block_threads},
                          detail::protect_kernel<Text>, text, quotas, fates);
  }
};

/// One kernel; for rows of more than 8192 tokens, on devices without clusters, sixteen and a fill.
template <>
struct implementation<ops::keep_best_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, score_view scores, slice<quota const> quotas,
                    std::uint64_t* keys, fate* fates) {
    if (text.extents().tokens <= detail::block_keys)
      return by_teams<detail::block_team>(exec, text, scores, quotas, fates, false);
    if (detail::runs_clusters(detail::keep_best_kernel<detail::cluster_team, Text>))
      return by_teams<detail::cluster_team>(exec, text, scores, quotas, fates, false);
    return by_passes(exec, text, scores, quotas, keys, fates);
  }

  /// A block or a cluster of blocks per row.
  template <class Team, class Text>
  static status by_teams(cuda exec, Text const& text, score_view scores, slice<quota const> quotas,
                         fate* fates, bool covers_only) {
    using tokens = detail::open_tokens;
    auto const& e = text.extents();
    index_t const held = detail::min(tokens::room, detail::div_up(e.tokens, index_t{Team::blocks}));
    return detail::launch(exec,
                          {e.rows() * Team::blocks, detail::block_threads,
                           held * static_cast<index_t>(sizeof(std::uint32_t)), Team::blocks},
                          detail::keep_best_kernel<Team, Text>, text, scores, quotas, fates,
                          covers_only);
  }

  /// Blocks all over the device look at rows, one digit of their keys at a time.
  template <class Text>
  static status by_passes(cuda exec, Text const& text, score_view scores, slice<quota const> quotas,
                          std::uint64_t* keys, fate* fates) {
    using keys_type = detail::open_keys<Text>;
    auto const& e = text.extents();
    if (auto const s = by_teams<detail::block_team>(exec, text, scores, quotas, fates, true); !s)
      return s;
    index_t const stretches = detail::div_up(e.tokens, detail::key_stretch),
                  parts = e.rows() * stretches;
    keys_type const open{text, scores, quotas, fates, stretches};
    detail::threshold_space const space(keys, e.rows());
    if (auto const s = space.clear(exec); !s) return s;
    if (auto const s = detail::launch(exec, {parts, detail::block_threads},
                                      detail::count_open_kernel<keys_type>, open, space);
        !s)
      return s;
    if (auto const s =
            detail::launch_for_each(exec, e.rows(), detail::begin_rows_body{quotas, space});
        !s)
      return s;
    if (auto const s = detail::find_thresholds(exec, open, parts, space); !s) return s;
    return detail::launch(exec, {parts, detail::block_threads},
                          detail::keep_reaching_kernel<keys_type>, open, space);
  }
};

template <>
struct implementation<ops::keep_all_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, fate* fates) {
    auto const& e = text.extents();
    return detail::launch_for_each(exec, e.rows() * e.tokens,
                                   detail::keep_all_body<Text>{text, fates});
  }
};

template <>
struct implementation<ops::list_columns_op, cuda> {
  static status run(cuda exec, extents const& e, std::byte const* columns, index_t bytes,
                    keep_set const& keep) {
    index_t const words = bytes / 4;
    return detail::launch_for_each(
        exec, e.rows() * e.tokens * words,
        detail::list_columns_body{
            e.tokens, words, static_cast<std::uint32_t const*>(static_cast<void const*>(columns)),
            keep});
  }
};

template <>
struct implementation<ops::list_kept_op, cuda> {
  template <class Text>
  static status run(cuda exec, Text const& text, fate const* fates, keep_set const& keep) {
    index_t const rows = text.extents().rows();
    if (auto const s = detail::launch(exec, {rows, detail::block_threads},
                                      detail::count_kept_kernel<Text>, text, fates, keep);
        !s)
      return s;
    if (auto const s = detail::launch(exec, {1, detail::block_threads},
                                      detail::place_rows_kernel<keep_set>, keep, rows);
        !s)
      return s;
    return detail::launch(exec, {rows, detail::block_threads}, detail::list_kept_kernel<Text>, text,
                          fates, keep);
  }
};

KVSLIM_END_NAMESPACE
