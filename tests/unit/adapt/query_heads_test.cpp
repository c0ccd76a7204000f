// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Every query head with a cache of its own: the authors' kept sets, and what the same rows copied
// give.

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <string>

using namespace kvslim;

namespace {

/// Rows [s][head][...] of one sequence, each head's `group` times.
template <class T>
std::vector<T> copied(std::vector<T> const& rows, index_t sequence, index_t heads, index_t group,
                      index_t each) {
  std::vector<T> out;
  for (index_t h = 0; h < heads * group; ++h) {
    auto const from = rows.begin() + (sequence * heads + h / group) * each;
    out.insert(out.end(), from, from + each);
  }
  return out;
}

}  // namespace

TEST_CASE("snapkv per query head keeps what the authors' code keeps under grouped attention",
          "[golden][snapkv][adapt]") {
  golden const g("snapkv_query_heads");
  auto const k = g.floats("k"), q = g.floats("q");
  auto const view = adapt::repeat_heads(dense_cache(k.data(), k.data(), {1, 2, 96, 16}), 0, 3);
  evidence const seen{
      window_queries{adapt::split_heads(dense_rows(q.data(), {1, 6, 16, 16}), 0, 3)}};
  for (auto const& [name, kind] :
       {std::pair{"avgpool", pooling::average}, std::pair{"maxpool", pooling::maximum}}) {
    CAPTURE(name);
    auto const kept = data::kept_by(
        pipeline{snapkv{{.window = 16, .pool = 5, .kind = kind}}, top_k{{.budget = 40}}}, view,
        seen);
    REQUIRE(kept.size() == 6);
    auto const& theirs = g["kept_" + std::string(name)];
    for (std::size_t h = 0; h < 6; ++h)
      for (std::size_t i = 0; i < 40; ++i)
        REQUIRE(kept[h][i] == static_cast<index_t>(theirs[h * 40 + i]));
  }
}

