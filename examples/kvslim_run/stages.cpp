// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "stages.hpp"

#include "scores_by_rank.hpp"

#include <kvslim/run/encode.hpp>

#include <algorithm>
#include <cmath>

namespace example {

namespace {

using kvslim::status;

// Policies that ask an object what they are: one pipeline then serves all methods of a stage.

struct any_quota {
  static constexpr kvslim::quota_traits traits{.contests = true, .statistics = true};
  quota_method const* self;

  [[nodiscard]] status check(kvslim::extents const& e) const { return self->check(e); }
  [[nodiscard]] kvslim::row_group group() const { return self->group(); }
  [[nodiscard]] index_t most(kvslim::extents const& e) const { return self->most(e); }
  [[nodiscard]] index_t total(kvslim::extents const& e) const { return self->total(e); }
  /// Without a contest: no seats.
  [[nodiscard]] kvslim::contest open(kvslim::extents const& e, index_t recent) const {
    return self->open(e, recent);
  }
  void allocate(kvslim::slice<kvslim::row_facts const> facts,
                kvslim::slice<kvslim::quota> out) const {
    self->allocate(facts, out);
  }
};

struct any_keep {
  static constexpr kvslim::keep_traits traits{};
  keep_method const* self;

  [[nodiscard]] status check(kvslim::extents const& e) const { return self->check(e); }
  [[nodiscard]] index_t scratch_bytes(kvslim::extents const& e) const {
    return self->scratch_bytes(e);
  }
  [[nodiscard]] status keep(kvslim::cpu const&, kvslim::text<cache> const& text,
                            kvslim::score_view scores, kvslim::slice<kvslim::quota const> quotas,
                            kvslim::fate* fates, std::byte* scratch) const {
    return self->keep(text, scores, quotas, fates, scratch);
  }
};

struct any_merger {
  static constexpr kvslim::merger_traits traits{};
  merger_method const* self;

  [[nodiscard]] status check() const { return self->check(); }
  [[nodiscard]] kvslim::run_rule joins() const { return self->joins(); }
  [[nodiscard]] bool mass_bias() const { return self->mass_bias(); }
  [[nodiscard]] bool grows() const { return self->grows(); }
  [[nodiscard]] float fact(kvslim::fold_member const& m) const { return self->fact(m); }
  [[nodiscard]] kvslim::fold_weights weigh(kvslim::fold_member const& m) const {
    return self->weigh(m);
  }
};

struct any_assigner {
  static constexpr kvslim::merger_traits traits{.assigns = true};
  merger_method const* self;

  [[nodiscard]] status check() const { return self->check(); }
  [[nodiscard]] bool mass_bias() const { return self->mass_bias(); }
  [[nodiscard]] bool grows() const { return self->grows(); }
  [[nodiscard]] bool folds_keys() const { return self->folds_keys(); }
  [[nodiscard]] index_t span() const { return self->span(); }
  [[nodiscard]] index_t scratch_floats(kvslim::extents const& e) const {
    return self->scratch_floats(e);
  }
  [[nodiscard]] status assign(kvslim::cpu const&, kvslim::text<cache> const& text,
                              kvslim::score_view scores, kvslim::fate const* fates,
                              kvslim::folding const& out, float* scratch) const {
    return self->assign(text, scores, fates, out, scratch);
  }
  [[nodiscard]] kvslim::fold_share share(float strength) const { return self->share(strength); }
};

struct any_mover {
  static constexpr kvslim::position_traits traits{};
  mover_method const* self;

