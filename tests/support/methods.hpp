// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// What the tests of scorers, quotas and keep rules share: the same tokens in cells of any order,
// heads exchanged, and a cache that evicts while it decodes.

#include "life.hpp"

namespace data {

/// Kept positions of every row.
using kept_sets = std::vector<std::vector<index_t>>;

template <class Policy, class View, class Evidence = kvslim::evidence<>>
kept_sets kept_by(Policy const& policy, View const& view, Evidence const& evidence = {}) {
  compressed<Policy> const run(policy, view, evidence);
  kept_sets kept;
  if (!run.result.ok() || !run.intact()) return kept;
  for (index_t s = 0; s < view.extents().sequences; ++s)
    for (index_t h = 0; h < view.extents().kv_heads; ++h) kept.push_back(run.kept(s, h));
  return kept;
}

/// A pipeline's scores of every row by rank, or none if it refuses.
template <class Policy, class View, class Evidence = kvslim::evidence<>>
std::vector<float> scores_by(Policy const& policy, View const& view,
                             Evidence const& evidence = {}) {
  auto const plan = kvslim::make_plan(policy, view.extents());
  auto const& e = view.extents();
  std::vector<float> out(static_cast<std::size_t>(e.rows() * e.tokens));
  buffer scratch(plan.select_bytes() + plan.keep_bytes());
  auto const done = kvslim::score(kvslim::cpu{}, plan, view, evidence,
                                  kvslim::score_view{out.data(), e.tokens}, scratch);
  if (!done.ok() || !scratch.intact()) out.clear();
  return out;
}

/// The tokens of a cache in cells of another order, with padding between them. `lengths` says how
/// many of its first tokens each sequence has; the rest of its cells are padding.
struct shuffled {
  std::vector<float> k, v;
  std::vector<std::int32_t> positions;
  std::vector<std::uint8_t> valid;
  kvslim::extents extent;

  shuffled(cache const& c, index_t padding, std::vector<index_t> lengths = {}, unsigned seed = 3)
      : extent(c.shape.extents()) {
    extent.tokens += padding;
    index_t const all = extent.tokens, wide = c.shape.value_width();
    k.assign(static_cast<std::size_t>(extent.rows() * all * extent.head_dim), 1e30f);
    v.assign(static_cast<std::size_t>(extent.rows() * all * wide), 1e30f);
    positions.assign(static_cast<std::size_t>(extent.sequences * all), 0);
    valid.assign(positions.size(), 0);
    std::mt19937 engine(seed);
    for (index_t s = 0; s < extent.sequences; ++s) {
      std::vector<index_t> cells(static_cast<std::size_t>(all));
      std::iota(cells.begin(), cells.end(), 0);
      std::shuffle(cells.begin(), cells.end(), engine);
      index_t const n = lengths.empty() ? c.shape.tokens : lengths[static_cast<std::size_t>(s)];
      for (index_t t = 0; t < n; ++t) {
        index_t const cell = cells[static_cast<std::size_t>(t)];
        positions[static_cast<std::size_t>(s * all + cell)] = static_cast<std::int32_t>(t);
        valid[static_cast<std::size_t>(s * all + cell)] = 1;
        for (index_t h = 0; h < extent.kv_heads; ++h) {
          index_t const to = (s * extent.kv_heads + h) * all + cell;
          for (index_t d = 0; d < extent.head_dim; ++d)
            k[static_cast<std::size_t>(to * extent.head_dim + d)] = c.key(s, h, t, d);
          for (index_t d = 0; d < wide; ++d)
            v[static_cast<std::size_t>(to * wide + d)] = c.value(s, h, t, d);
        }
      }
    }
  }
  [[nodiscard]] auto view() const {
    auto x = kvslim::dense_cache(k.data(), v.data(), extent);
    x.positions = positions.data();
    x.valid = valid.data();
    return x;
  }
};

/// The same cache with its KV heads, and the query heads of each, in reverse order.
inline cache reversed_heads(cache const& c) {
  cache x = c;
  auto const reverse = [&](std::vector<float>& values, index_t heads) {
    auto const size = static_cast<std::ptrdiff_t>(values.size()) / (c.shape.sequences * heads);
    for (index_t s = 0; s < c.shape.sequences; ++s)
      for (index_t h = 0; h < heads / 2; ++h)
        std::swap_ranges(values.begin() + (s * heads + h) * size,
                         values.begin() + (s * heads + h + 1) * size,
                         values.begin() + (s * heads + heads - 1 - h) * size);
  };
  reverse(x.k, c.shape.kv_heads);
  reverse(x.v, c.shape.kv_heads);
  reverse(x.q, c.shape.kv_heads);  // with its whole group
  return x;
}
inline kept_sets reversed_heads(kept_sets kept, index_t kv_heads) {
  for (auto row = kept.begin(); row != kept.end(); row += kv_heads)
    std::reverse(row, row + kv_heads);
  return kept;
}

/// True if every row keeps all that it kept before.
inline bool contains(kept_sets const& more, kept_sets const& fewer) {
  if (more.size() != fewer.size() || more.empty()) return false;
  for (std::size_t r = 0; r < more.size(); ++r)
    if (!std::includes(more[r].begin(), more[r].end(), fewer[r].begin(), fewer[r].end()))
      return false;
  return true;
}

/// Rows [head][token][channel] of a whole text, some of them already in a cache.
struct text_of {
  float const* q = nullptr;
  float const* k = nullptr;
  index_t q_heads = 1, kv_heads = 1, tokens = 0, head_dim = 0;

