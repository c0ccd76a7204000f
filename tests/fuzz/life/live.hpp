// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// One life: a scene is laid out, compressed in several layouts, and lived with.

#include "life/steps.hpp"
#include "life/views.hpp"

namespace life {

/// What a policy of the table needs to be told.
struct habits {
  losses loss;
  index_t unit = 4;       // head_dim and value_dim are multiples of it
  index_t window = 1;     // of the window queries
  bool exact_top = true;  // rows keep min(budget, tokens)
};

template <class Packed>
struct stored {
  memory storage;
  Packed packed;
};

/// Whether a plan's quota is top_k, whose answer is known.
template <class Plan>
inline constexpr bool is_top =
    std::same_as<typename Plan::policy_type::template stage_type<kvslim::quota_tag>, kvslim::top_k>;

template <class Plan>
using packed_of =
    kvslim::packed_cache<typename Plan::key_codec_type, typename Plan::value_codec_type>;

/// Every size is 0 where the plan does not check.
template <class Plan>
bool sizes_agree(Plan const& plan) {
  if (plan.check()) return true;
  LIFE_CHECK(plan.packed_bytes() == 0 && plan.workspace_bytes() == 0 && plan.keep_bytes() == 0);
  LIFE_CHECK(plan.select_bytes() == 0 && plan.encode_bytes() == 0 && plan.most_kept() == 0);
  LIFE_CHECK(plan.total_kept() == 0);
  return false;
}

/// For codecs that read a table, whatever its shape.
inline kvslim::codec_tables some_tables() {
  static std::vector<float> const numbers = [] {
    std::vector<float> x(std::size_t{1} << 17);
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = (static_cast<float>(i * 7919 % 211) - 105.0f) * 2e-3f;
    return x;
  }();
  return {numbers.data(), numbers.data()};
}

template <class Plan, class View, class Evidence>
bool try_compress(Plan const& plan, View const& view, Evidence const& evidence, memory& storage) {
  storage = memory(plan.packed_bytes());
  memory scratch(plan.workspace_bytes());
  packed_of<Plan> packed(plan.layout(), storage.data(), storage.size());
  packed.bind(some_tables());
  auto const before = storage.copy();
  auto const s = kvslim::compress(kvslim::cpu{}, plan, view, evidence, packed,
                                  kvslim::workspace{scratch.data(), scratch.size()});
  if (!s) LIFE_CHECK(storage.equals(before));
  return s.ok();
}

/// Counts, protected tokens, and what the kept ones hold.
template <class Plan, class Cells>
void check_kept(Plan const& plan, packed_of<Plan> const& packed, scene const& x, Cells const& cells,
                habits const& h) {
  if constexpr (!Plan::has_merger && !Plan::has_mover) {
    shadow want;
    want.loss = h.loss;
    want.k_spread.assign(at(x.rows()), 0.0);
    want.v_spread.assign(at(x.rows()), 0.0);
    want.rows.resize(at(x.rows()));
    for (index_t r = 0; r < x.rows(); ++r) {
      index_t const n = x.lengths[at(r)], dim = x.e.head_dim, wide = x.e.value_width();
      auto const row = decode_row(packed, r);
      std::set<std::int32_t> const kept(row.positions.begin(), row.positions.end());
      for (index_t t = 0; t < n; ++t) {
        token held;
        held.k.assign(x.k[at(r)].begin() + t * dim, x.k[at(r)].begin() + (t + 1) * dim);
        held.v.assign(x.v[at(r)].begin() + t * wide, x.v[at(r)].begin() + (t + 1) * wide);
        held.bias = x.biases[at(r)][at(t)];
        held.pinned = x.pins[at(r)][at(t)] == 2;
        want.came(r, held);
        if (kept.count(cells.position(r, t)) != 0)
          want.rows[at(r)].emplace(cells.position(r, t), held);
      }
      want.next.push_back(n == 0 ? 0 : cells.position(r, n - 1) + 1);
      if constexpr (is_top<Plan>) {
        auto const& q = plan.template stage<kvslim::quota_tag>().opt;
        if (!h.exact_top) continue;
        LIFE_CHECK(static_cast<index_t>(kept.size()) == std::min(q.budget, n));
        std::vector<index_t> sure;
        auto const give = [&](index_t t) {
          if (std::find(sure.begin(), sure.end(), t) == sure.end()) sure.push_back(t);
        };
        for (index_t t = 0; t < n; ++t)
          if (x.pins[at(r)][at(t)] == 2) give(t);
        for (index_t t = 0; t < std::min(q.sinks, n); ++t) give(t);
        index_t const recent = std::max(q.recent, plan.protected_recent());
        for (index_t t = n - 1; t >= std::max<index_t>(0, n - recent); --t) give(t);
        for (std::size_t i = 0; i < sure.size() && i < at(q.budget); ++i)
          LIFE_CHECK(kept.count(cells.position(r, sure[i])) == 1);
      } else if constexpr (!Plan::has_quota) {
        LIFE_CHECK(static_cast<index_t>(kept.size()) == n);
      }
    }
    compare(packed, want);
  }
}

/// Runs the pipeline again over what is stored; the result lives on.
template <class Plan>
void do_recompress(dice& d, Plan const& plan, stored<packed_of<Plan>>& now, shadow& x,
                   habits const& h, scene const& scene_of) {
  auto e = plan.extents();
  e.tokens = d.small(3) + 1;
  for (index_t r = 0; r < e.rows(); ++r)
    e.tokens = std::max<index_t>(e.tokens, now.packed.raw_row(r).slots);
  auto const again = kvslim::make_plan(plan.policy(), e, plan.options());
  LIFE_OK(again.check());
  LIFE_CHECK(again.layout().header().fingerprint == plan.layout().header().fingerprint);
  memory storage(again.packed_bytes()), scratch(again.workspace_bytes());
  packed_of<Plan> to(again.layout(), storage.data(), storage.size());
  to.bind(some_tables());
  std::vector<float> scores(at(e.rows() * e.tokens));
  for (float& y : scores) y = d.normal();
  auto const before = now.storage.copy(), empty = storage.copy();
  kvslim::rows_view<float const> const queries =
      kvslim::dense_rows<kvslim::host_space, float const>(
          scene_of.queries.data(), {e.sequences, scene_of.q_heads(), scene_of.window, e.head_dim});
  auto const s = kvslim::recompress(
      kvslim::cpu{}, again, now.packed, to, kvslim::workspace{scratch.data(), scratch.size()},
      kvslim::evidence{kvslim::window_queries{queries}, kvslim::token_scores<>{scores.data()}});
  LIFE_CHECK(now.storage.equals(before));
  if (!s) {
    LIFE_CHECK(storage.equals(empty));
    if (s.code == kvslim::errc::non_finite) {  // tables may make more of a row than f16 holds
      shadow const held = read_back(now.packed, h.loss);
      double const most = std::max(*std::max_element(held.k_spread.begin(), held.k_spread.end()),
                                   *std::max_element(held.v_spread.begin(), held.v_spread.end()));
      LIFE_CHECK(most > 2 * 46000.0);  // f16's largest, turned by rotation
      return;
    }
    LIFE_CHECK(Plan::has_merger || plan.layout().find(kvslim::side_kind::position) < 0 ||
               (Plan::observes && !plan.options().evicts));
    return;
  }
  auto fresh = read_back(to, h.loss);
  if constexpr (!Plan::has_merger && !Plan::has_mover) {
    shadow kept = x;
    for (index_t r = 0; r < e.rows(); ++r) {
      auto& row = kept.rows[at(r)];
      auto const n = static_cast<index_t>(row.size());
      for (auto i = row.begin(); i != row.end();)
        i = fresh.rows[at(r)].count(i->first) == 0 ? row.erase(i) : std::next(i);
      if constexpr (is_top<Plan>) {
        if (h.exact_top)
          LIFE_CHECK(static_cast<index_t>(row.size()) ==
                     std::min(n, plan.template stage<kvslim::quota_tag>().opt.budget));
      } else if constexpr (!Plan::has_quota) {
        LIFE_CHECK(static_cast<index_t>(row.size()) == n);
      }
    }
    kept.loss.k *= 2.5;  // coded twice
    kept.loss.v *= 2.5;
    compare(to, kept);
  }
  now = {std::move(storage), to};
  x = std::move(fresh);
}

template <class TK, class TV, class Policy>
void live(dice& d, Policy const& policy, habits const& h) {
  using kvslim::extents;
  auto const dim = [&] {
    return h.unit * d.in(1, std::max<index_t>(1, d.one_in(4) ? 160 / h.unit : 40 / h.unit));
  };
  extents e{d.in(1, 3), d.in(1, 3), d.one_in(3) ? d.in(1, 8) : d.in(1, 150), dim(), 0};
  if (d.one_in(3)) e.value_dim = dim();
  index_t const group = d.one_in(4) ? d.in(5, 9) : d.in(1, 4);
  where = "draw";
  scene const x = draw_scene<TK, TV>(d, e, group, h.window);
  laid_out<TK, TV> cells(d, x);
  cells.lay(d, d.pick(all_kinds), d.pick(all_kinds));
  kvslim::plan_options o{.append_tokens = d.one_in(3) ? 0 : d.in(1, 60),
                         .draft_tokens = d.in(1, 6),
                         .row_slots = d.one_in(4) ? d.in(0, 200) : 0,
                         .evicts = d.one_in(2),
                         .positions = d.one_in(2),
                         .biases = x.has_biases || d.one_in(5)};
  if constexpr (decltype(kvslim::make_plan(policy, e, o))::has_index) o.evicts = false;
  if (d.one_in(3)) o.logit.scale = 0.05f + 0.1f * std::abs(d.normal());
  if (d.one_in(4)) o.logit.soft_cap = 2.0f + 10.0f * std::abs(d.normal());
  auto view = cells.view();
  auto plan = kvslim::make_plan(policy, view.extents(), o);
  if (!sizes_agree(plan)) return;
  using plan_type = decltype(plan);
  kvslim::window_queries const queries{kvslim::dense_rows<kvslim::host_space, float const>(
      x.queries.data(), {x.e.sequences, x.q_heads(), x.window, x.e.head_dim})};
  where = "compress";
  kvslim::evidence const evidence{queries, kvslim::token_scores<>{cells.scores()}};
  memory storage;
  if (!try_compress(plan, view, evidence, storage)) {
    // Gaps that nobody planned to store, or a merger's rows that do not fit.
    o.positions = true;
    bool const gaps = plan.layout().find(kvslim::side_kind::position) < 0;
    plan = kvslim::make_plan(policy, view.extents(), o);
    bool const now = try_compress(plan, view, evidence, storage);
    LIFE_CHECK(plan_type::has_merger || (gaps && now));
    if (!now) return;
  }
  stored<packed_of<plan_type>> now{std::move(storage), {plan.layout(), nullptr, std::size_t{0}}};
  now.packed = {plan.layout(), now.storage.data(), now.storage.size()};
  now.packed.bind(some_tables());
  where = "layouts";
  auto const same = [&](auto const& other_plan, auto const& other_cells) {
    memory other;
    kvslim::evidence const mine{queries, kvslim::token_scores<>{other_cells.scores()}};
    LIFE_CHECK(try_compress(other_plan, other_cells.view(), mine, other));
    LIFE_CHECK(std::memcmp(other.data(), now.storage.data(), now.packed.bytes()) == 0);
  };
  cells.lay(d, d.pick(all_kinds), d.pick(all_kinds));
  same(plan, cells);
  // A quota of the user's may depend on the view's extents, which padding changes.
  if (x.order == order::free && (is_top<plan_type> || !plan_type::has_quota)) {
    laid_out<TK, TV> elsewhere(d, x);
    elsewhere.lay(d, d.pick(all_kinds), d.pick(all_kinds));
    same(kvslim::make_plan(policy, elsewhere.view().extents(), o), elsewhere);
  }
  where = "kept";
  check_kept(plan, now.packed, x, cells, h);
  shadow held = read_back(now.packed, {h.loss.k * 1.5, h.loss.v * 1.5, h.loss.floor});
  for (index_t i = d.in(5, 60); i > 0; --i) {
    switch (d.in(0, 11)) {
      case 0:
      case 1:
      case 2:
        where = "append";
        do_append(d, now.packed, held);
        break;
      case 3:
      case 4:
        where = "settle";
        do_settle(d, now.packed);
        break;
      case 5:
        where = "rewind";
        do_rewind(d, now.packed, held);
        break;
      case 6: {
        where = "evict";
        std::vector<std::uint8_t> active;
        auto const step = draw_step(d, plan.extents(), active);
        do_evict(d, now.packed, held, {}, step);
        break;
      }
      case 7: {
        where = "attend";
        asked request;
        check_attend(d, now.packed, group, request);
        if constexpr (plan_type::has_index) check_pages(d, plan, now.packed, group);
        break;
      }
      case 8:
        where = "choose";
        if constexpr (is_top<plan_type> && !plan_type::scores_in_bulk)
          if (o.evicts) do_choose(d, plan, now.packed, held);
        break;
      case 9:
        where = "observe";
        if constexpr (plan_type::observes)
          if (o.evicts) do_observe(d, plan, now.packed, group);
        break;
      case 10:
        where = "serialize and decode";
        check_serialize(d, now.packed);
        check_decode(d, now.packed, held);
        break;
      default:
        where = "recompress";
        if (d.one_in(2)) do_recompress(d, plan, now, held, h, x);
        break;
    }
    compare(now.packed, held);
  }
}

}  // namespace life