  [[nodiscard]] status check(kvslim::extents const& e) const { return self->check(e); }
  [[nodiscard]] std::uint64_t fingerprint() const { return self->fingerprint(); }
  void move(float* key, index_t head_dim, std::int32_t from, std::int32_t to) const {
    self->move(key, head_dim, from, to);
  }
};

/// A keep set as select() makes it, with its memory.
struct made_set {
  std::vector<std::byte> memory;
  kvslim::keep_set set;
};

template <class Plan>
made_set run_select(problem const& p, Plan const& plan) {
  demand(plan.check());
  made_set made{std::vector<std::byte>(plan.keep_bytes()), {}};
  made.set = plan.keep(made.memory);
  std::vector<std::byte> scratch(plan.select_bytes());
  demand(
      kvslim::select(kvslim::cpu{}, plan, p.data.view(), kvslim::evidence<>{}, made.set, scratch));
  return made;
}

kept_cells copy_of(kvslim::keep_set const& keep, index_t rows) {
  return {{keep.begins, keep.begins + rows + 1}, {keep.cells, keep.cells + keep.begins[rows]}};
}

/// The rows that a pipeline without a codec makes, exactly: they are stored as floats and read
/// back. `view` is what the keep set speaks of.
template <class Plan>
cells rows_made_by(Plan const& plan, cache const& view, kvslim::keep_set const& keep) {
  demand(plan.check());
  std::vector<std::byte> storage(plan.packed_bytes()), scratch(plan.encode_bytes());
  kvslim::packed_cache packed(plan, storage);
  demand(kvslim::encode(kvslim::cpu{}, plan, view, keep, packed, scratch));
  cells out;
  auto& e = out.extent = view.extents();
  index_t longest = 1;
  for (index_t r = 0; r < e.rows(); ++r)
    longest = std::max<index_t>(longest, packed.raw_row(r).slots);
  e.tokens = longest;
  index_t const wide = e.value_width();
  auto const all = static_cast<std::size_t>(e.rows() * longest);
  out.k.resize(all * static_cast<std::size_t>(e.head_dim));
  out.v.resize(all * static_cast<std::size_t>(wide));
  out.positions.resize(all);
  bool const biased = packed.layout().find(kvslim::side_kind::bias) >= 0;
  if (biased) out.bias.resize(all);
  out.positions_per_head = out.lengths_per_head = out.bias_per_head = true;
  for (index_t r = 0; r < e.rows(); ++r) {
    index_t const s = r / e.kv_heads, h = r % e.kv_heads, n = packed.slots(s, h);
    out.lengths.push_back(static_cast<std::int32_t>(n));
    for (index_t i = 0; i < n; ++i) {
      auto const at = static_cast<std::size_t>(r * longest + i);
      for (index_t d = 0; d < e.head_dim; ++d)
        out.k[at * static_cast<std::size_t>(e.head_dim) + static_cast<std::size_t>(d)] =
            packed.key(r, i, d);
      for (index_t d = 0; d < wide; ++d)
        out.v[at * static_cast<std::size_t>(wide) + static_cast<std::size_t>(d)] =
            packed.value(r, i, d);
      out.positions[at] = packed.position(s, h, i);
      if (biased) out.bias[at] = packed.logit_bias(r, i);
    }
  }
  return out;
}

/// Whether rows would have gaps in their positions if just these cells stay.
bool has_gaps(cache const& view, kept_cells const& kept) {
  auto const& e = view.extents();
  for (index_t r = 0; r < e.rows(); ++r) {
    index_t const s = r / e.kv_heads, h = r % e.kv_heads;
    std::int64_t const begin = kept.begins[static_cast<std::size_t>(r)],
                       end = kept.begins[static_cast<std::size_t>(r) + 1];
    for (std::int64_t i = begin + 1; i < end; ++i)
      if (view.position(s, h, kept.cells[static_cast<std::size_t>(i)]) !=
          view.position(s, h, kept.cells[static_cast<std::size_t>(i - 1)]) + 1)
        return true;
  }
  return false;
}

/// Positions of the newest n tokens of every sequence, kept or not.
std::vector<std::int32_t> newest_positions(cache const& view, index_t n) {
  auto const& e = view.extents();
  std::vector<std::int32_t> out;
  for (index_t s = 0; s < e.sequences; ++s) {
    std::int32_t next = 0;
    for (index_t h = 0; h < e.kv_heads; ++h)
      next = std::max(next, kvslim::detail::next_position_of(view, s, h));
    for (index_t i = 0; i < n; ++i) out.push_back(next - static_cast<std::int32_t>(n - i));
  }
  return out;
}

/// Calls f with the cell and the rank of every token.
template <class F>
void each_token(problem const& p, F const& f) {
  auto const view = p.data.view();
  auto const& e = view.extents();
  auto const all = static_cast<std::size_t>(e.rows() * e.tokens);
  std::vector<std::int32_t> order_cells(all), counts(static_cast<std::size_t>(e.rows()));
  std::vector<std::uint64_t> keys(all);
  kvslim::text<cache> text{view};
  demand(kvslim::ops::make_text_order(
      kvslim::cpu{}, view, {order_cells.data(), counts.data(), keys.data()}, text.order));
  for (index_t r = 0; r < e.rows(); ++r)
    for (index_t i = 0; i < text.tokens(r / e.kv_heads, r % e.kv_heads); ++i)
      f(static_cast<std::size_t>(r * e.tokens + text.cell(r / e.kv_heads, r % e.kv_heads, i)),
        static_cast<std::size_t>(r * e.tokens + i));
}

}  // namespace

void share(problem const& p, sharing const& by, ranked& scores) {
  kvslim::pipeline const pipe{kvslim::shared{scores_by_rank{scores}, by.rows, by.how, by.leads}};
  auto const plan = kvslim::make_plan(pipe, p.data.extent);
  demand(plan.check());
  std::vector<float> out(scores.scores.size());
  std::vector<std::byte> scratch(plan.select_bytes() + plan.keep_bytes());
  demand(kvslim::score(kvslim::cpu{}, plan, p.data.view(), kvslim::evidence<>{},
                       kvslim::score_view{out.data(), p.data.extent.tokens}, scratch));
  scores.scores = std::move(out);
}

std::vector<float> by_cell(problem const& p, ranked const& scores) {
  std::vector<float> out(scores.scores.size(), -INFINITY);
  each_token(p, [&](std::size_t cell, std::size_t rank) { out[cell] = scores.scores[rank]; });
  return out;
}

selection select(problem const& p, chosen const& c, ranked const& scores) {
  using namespace kvslim;
  auto const view = p.data.view();
  auto const& e = view.extents();
  scores_by_rank const scored{scores};
  any_quota const quota{c.quota};
  any_keep const keep{c.keep};
  any_merger const merger{c.merger};
  selection out;
  out.index = c.index;
  out.options.biases = view.bias.given();
  out.options.logit = p.logit;
  out.asked_positions = p.asked_positions;
  auto const take = [&](auto const& plan) {
    out.kept = copy_of(run_select(p, plan).set, e.rows());
  };
  auto const fold = [&](auto const& plan) {
    auto const made = run_select(p, plan);
    out.kept = copy_of(made.set, e.rows());
    out.made = rows_made_by(plan, view, made.set);
    out.made_kept = all_of(out.made);
    out.options.biases = !out.made.bias.empty();
    // A merged row's newest token may be gone; queries are as new as the text.
    index_t const n = (p.asked.given() ? p.asked : p.window).tokens;
    if (n > 1 && out.asked_positions.empty()) out.asked_positions = newest_positions(view, n);
  };
  if (c.merger != nullptr && c.quota != nullptr && c.merger->assigns())
    fold(make_plan(pipeline{scored, quota, keep, any_assigner{c.merger}, dense<float>{}}, e,
                   out.options));
  else if (c.merger != nullptr && !c.merger->works_alone())
    demand({errc::invalid_option, "this merger folds what a budget evicts: give one"});
  else if (c.merger != nullptr && c.merger->assigns())
    fold(make_plan(pipeline{scored, any_assigner{c.merger}, dense<float>{}}, e, out.options));
  else if (c.merger != nullptr && c.quota != nullptr)
    fold(make_plan(pipeline{scored, quota, keep, merger, dense<float>{}}, e, out.options));
  else if (c.merger != nullptr)
    fold(make_plan(pipeline{scored, merger, dense<float>{}}, e, out.options));
  else if (c.quota != nullptr)
    take(make_plan(pipeline{scored, quota, keep, dense<float>{}}, e, out.options));
  else
    take(make_plan(dense<float>{}, e, out.options));
  out.options.positions = c.quota != nullptr || c.merger != nullptr || has_gaps(view, out.kept);
  if (c.mover != nullptr) {
    bool const merged = c.merger != nullptr;
    auto const source = merged ? out.made.view() : view;
    cells moved = rows_made_by(
        make_plan(pipeline{any_mover{c.mover}, dense<float>{}}, source.extents(), out.options),
        source, merged ? out.made_kept.set() : out.kept.set());
    out.made = std::move(moved);
    out.made_kept = all_of(out.made);
    out.options.positions = false;
    out.options.fingerprint = detail::mix(0, c.mover->fingerprint());
    out.asked_positions = p.asked_positions;
  }
  return out;
}

to_store selection::rows(problem const& p) {
  bool const as_given = made.k.empty();
  queries const& asked = p.asked.given() ? p.asked : p.window;
  return {.view = as_given ? p.data.view() : made.view(),
          .keep = as_given ? kept.set() : made_kept.set(),
          .most = kept.most(),
          .options = options,
          .asked = asked.given() ? &asked : nullptr,
          .asked_positions = asked_positions.empty() ? nullptr : asked_positions.data(),
          .index = index,
          .key_basis = &p.key_basis,
          .value_basis = &p.value_basis,
          .window = &p.window};
}

}  // namespace example