  [[nodiscard]] auto prompt(index_t n) const {
    auto view = kvslim::dense_cache(k, k, kvslim::extents{1, kv_heads, n, head_dim});
    view.k.layout = view.v.layout = {0, tokens * head_dim, head_dim, 1};
    return view;
  }
  /// Queries of n tokens from t on.
  [[nodiscard]] auto queries(index_t t, index_t n) const { return part(q, q_heads, t, n); }
  [[nodiscard]] auto keys(index_t t, index_t n) const { return part(k, kv_heads, t, n); }

 private:
  [[nodiscard]] kvslim::rows_view<float const> part(float const* x, index_t heads, index_t t,
                                                    index_t n) const {
    return {x + t * head_dim, 1, heads, n, head_dim, {0, tokens * head_dim, head_dim, 1}};
  }
};

/// A cache that holds a budget while it decodes: every step appends, attends, observes, evicts and
/// settles.
template <class Policy>
struct evicting {
  compressed<Policy> run;
  buffer append_scratch, settle_scratch, victim_scratch;
  std::vector<std::int32_t> victims;

  template <class View, class Evidence>
  evicting(Policy const& policy, View const& view, Evidence const& evidence, index_t append = 1)
      : run(policy, view, evidence, {.append_tokens = append, .evicts = true}),
        append_scratch(kvslim::append_bytes(run.packed.layout())),
        settle_scratch(kvslim::settle_bytes(run.packed.layout())),
        victim_scratch(kvslim::victim_bytes(run.plan)),
        victims(static_cast<std::size_t>(view.extents().rows())) {}

