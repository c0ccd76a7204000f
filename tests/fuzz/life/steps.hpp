// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#pragma once

// The life of a stored cache: operations in any order, each on the cache and on its shadow.

#include "life/shadow.hpp"

namespace life {

inline kvslim::step draw_step(dice& d, kvslim::extents const& e,
                              std::vector<std::uint8_t>& active) {
  kvslim::step at{};
  if (d.one_in(2)) return at;
  at.first_sequence = d.in(0, e.sequences - 1);
  at.sequences = d.one_in(2) ? -1 : d.in(0, e.sequences - at.first_sequence);
  if (d.one_in(2)) {
    for (index_t i = 0; i < e.sequences; ++i) active.push_back(d.one_in(3) ? 0 : 1);
    at.active = active.data();
  }
  return at;
}

/// Calls f(row) for the rows of a step.
template <class F>
void each_row(kvslim::step at, kvslim::extents const& e, F const& f) {
  index_t const end = at.sequences == -1 ? e.sequences : at.first_sequence + at.sequences;
  for (index_t s = at.first_sequence; s < end; ++s)
    for (index_t h = 0; h < e.kv_heads; ++h)
      if (at.active == nullptr || at.active[s - at.first_sequence] != 0) f(s * e.kv_heads + h);
}

/// Runs an operation that may refuse; if it does, nothing may have changed.
template <class Packed, class F>
bool may_refuse(Packed const& packed, F const& operation) {
  std::vector<std::byte> const before(packed.storage(), packed.storage() + packed.size());
  kvslim::status const s = operation();
  if (!s) LIFE_CHECK(std::equal(before.begin(), before.end(), packed.storage()));
  return s.ok();
}

template <class Packed>
void do_append(dice& d, Packed const& packed, shadow& x) {
  auto const& e = packed.extents();
  std::vector<std::uint8_t> active;
  auto const step = draw_step(d, e, active);
  index_t const sequences =
      step.sequences == -1 ? e.sequences - step.first_sequence : step.sequences;
  index_t const n = d.small(4) + 1, rows = sequences * e.kv_heads;
  std::vector<float> k(at(rows * n * e.head_dim)), v(at(rows * n * e.value_width()));
  for (float& y : k) y = rounded<kvslim::f16>(d.normal());
  for (float& y : v) y = rounded<kvslim::f16>(d.normal());
  bool const poisoned = rows > 0 && d.one_in(12);
  if (poisoned) k[at(d.in(0, static_cast<index_t>(k.size()) - 1))] = d.one_in(2) ? NAN : INFINITY;
  memory scratch(kvslim::append_bytes(packed.layout()));
  float none = 0.0f;
  auto const as = [&](std::vector<float>& all, index_t dim) {
    return kvslim::dense_rows(all.empty() ? &none : all.data(), {sequences, e.kv_heads, n, dim});
  };
  if (!may_refuse(packed, [&] {
        return kvslim::append(kvslim::cpu{}, packed, as(k, e.head_dim), as(v, e.value_width()),
                              kvslim::workspace{scratch.data(), scratch.size()}, step);
      }))
    return;
  index_t const first = step.first_sequence * e.kv_heads;
  each_row(step, e, [&](index_t r) {
    for (index_t t = 0; t < n; ++t) {
      token held;
      auto const from_k = k.begin() + ((r - first) * n + t) * e.head_dim;
      auto const from_v = v.begin() + ((r - first) * n + t) * e.value_width();
      held.k.assign(from_k, from_k + e.head_dim);
      held.v.assign(from_v, from_v + e.value_width());
      for (float y : held.k) LIFE_CHECK(std::isfinite(y));
      x.came(r, held);
      x.rows[at(r)].emplace(x.next[at(r)]++, std::move(held));
    }
  });
}

template <class Packed>
void do_settle(dice& d, Packed const& packed) {
  std::vector<std::uint8_t> active;
  auto const step = draw_step(d, packed.extents(), active);
  memory scratch(kvslim::settle_bytes(packed.layout()));
  LIFE_OK(kvslim::settle(kvslim::cpu{}, packed, kvslim::workspace{scratch.data(), scratch.size()},
                         step));
}

template <class Packed>
void do_rewind(dice& d, Packed const& packed, shadow& x) {
  std::vector<std::uint8_t> active;
  auto const step = draw_step(d, packed.extents(), active);
  index_t const n = d.one_in(20)   ? -1
                    : d.one_in(20) ? std::numeric_limits<index_t>::max()
                                   : d.small(12);
  if (!may_refuse(packed, [&] { return kvslim::rewind(packed, n, step); })) return;
  each_row(step, packed.extents(), [&](index_t r) {
    LIFE_CHECK(n >= 0 && n <= x.next[at(r)]);
    x.next[at(r)] -= static_cast<std::int32_t>(n);
    x.rows[at(r)].erase(x.rows[at(r)].lower_bound(x.next[at(r)]), x.rows[at(r)].end());
  });
}

template <class Packed>
void do_evict(dice& d, Packed const& packed, shadow& x, std::vector<std::int32_t> victims,
              kvslim::step const& step) {
  auto const& e = packed.extents();
  if (victims.empty())
    for (index_t r = 0; r < e.rows(); ++r) {
      index_t const slots = packed.raw_row(r).slots;
      victims.push_back(d.one_in(3) ? -1 : static_cast<std::int32_t>(d.in(0, slots)));
    }
  std::vector<std::int32_t> positions;
  each_row(step, e, [&](index_t r) {
    std::int32_t const v = victims[at(r)];
    positions.push_back(v < 0 || v >= packed.raw_row(r).slots
                            ? -1
                            : packed.position(r / e.kv_heads, r % e.kv_heads, v));
  });
  if (!may_refuse(packed,
                  [&] { return kvslim::evict(kvslim::cpu{}, packed, victims.data(), step); }))
    return;
  std::size_t i = 0;
  each_row(step, e, [&](index_t r) {
    std::int32_t const p = positions[i++];
    if (victims[at(r)] >= 0) LIFE_CHECK(x.rows[at(r)].erase(p) == 1);
  });
}

/// The pipeline's own choice: never a protected token, none where the row is within its quota.
template <class Plan, class Packed>
void do_choose(dice& d, Plan const& plan, Packed const& packed, shadow& x) {
  auto const& e = packed.extents();
  std::vector<std::uint8_t> active;
  auto const step = draw_step(d, e, active);
  std::vector<std::int32_t> victims(at(e.rows()), -5);
  memory scratch(kvslim::victim_bytes(plan));
  if (!may_refuse(packed, [&] {
        return kvslim::choose_victims(kvslim::cpu{}, plan, packed, victims.data(),
                                      kvslim::workspace{scratch.data(), scratch.size()}, step);
      }))
    return;
  auto const& quota = plan.template stage<kvslim::quota_tag>();
  each_row(step, e, [&](index_t r) {
    std::int32_t const v = victims[at(r)];
    auto const& held = x.rows[at(r)];
    auto const n = static_cast<index_t>(held.size());
    if (n <= quota.opt.budget) LIFE_CHECK(v == -1);
    if (v < 0) return;
    LIFE_CHECK(v < packed.raw_row(r).slots);
    auto const found = held.find(packed.position(r / e.kv_heads, r % e.kv_heads, v));
    LIFE_CHECK(found != held.end());
    LIFE_CHECK(!found->second.pinned);
    index_t const rank = std::distance(held.begin(), found);
    LIFE_CHECK(rank >= quota.opt.sinks && rank < n - quota.opt.recent);
  });
  do_evict(d, packed, x, victims, step);
}

/// Every page that is left out is bounded by those that were chosen, and every key by its page.
template <class Plan, class Packed>
void check_pages(dice& d, Plan const& plan, Packed const& packed, index_t group) {
  auto const& e = packed.extents();
  auto const& index = plan.template stage<kvslim::index_tag>();
  index_t const unit = index.page_tokens(), heads = e.kv_heads * group, most = most_spans(plan);
  memory update(kvslim::update_index_bytes(plan)),
      choose(kvslim::select_pages_bytes(plan, heads, 1));
  for (index_t r = 0; r < e.rows();
       ++r)  // recompress may have made rows that the plan has no room for
    if (packed.raw_row(r).slots > plan.most_slots()) return;
  LIFE_OK(kvslim::update_index(kvslim::cpu{}, plan, packed,
                               kvslim::workspace{update.data(), update.size()}));
  std::vector<float> q(at(e.sequences * heads * e.head_dim));
  for (float& y : q) y = d.normal();
  std::vector<std::int32_t> spans(at(e.rows() * most * 2), -9), counts(at(e.rows()), -9);
  kvslim::attend_request<> request{};
  request.q = kvslim::dense_rows<kvslim::host_space, float const>(
      q.data(), {e.sequences, heads, 1, e.head_dim});
  LIFE_OK(kvslim::select_pages(kvslim::cpu{}, plan, packed, request,
                               {spans.data(), counts.data(), most},
                               kvslim::workspace{choose.data(), choose.size()}));
  for (index_t r = 0; r < e.rows(); ++r) {
    index_t const slots = packed.raw_row(r).slots, pages = (slots + unit - 1) / unit;
    std::vector<bool> read(at(pages), false);
    index_t count = 0;
    for (index_t i = 0; i < counts[at(r)]; ++i) {
      index_t const begin = spans[at(r * most * 2 + 2 * i)],
                    end = spans[at(r * most * 2 + 2 * i + 1)];
      LIFE_CHECK(begin % unit == 0 && begin < end && (end == slots || end % unit == 0));
      for (index_t p = begin / unit; p * unit < end; ++p) {
        LIFE_CHECK(!read[at(p)]);
        read[at(p)] = true;
        ++count;
      }
    }
    LIFE_CHECK(count == std::min(pages, index.reads(slots)));
    double least = INFINITY, largest = -INFINITY;
    for (index_t p = 0; p < pages; ++p) {
      double bound = -INFINITY, logit = -INFINITY;
      auto const* const fields =
          kvslim::detail::page_fields<std::remove_cvref_t<decltype(index)>>(packed, r, p);
      for (index_t g = 0; g < group; ++g) {
        float const* const mine =
            q.data() + ((r / e.kv_heads) * heads + r % e.kv_heads * group + g) * e.head_dim;
        double sum = 0.0;
        for (index_t c = 0; c < e.head_dim; ++c)
          sum += std::max(double(mine[c]) * double(kvslim::to_float(fields[c])),
                          double(mine[c]) * double(kvslim::to_float(fields[e.head_dim + c])));
        bound = std::max(bound, sum);
        for (index_t t = p * unit; t < std::min(slots, p * unit + unit); ++t) {
          double dot = 0.0;
          for (index_t c = 0; c < e.head_dim; ++c)
            dot += double(mine[c]) * double(packed.key(r, t, c));
          logit = std::max(logit, dot);
        }
      }
      LIFE_CHECK(logit <= bound + 1e-9 * std::abs(bound));
      bool const newest = p >= pages - index.newest(slots);
      if (read[at(p)] && !newest) least = std::min(least, bound);
      if (!read[at(p)]) largest = std::max(largest, bound);
    }
    LIFE_CHECK(largest <= least + 1e-4 * std::abs(least) + 1e-4);
  }
}

/// What a query pays is what its columns gain: one per query head and row.
template <class Plan, class Packed>
void do_observe(dice& d, Plan const& plan, Packed const& packed, index_t group) {
  asked x;
  check_attend(d, packed, group, x, true);
  auto const& scorer = plan.template stage<kvslim::scorer_tag>();
  using column = kvslim::detail::column_of<typename Plan::scorer_type>;
  auto const& e = packed.extents();
  std::vector<double> before;
  auto const sum = [&](index_t r, std::int32_t below) {
    double total = 0.0;
    for (index_t i = 0; i < packed.raw_row(r).slots; ++i) {
      std::int32_t const p = packed.position(r / e.kv_heads, r % e.kv_heads, i);
      if (p != kvslim::empty_slot && p < below)
        total +=
            double(static_cast<column const*>(static_cast<void const*>(packed.columns(r)))[i].sum);
    }
    return total;
  };
  for (index_t r = 0; r < e.rows(); ++r) before.push_back(sum(r, packed.raw_row(r).observed));
  LIFE_OK(kvslim::observe(kvslim::cpu{}, scorer, packed, x.a));
  for (index_t r = 0; r < e.rows(); ++r) {
    double const gained = sum(r, packed.raw_row(r).next_position) - before[at(r)];
    double const mass = x.lse[at(r * group)] == -INFINITY ? 0.0 : double(group);
    LIFE_CHECK(std::abs(gained - mass) <= 1e-3 * (mass + std::abs(before[at(r)])));
  }
}

}  // namespace life
