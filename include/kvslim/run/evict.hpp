// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/gate.hpp>
#include <kvslim/ops/score_tokens.hpp>
#include <kvslim/ops/text_order.hpp>
#include <kvslim/run/append.hpp>
#include <kvslim/run/select.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// What choose_victims works in.
struct victim_space {
  std::int32_t* cells;   // [rows, slots]
  std::int32_t* counts;  // [rows]
  std::uint64_t* keys;   // [rows, slots]
  float* scores;         // [rows, slots], with a scorer that composes ops or shares
  float* gated;          // [rows, slots] x 3, with a scorer that gates
};

template <class Plan>
[[nodiscard]] constexpr victim_space carve_victims(Plan const& plan, carver& c) noexcept {
  index_t const rows = plan.extents().rows(), all = rows * plan.most_slots();
  victim_space w{};
  w.cells = c.take<std::int32_t>(all);
  w.counts = c.take<std::int32_t>(rows);
  w.keys = c.take<std::uint64_t>(all);
  w.scores = c.take<float>(all);
  if constexpr (Plan::gates) w.gated = c.take<float>(all * 3);
  return w;
}

/// Columns of a stored cache, by slot.
template <class Column, class Packed>
struct stored_columns {
  Packed packed;

  [[nodiscard]] KVSLIM_HD Column operator()(index_t row, index_t, index_t slot) const noexcept {
    if constexpr (std::is_empty_v<Column>)
      return {};
    else
      return static_cast<Column const*>(static_cast<void const*>(packed.columns(row)))[slot];
  }
};

/// Scores of a stored cache's tokens, by rank.
template <class Exec, class Scorer, class Text>
[[nodiscard]] status score_stored(Exec const& exec, Scorer const& scorer, Text const& text,
                                  float* scratch, score_view out) {
  static_assert(!Scorer::traits.bulk,
                "kvslim: only token scorers choose victims; use recompress for others");
  using packed = std::remove_cvref_t<decltype(text.cells.packed)>;
  stored_columns<column_of<Scorer>, packed> const columns{text.cells.packed};
  if (auto const s = ops::score_gated(exec, scorer, text, columns, scratch, out); !s) return s;
  if constexpr (is_shared<Scorer>)
    return ops::share_scores(exec, text, {scorer.rows, scorer.how, scorer.leads}, out);
  else
    return {};
}

/// What a quota that gives every row its own gives to one with `tokens` tokens.
template <class Plan>
[[nodiscard]] KVSLIM_HD inline quota quota_of_row(Plan const& plan, index_t row, index_t tokens) {
  auto const& policy = plan.template stage<quota_tag>();
  row_facts const facts{.row = row, .tokens = tokens, .recent = plan.protected_recent()};
  quota q{};
  policy.allocate(slice<row_facts const>{&facts, 1}, slice<quota>{&q, 1});
  q.count = min(q.count, policy.most(plan.extents()));
  q.recent = max(q.recent, facts.recent);
  return q;
}

/// The slot that row r gives up for its quota: the lowest score among unprotected tokens, the
/// latest in text order among equals; -1: the row is within its count and reaches its least, or all
/// it holds is protected.
template <class Text>
[[nodiscard]] KVSLIM_HD inline std::int32_t worst_slot(Text const& text, score_view scores,
                                                       quota const& q, index_t r) {
  auto const& e = text.extents();
  index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
  bool const over = n > q.count;
  if (!over && q.least == -INFINITY) return -1;
  std::uint64_t worst = ~std::uint64_t{0};
  index_t at = -1;
  for (index_t i = 0; i < n; ++i) {
    if (ops::protection(text.pinned(s, h, i), q, i, n) != 3) continue;
    std::uint64_t const key = ops::order_key(scores.row(r)[i], i);
    if (key < worst) {
      worst = key;
      at = i;
    }
  }
  if (at < 0 || (!over && ops::reaches(scores.row(r)[at], q.least))) return -1;
  return static_cast<std::int32_t>(text.cell(s, h, at));
}

/// What both backends check before victims are chosen.
template <class Plan, class Packed>
[[nodiscard]] status check_victims(Plan const& plan, Packed const& packed,
                                   std::int32_t const* victims) noexcept {
  static_assert(Plan::has_scorer && Plan::has_quota,
                "kvslim: choose_victims needs a pipeline with a scorer and a quota");
  using quota_type = std::remove_cvref_t<decltype(plan.template stage<quota_tag>())>;
  static_assert(!quota_type::traits.contests && !quota_type::traits.statistics,
                "kvslim: a quota that holds contests decides once; use recompress while decoding");
  static_assert(quota_within_reach<Plan, typename Packed::space>,
                "kvslim: the quota's table lies in other memory than the cache: name its space, "
                "head_table<kvslim::cuda_space>, say");
  if (auto const s = plan.check(); !s) return s;
  if (packed.storage() == nullptr || victims == nullptr)
    return fail(errc::invalid_pointer, "kvslim: choose_victims was given a null pointer");
  if (packed.layout().find(side_kind::position) < 0)
    return fail(errc::unsupported, "kvslim: tokens leave only caches planned with .evicts = true");
  if constexpr (Plan::observes)
    if (packed.layout().find(side_kind::column) < 0)
      return fail(errc::unsupported, "kvslim: the cache has no columns for this scorer");
  if (!quota_type::traits.rows_apart && plan.template stage<quota_tag>().group().size() != 1)
    return fail(errc::unsupported,
                "kvslim: while decoding every row has its own quota; use recompress");
  return {};
}

}  // namespace detail