TEST_CASE("repeated heads are what the same rows copied are, one sequence after another",
          "[adapt]") {
  index_t const group = 3, heads = 2, tokens = 60, dim = 20, wide = 12, window = 8;
  data::cache c({.sequences = 2,
                 .kv_heads = heads,
                 .group = group,
                 .tokens = tokens,
                 .head_dim = dim,
                 .value_dim = wide});
  for (bool const per_head : {false, true})
    for (index_t s : {0, 1}) {
      CAPTURE(per_head, s);
      // Cells in another order, some padding, one pinned, rows of different lengths.
      index_t const arrays = per_head ? heads : 1;
      std::vector<std::int32_t> positions, lengths;
      std::vector<std::uint8_t> valid;
      for (index_t a = 0; a < 2 * arrays; ++a) {
        lengths.push_back(static_cast<std::int32_t>(a == 0 ? tokens : 41 + a));
        for (index_t t = 0; t < tokens; ++t) {
          positions.push_back(static_cast<std::int32_t>((t * 7 + a) % tokens));
          valid.push_back(t % 11 == 3 ? 0 : t == 5 ? 2 : 1);
        }
      }
      auto view = c.view();
      index_t const sequence = arrays * tokens, head = per_head ? tokens : 0;
      view.positions = {positions.data(), sequence, head};
      view.valid = {valid.data(), sequence, head};
      view.lengths = {lengths.data(), arrays, per_head ? 1 : 0};
      auto const some = [&](auto const& array, index_t each) {
        return copied(array, s, arrays, heads * group / arrays, each);
      };
      auto const k = copied(c.k, s, heads, group, tokens * dim),
                 v = copied(c.v, s, heads, group, tokens * wide);
      auto const p = some(positions, tokens), n = some(lengths, 1);
      auto const states = some(valid, tokens);
      auto copy = dense_cache(k.data(), v.data(), {1, heads * group, tokens, dim, wide});
      copy.positions = {p.data(), 0, tokens};
      copy.valid = {states.data(), 0, tokens};
      copy.lengths = {n.data(), 0, 1};
      index_t const all = heads * group;
      auto q = c.queries(window);
      auto own = q;  // this sequence's
      own.data = q.row(s, 0);
      own.sequences = 1;
      pipeline const policy{snapkv{{.window = window}}, top_k{{.budget = 25}}, int_per_token<8>{}};
      plan_options const options{.append_tokens = 4, .positions = true};
      data::compressed const mine(policy, adapt::repeat_heads(view, s, group),
                                  evidence{window_queries{adapt::split_heads(q, s, group)}},
                                  options);
      data::compressed const theirs(policy, copy, evidence{window_queries{own}}, options);
      REQUIRE(mine.result.ok());
      REQUIRE(theirs.result.ok());
      CHECK(mine.intact());
      // A token for every KV head.
      auto const more = c.view();
      rows_view<float const> const new_k{more.k.data, 2, heads, 1, dim, more.k.layout},
          new_v{more.v.data, 2, heads, 1, wide, more.v.layout};
      auto const copied_k = copied(c.k, s, heads, group, tokens * dim),
                 copied_v = copied(c.v, s, heads, group, tokens * wide);
      data::buffer const scratch(append_bytes(mine.packed.layout()));
      REQUIRE(append(cpu{}, mine.packed, adapt::repeat_heads(new_k, s, group),
                     adapt::repeat_heads(new_v, s, group), scratch)
                  .ok());
      data::buffer const other(append_bytes(theirs.packed.layout()));
      REQUIRE(append(cpu{}, theirs.packed,
                     rows_view<float const>{copied_k.data(), 1, all, 1, dim, {0, tokens * dim}},
                     rows_view<float const>{copied_v.data(), 1, all, 1, wide, {0, tokens * wide}},
                     other)
                  .ok());
      std::vector<float> a(static_cast<std::size_t>(all * window * wide)), b(a.size());
      auto const attended = [&](auto const& packed, auto const& queries, rows_view<float> out) {
        data::buffer const memory(attend_bytes(packed.layout(), queries.heads, window));
        std::vector<float> log_sums(static_cast<std::size_t>(all * window));
        return attend(cpu{}, packed, {.q = queries, .out = out, .lse = log_sums.data()}, memory)
            .ok();
      };
      REQUIRE(attended(mine.packed, adapt::split_heads(q, s, group),
                       adapt::split_heads(dense_rows(a.data(), {1, all, window, wide}), 0, group)));
      REQUIRE(attended(theirs.packed, own, dense_rows(b.data(), {1, all, window, wide})));
      CHECK(a == b);
      for (index_t h = 0; h < all; ++h) CHECK(mine.kept(h / group, h % group) == theirs.kept(0, h));
    }
}

TEST_CASE("heads are not repeated for a sequence or a group that is not there", "[adapt]") {
  data::cache const c({.sequences = 2, .tokens = 20, .head_dim = 8});
  for (auto const& [sequence, group] :
       {std::pair{2, 2}, std::pair{-1, 2}, std::pair{0, 0}, std::pair{0, -3}}) {
    auto const view = adapt::repeat_heads(c.view(), sequence, group);
    CHECK(make_plan(pipeline{knorm{}, top_k{{.budget = 4}}}, view.extents()).check().code ==
          errc::invalid_shape);
  }
  auto const good = adapt::repeat_heads(c.view(), 1, 2);
  auto const asked = [&](rows_view<float const> const& q) {
    return data::compressed(pipeline{snapkv{{.window = 8}}, top_k{{.budget = 4}}}, good,
                            evidence{window_queries{q}})
        .result.code;
  };
  CHECK(asked(adapt::split_heads(c.queries(8), 1, 2)) == errc::ok);
  CHECK(asked(adapt::split_heads(c.queries(8), 1, 3)) == errc::invalid_shape);
  CHECK(asked(adapt::split_heads(c.queries(8), 1, 0)) == errc::invalid_shape);
}