  /// One new token with its query; then one victim a row.
  kvslim::status step(kvslim::rows<> const& k, kvslim::rows<> const& v, kvslim::rows<> const& q) {
    if (auto const s = look(k, v, q); !s) return s;
    if (auto const s = drop(); !s) return s;
    return settle();
  }
  /// The same without a victim, for methods that evict now and then.
  kvslim::status look(kvslim::rows<> const& k, kvslim::rows<> const& v, kvslim::rows<> const& q) {
    kvslim::cpu const exec{};
    if (auto const s = kvslim::append(exec, run.packed, k, v, append_scratch); !s) return s;
    if constexpr (decltype(run.plan)::observes) {
      auto const& e = run.packed.extents();
      index_t most = 0;
      for (index_t r = 0; r < e.rows(); ++r)
        most = std::max<index_t>(most, run.packed.raw_row(r).slots);
      auto const heads = static_cast<std::size_t>(q.sequences * q.heads);
      out_.resize(heads * static_cast<std::size_t>(e.value_width()));
      lse_.resize(heads);
      logits_.resize(heads * static_cast<std::size_t>(most));
      kvslim::attend_request<> const request{
          .q = q,
          .out = kvslim::dense_rows(out_.data(), {q.sequences, q.heads, 1, e.value_width()}),
          .lse = lse_.data(),
          .logits = logits_.data(),
          .logits_stride = most};
      if (auto const s = kvslim::attend(exec, run.packed, request); !s) return s;
      return kvslim::observe(exec, run.plan.template stage<kvslim::scorer_tag>(), run.packed,
                             request);
    }
    return {};
  }
  kvslim::status drop() {
    if (auto const s = kvslim::choose_victims(kvslim::cpu{}, run.plan, run.packed, victims.data(),
                                              victim_scratch);
        !s)
      return s;
    return kvslim::evict(kvslim::cpu{}, run.packed, victims.data());
  }
  /// Until no row has a victim left.
  kvslim::status drop_all() {
    do {
      if (auto const s = drop(); !s) return s;
    } while (std::any_of(victims.begin(), victims.end(), [](auto v) { return v >= 0; }));
    return {};
  }
  kvslim::status settle() { return kvslim::settle(kvslim::cpu{}, run.packed, settle_scratch); }
  [[nodiscard]] bool intact() const {
    return append_scratch.intact() && settle_scratch.intact() && victim_scratch.intact() &&
           run.storage.intact();
  }
  /// Held positions, ascending.
  [[nodiscard]] std::vector<index_t> held(index_t s, index_t h) const {
    return data::held(run.packed, s, h);
  }
  /// The column of the token at a position.
  template <class Column>
  [[nodiscard]] Column column(index_t s, index_t h, index_t position) const {
    index_t const r = s * run.packed.extents().kv_heads + h;
    for (index_t slot = 0; slot < run.packed.slots(s, h); ++slot)
      if (run.packed.position(s, h, slot) == position)
        return static_cast<Column const*>(static_cast<void const*>(run.packed.columns(r)))[slot];
    return {};
  }

 private:
  std::vector<float> out_, lse_, logits_;
};

/// A cache that is cut to its budget whenever `block` tokens have come.
template <class Policy, class Evidence = kvslim::evidence<>>
class in_blocks {
 public:
  template <class View>
  in_blocks(Policy const& policy, View const& first, index_t block, Evidence const& evidence = {})
      : plan_(kvslim::make_plan(policy,
                                {first.extents().sequences, first.extents().kv_heads,
                                 first.extents().tokens + block, first.extents().head_dim},
                                {.append_tokens = block, .draft_tokens = block})),
        scratch_(plan_.workspace_bytes()),
        evidence_(evidence) {
    auto const plan =
        kvslim::make_plan(policy, first.extents(), {.append_tokens = block, .draft_tokens = block});
    buffer const scratch(plan.workspace_bytes());
    for (auto& s : storage_) s.resize(std::max(plan.packed_bytes(), plan_.packed_bytes()));
    result = kvslim::compress(kvslim::cpu{}, plan, first, evidence, packed(),
                              kvslim::workspace(scratch.data(), scratch.size()));
  }
  kvslim::status take(kvslim::rows<> const& block) {
    buffer append_scratch(kvslim::append_bytes(plan_.layout()));
    if (auto const s = kvslim::append(kvslim::cpu{}, packed(), block, block, append_scratch); !s)
      return s;
    auto const from = packed();
    now_ = 1 - now_;
    return kvslim::recompress(kvslim::cpu{}, plan_, from, packed(), scratch_, evidence_);
  }
  [[nodiscard]] auto packed() { return kvslim::packed_cache(plan_, storage_[now_]); }
  [[nodiscard]] auto held(index_t s, index_t h) { return data::held(packed(), s, h); }
  kvslim::status result;

 private:
  decltype(kvslim::make_plan(std::declval<Policy const&>(), kvslim::extents{})) plan_;
  buffer scratch_;
  Evidence evidence_;
  std::vector<std::byte> storage_[2];
  std::size_t now_ = 0;
};

}  // namespace data
