// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

#include <kvslim/ops/assign.hpp>
#include <kvslim/ops/finite.hpp>
#include <kvslim/ops/fold.hpp>
#include <kvslim/ops/gate.hpp>
#include <kvslim/ops/observe.hpp>
#include <kvslim/ops/rows.hpp>
#include <kvslim/ops/score_tokens.hpp>
#include <kvslim/ops/select.hpp>
#include <kvslim/ops/text_order.hpp>
#include <kvslim/run/plan.hpp>

KVSLIM_BEGIN_NAMESPACE

namespace detail {

/// Where a quota has a table, it is memory that the executor reads.
template <class Plan, class Space>
inline constexpr bool quota_within_reach = [] {
  if constexpr (Plan::has_quota) {
    using quota_type = typename Plan::policy_type::template stage_type<quota_tag>;
    return quota_type::traits.table == table_memory::none ||
           quota_type::traits.table == memory_of<Space>;
  }
  return true;
}();

/// What both backends check before a call of select or score writes anything.
template <class Plan, class Cells, class Evidence>
[[nodiscard]] status check_select(Plan const& plan, Cells const& cells, Evidence const& evidence) {
  static_assert(quota_within_reach<Plan, typename Cells::space>,
                "kvslim: the quota's table lies in other memory than the cache: name its space, "
                "head_table<kvslim::cuda_space>, say");
  if (auto const s = plan.check(); !s) return s;
  if (!(cells.extents() == plan.extents()))
    return fail(errc::invalid_shape, "kvslim: the cache's extents are not those of the plan");
  if constexpr (requires { cells.lengths; })
    if (auto const s = check_cache(cells); !s) return s;
  if constexpr (Plan::has_scorer) {
    auto const& scorer = plan.template stage<scorer_tag>();
    using scorer_type = std::remove_cvref_t<decltype(scorer)>;
    static_assert(provides_all<Evidence, typename traits_of<scorer_type>::needs>::value,
                  "kvslim: the scorer reads evidence that was not passed: add it to "
                  "kvslim::evidence{...}");
    if constexpr (scorer_type::traits.bulk)
      if (auto const s = scorer.check(text<Cells>{cells}, evidence); !s) return s;
    if constexpr (scorer_type::traits.observes)
      if (auto const s = ops::check_queries(evidence.template get<needs_window_queries>().queries,
                                            plan.extents());
          !s)
        return s;
  }
  return {};
}

/// Hands out one group's quotas, cut to what the plan has room for. One sequential thread.
template <class Plan>
KVSLIM_HD inline void allocate_group(Plan const& plan, index_t g, select_space const& w) {
  auto const& e = plan.extents();
  auto const& policy = plan.template stage<quota_tag>();
  row_group const group = policy.group();
  index_t const size = group.size(), first = group.group_row(e, g);
  row_facts* const facts = w.facts + g * size;
  quota* const mine = w.grouped_quotas + g * size;
  for (index_t m = 0; m < size; ++m) mine[m] = {};
  policy.allocate(slice<row_facts const>{facts, size}, slice<quota>{mine, size});
  index_t const total = policy.total(e), most = policy.most(e);
  index_t given = 0;
  for (index_t m = 0; m < size; ++m) {
    quota q = mine[m];
    q.count = max(0, min(min(q.count, most), min(facts[m].tokens, total - given)));
    q.sinks = max(0, q.sinks);
    q.recent = max(max(0, q.recent), facts[m].recent);
    given += q.count;
    w.quotas[group.member_row(e, first, m)] = q;
  }
}

/// What allocate is told of member m of group g, before any contest.
template <class Plan, class Text>
KVSLIM_HD inline void state_facts(Plan const& plan, Text const& text, select_space const& w,
                                  index_t g, index_t m) {
  auto const& e = plan.extents();
  row_group const group = plan.template stage<quota_tag>().group();
  index_t const r = group.member_row(e, group.group_row(e, g), m);
  w.facts[g * group.size() + m] = {.row = r,
                                   .tokens = text.tokens(r / e.kv_heads, r % e.kv_heads),
                                   .recent = plan.protected_recent()};
  if constexpr (Plan::reads_statistics) w.facts[g * group.size() + m].stated = w.stated[r];
}

struct allocate_op {};
struct merge_runs_op {};

/// Columns of a view's tokens: what the window's queries pay to them.
template <class Exec, class Plan, class View, class Evidence>
[[nodiscard]] status fill_columns(Exec const& exec, Plan const& plan, text<View> const& text,
                                  Evidence const& evidence, std::byte* columns, float* scratch) {
  return ops::observe_queries(exec, plan.template stage<scorer_tag>(), text,
                              evidence.template get<needs_window_queries>().queries,
                              plan.options().logit, columns, scratch);
}

/// Scores of a text by any scorer, columns first where it observes.
template <class Exec, class Plan, class Text, class Evidence>
[[nodiscard]] status score_text(Exec const& exec, Plan const& plan, Text const& text,
                                Evidence const& evidence, std::byte* columns, float* scratch,
                                score_view out) {
  auto const& scorer = plan.template stage<scorer_tag>();
  using scorer_type = std::remove_cvref_t<decltype(scorer)>;
  status done{};
  if constexpr (scorer_type::traits.observes)
    if (done = fill_columns(exec, plan, text, evidence, columns, scratch); !done) return done;
  if constexpr (scorer_type::traits.bulk) {
    done = scorer.score(exec, text, evidence, out, scratch);
  } else {
    using column = column_of<scorer_type>;
    columns_by_rank<column> const mine{
        static_cast<column const*>(static_cast<void const*>(columns)), text.extents().tokens};
    done = ops::score_gated(exec, scorer, text, mine, scratch, out);
  }
  if constexpr (is_shared<scorer_type>)
    if (done) done = ops::share_scores(exec, text, {scorer.rows, scorer.how, scorer.leads}, out);
  return done;
}

/// True in good[r] if every held K (and V) row is finite.
template <class Exec, class Cells>
[[nodiscard]] status check_finite(Exec const& exec, Cells const& cells, std::uint8_t* good) {
  auto const e = cells.extents();
  exec.for_each(e.rows(), [=](index_t r) {
    index_t const s = r / e.kv_heads, h = r % e.kv_heads;
    bool ok = true;
    for (index_t t = 0; t < cells.length(s, h) && ok; ++t)
      ok = cells.state(s, h, t) == token_state::padding ||
           ops::row_within(cells.key(s, h, t), ops::largest_float);
    good[r] = ok ? 1 : 0;
  });
  for (index_t r = 0; r < e.rows(); ++r)
    if (good[r] == 0) return fail(errc::non_finite, "kvslim: K holds NaN or infinity");
  return {};
}

/// Runs a merger over one row's fates: who joins whom, and which tokens stand for a run.
template <class Plan, class Text>
KVSLIM_HD inline void merge_row(Plan const& plan, Text const& text, select_space const& w,
                                keep_set const& keep, index_t r) {
  auto const& e = plan.extents();
  index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = text.tokens(s, h);
  float* const a = w.staging + r * 2 * e.head_dim;
  auto const similar = [&](index_t i) {
    text.key(s, h, i).load(a);
    text.key(s, h, i + 1).load(a + e.head_dim);
    return ops::cosine(a, a + e.head_dim, e.head_dim);
  };
  auto const visible = [&](index_t i) { return text.logit_bias(s, h, i) > -INFINITY; };
  std::int32_t* const merged = keep.merged + r * e.tokens;
  fate* const fates = w.fates + r * e.tokens;
  ops::form_runs(ops::run_row{plan.template stage<merger_tag>().joins(), w.scores + r * e.tokens,
                              fates, Plan::has_quota, n, similar, visible},
                 merged);
  for (index_t i = 0; i < n; ++i) fates[i] = merged[i] == i ? fate::kept : fate::evicted;
}

/// The steps of select, on either backend.
template <class Exec, class Plan, class Cells, class Evidence>
[[nodiscard]] status run_select(Exec const& exec, Plan const& plan, Cells const& cells,
                                Evidence const& evidence, keep_set& keep, select_space const& w) {
  auto const& e = plan.extents();
  text<Cells> ordered{cells};
  ops::text_order_memory const order{keep.order_cells, keep.order_counts, w.keys};
  if (auto const s = ops::make_text_order(exec, cells, order, ordered.order); !s) return s;
  score_view const scores{w.scores, e.tokens, w.stated};
  if constexpr (Plan::has_scorer)
    if (auto const s = score_text(exec, plan, ordered, evidence, w.columns, w.scratch, scores); !s)
      return s;
  if constexpr (Plan::has_quota) {
    slice<quota const> const quotas{w.quotas, e.rows()};
    if (auto const s = implementation<allocate_op, Exec>::run(exec, plan, ordered, scores, w); !s)
      return s;
    if (auto const s = ops::protect(exec, ordered, quotas, w.fates); !s) return s;
    if constexpr (Plan::has_keep_rule) {
      if (auto const s =
              plan.template stage<keep_tag>().keep(exec, ordered, scores, quotas, w.fates, w.rule);
          !s)
        return s;
    } else {
      if (auto const s = ops::keep_best(exec, ordered, scores, quotas, w.keys, w.fates); !s)
        return s;
    }
  } else {
    if (auto const s = ops::keep_all(exec, ordered, w.fates); !s) return s;
  }
  if constexpr (Plan::assigns) {
    auto const& merger = plan.template stage<merger_tag>();
    if (keep.fold.memory != nullptr)
      if (auto const s = ops::recall(exec, ordered, Plan::memory_id, plan.row_bytes(), keep.fold);
          !s)
        return s;
    if (auto const s = merger.assign(exec, ordered, scores, w.fates, keep.fold, w.staging); !s)
      return s;
    if (auto const s = ops::group_sources(exec, ordered, keep.fold, w.fates); !s) return s;
  } else if constexpr (Plan::has_merger) {
    if (auto const s = implementation<merge_runs_op, Exec>::run(exec, plan, ordered, w, keep); !s)
      return s;
  }
  if (auto const s = ops::list_kept(exec, ordered, w.fates, keep); !s) return s;
  if constexpr (Plan::observes)
    if (auto const s = ops::list_columns(exec, e, w.columns, Plan::column_bytes, keep); !s)
      return s;
  keep.order = ordered.order;
  return {};
}

}  // namespace detail