/// Bytes of scratch for choose_victims.
template <class Plan>
[[nodiscard]] constexpr std::size_t victim_bytes(Plan const& plan) noexcept {
  if (!plan.check()) return 0;
  detail::carver c(nullptr);
  static_cast<void>(detail::carve_victims(plan, c));
  return static_cast<std::size_t>(c.used());
}

/// Names one slot of every row that holds more than its quota: the token with the lowest score that
/// is no sink, not recent and was not pinned in the view; -1 elsewhere. Call it again after evict()
/// where several must go.
///
/// Shapes: victims [rows]; scratch victim_bytes(plan). The cache was planned with `.evicts = true`.
/// Requires: a token scorer (bare or shared) and a quota that gives each row its own.
/// Returns: unsupported, invalid_pointer, buffer_too_small, corrupt. Cost: the scorer's over what
/// is held; positions are sorted where slots were filled again.
template <host_executor Exec, class Plan, class Key, class Value>
status choose_victims(Exec const& exec, Plan const& plan,
                      packed_cache<Key, Value, host_space> const& packed, std::int32_t* victims,
                      workspace scratch, step at = {}) {
  static_assert(Plan::has_scorer && Plan::has_quota,
                "kvslim: choose_victims needs a pipeline with a scorer and a quota");
  if (auto const s = detail::check_victims(plan, packed, victims); !s) return s;
  if (!packed.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  if (auto const s = detail::resolve(at, packed.extents()); !s) return s;
  if (auto const s = detail::check_workspace(scratch, victim_bytes(plan)); !s) return s;
  index_t const most = plan.most_slots(), rows = packed.extents().rows();
  for (index_t r = 0; r < rows; ++r)
    if (packed.raw_row(r).slots > most)
      return detail::fail(errc::invalid_shape,
                          "kvslim: a row holds more than the plan has room for");
  detail::carver carve(scratch.data);
  auto const w = detail::carve_victims(plan, carve);
  using cells_type = detail::packed_cells<packed_cache<Key, Value, host_space>>;
  auto e = packed.extents();
  e.tokens = most;
  text<cells_type> ordered{cells_type{packed, e}};
  if (auto const s =
          ops::make_text_order(exec, ordered.cells, {w.cells, w.counts, w.keys}, ordered.order);
      !s)
    return s;
  score_view const scores{w.scores, most};
  if (auto const s =
          detail::score_stored(exec, plan.template stage<scorer_tag>(), ordered, w.gated, scores);
      !s)
    return s;
  index_t const first = at.first_sequence * e.kv_heads, count = at.sequences * e.kv_heads;
  exec.for_each(count, [=](index_t i) {
    index_t const r = first + i;
    victims[r] = -1;
    if (!detail::is_active(at, e, r)) return;
    quota const q = detail::quota_of_row(plan, r, ordered.tokens(r / e.kv_heads, r % e.kv_heads));
    victims[r] = detail::worst_slot(ordered, scores, q, r);
  });
  return {};
}

/// Takes one token out of every row whose victims[row] is a slot (not -1): attention no longer sees
/// it, settle() gives its slot to a newer token where both codecs rewrite; elsewhere holes stay
/// until recompress().
///
/// Returns: unsupported (a cache planned without .evicts), invalid_shape (a slot that is out of
/// range or already empty), corrupt, invalid_pointer; then nothing was changed. Cost: four bytes a
/// row.
template <host_executor Exec, class Key, class Value>
status evict(Exec const& exec, packed_cache<Key, Value, host_space> const& packed,
             std::int32_t const* victims, step at = {}) {
  if (packed.storage() == nullptr || victims == nullptr)
    return detail::fail(errc::invalid_pointer, "kvslim: evict was given a null pointer");
  if (!packed.ready())
    return detail::fail(errc::corrupt, "kvslim: the packed cache was never filled");
  auto const& e = packed.extents();
  if (!packed.layout().lets_go())
    return detail::fail(errc::unsupported,
                        "kvslim: tokens leave only caches planned with .evicts = true, whose rows "
                        "share no blocks and have no index");
  if (auto const s = detail::resolve(at, e); !s) return s;
  index_t const first = at.first_sequence * e.kv_heads, count = at.sequences * e.kv_heads;
  for (index_t r = first; r < first + count; ++r)
    if (victims[r] != -1 && detail::is_active(at, e, r) &&
        (victims[r] < 0 || victims[r] >= packed.raw_row(r).slots ||
         packed.stored_positions(r)[victims[r]] == empty_slot))
      return detail::fail(errc::invalid_shape, "kvslim: a victim is no slot that holds a token");
  detail::meet(exec);
  exec.for_each(count, [=](index_t i) {
    index_t const r = first + i;
    if (victims[r] < 0 || !detail::is_active(at, e, r)) return;
    packed.stored_positions(r)[victims[r]] = empty_slot;
    ++packed.raw_row(r).holes;
  });
  return {};
}

KVSLIM_END_NAMESPACE