template <host_executor Exec>
struct implementation<detail::allocate_op, Exec> {
  template <class Plan, class Text>
  static status run(Exec const& exec, Plan const& plan, Text const& text, score_view scores,
                    detail::select_space const& w) {
    auto const& e = plan.extents();
    auto const& policy = plan.template stage<quota_tag>();
    row_group const group = policy.group();
    exec.for_each(e.rows(), [=](index_t i) {
      detail::state_facts(plan, text, w, i / group.size(), i % group.size());
    });
    if constexpr (std::remove_cvref_t<decltype(policy)>::traits.contests)
      if (auto const s =
              ops::hold_contest(exec, text, scores, group, policy.open(e, plan.protected_recent()),
                                w.keys, slice<row_facts>{w.facts, e.rows()});
          !s)
        return s;
    exec.for_each(group.groups(e), [=](index_t g) { detail::allocate_group(plan, g, w); });
    return {};
  }
};

template <host_executor Exec>
struct implementation<detail::merge_runs_op, Exec> {
  template <class Plan, class Text>
  static status run(Exec const& exec, Plan const& plan, Text const& text,
                    detail::select_space const& w, keep_set const& keep) {
    exec.for_each(plan.extents().rows(),
                  [=](index_t r) { detail::merge_row(plan, text, w, keep, r); });
    return {};
  }
};

/// Scores every token of every row, without selecting: to reduce scores over layers that no single
/// view can hold, say. Out by rank (text order), 0 beyond a row's tokens.
///
/// Shapes: out [rows, tokens]; scratch of plan.select_bytes() + plan.keep_bytes().
/// Requires: a pipeline with a scorer. Returns: as select().
template <host_executor Exec, class Plan, class Cache, class Evidence>
status score(Exec const& exec, Plan const& plan, Cache const& cache, Evidence const& evidence,
             score_view out, workspace scratch) {
  static_assert(Plan::has_scorer, "kvslim: this pipeline has no scorer");
  if (auto const s = detail::check_select(plan, cache, evidence); !s) return s;
  if (out.data == nullptr || out.tokens < plan.extents().tokens)
    return detail::fail(errc::invalid_pointer, "kvslim: score needs out [rows, tokens]");
  if (auto const s = detail::check_workspace(scratch, plan.select_bytes() + plan.keep_bytes()); !s)
    return s;
  detail::carver carve(scratch.data);
  auto const keep = plan.carve_keep(carve);
  auto const w = plan.carve_select(carve);
  if (auto const s = detail::check_finite(exec, cache, w.good); !s) return s;
  text<Cache> ordered{cache};
  ops::text_order_memory const order{keep.order_cells, keep.order_counts, w.keys};
  if (auto const s = ops::make_text_order(exec, cache, order, ordered.order); !s) return s;
  return detail::score_text(exec, plan, ordered, evidence, w.columns, w.scratch, out);
}

/// Decides what stays: score, allocate, keep, merge. Fills `keep`, a keep set in memory of the
/// caller's (plan.keep), which encode() and ops::compact() read.
///
/// Requires: scratch of plan.select_bytes(). Returns: invalid_shape, invalid_option,
/// invalid_pointer, buffer_too_small, non_finite (K, with a scorer); then `keep` holds nothing of
/// use. Cost: one checking pass over K, the scorer's, and a selection linear in tokens.
template <host_executor Exec, class Plan, class Cache, class Evidence>
status select(Exec const& exec, Plan const& plan, Cache const& cache, Evidence const& evidence,
              keep_set& keep, workspace scratch) {
  static_assert(std::same_as<typename Cache::space, host_space>,
                "kvslim: a CPU executor was given a device view: pass kvslim::cuda{stream} or a "
                "host view");
  if (auto const s = detail::check_select(plan, cache, evidence); !s) return s;
  if (keep.begins == nullptr || keep.cells == nullptr || keep.ranks == nullptr ||
      keep.order_cells == nullptr || keep.room < plan.total_kept())
    return detail::fail(errc::invalid_pointer,
                        "kvslim: select needs a keep set made by plan.keep(memory)");
  if (auto const s = detail::check_workspace(scratch, plan.select_bytes()); !s) return s;
  detail::carver carve(scratch.data);
  auto const w = plan.carve_select(carve);
  if constexpr (Plan::has_scorer)  // nothing else reads K; encode() checks what it stores
    if (auto const s = detail::check_finite(exec, cache, w.good); !s) return s;
  return detail::run_select(exec, plan, cache, evidence, keep, w);
}

KVSLIM_END_NAMESPACE
