// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// ShadowKV's keys are rebuilt as the authors rebuild them, beside exact values and the newest keys.

#include "reference/shadowkv.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/low_rank.hpp"

using namespace kvslim;
using namespace low_rank;

TEST_CASE("shadowkv rebuilds keys as the authors do", "[golden][shadowkv]") {
  golden const g("shadowkv");
  data::cache c({.kv_heads = 2, .tokens = 40, .head_dim = 16});
  c.k = g.floats("rows");
  auto const before = side_by_side(c.k, c.shape, 16, {0, 1});
  turn(c.k, c.shape);
  auto const exact = side_by_side(c.k, c.shape, 16, {0, 1});
  auto const theirs = side_by_side(g.floats("rebuilt"), c.shape, 16, {0, 1});
  CHECK(norm(minus(reference::shadowkv(before, 16, 12, 0), theirs)) <=
        tolerance::accumulated * norm(theirs));
  for (index_t const local : {0, 9}) {
    shadowkv<float> const policy{{.kv_heads = 2, .rank = 12, .local = local, .rounds = 40}};
    bound const room(policy, c, {});
    auto const expected = local == 0 ? theirs : reference::shadowkv(before, 16, 12, at(local));
    CHECK(norm(minus(room.held(true, {0, 1}), expected)) <=
          tolerance::accumulated * norm(expected));
    for (std::size_t t = at(40 - local); t < 40; ++t) CHECK(room.held(true, {0, 1})[t] == exact[t]);
    CHECK(room.held(false, {0, 1}) == side_by_side(c.v, c.shape, 16, {0, 1}));
    agrees(room.packed, c);
  }
}

TEST_CASE("shadowkv loses less with every direction", "[shadowkv]") {
  data::cache c({.sequences = 2, .kv_heads = 3, .tokens = 60, .head_dim = 20});
  shape_rows(c, 0.9, 5);
  turn(c.k, c.shape);
  auto const all = side_by_side(c.k, c.shape, 20, {3, 4, 5});
  double last = 1e30;
  for (index_t const rank : {2, 8, 24, 60}) {
    bound const room(shadowkv<>{{.kv_heads = 3, .rank = rank, .local = 0}}, c, {});
    double const missed = norm(minus(room.held(true, {3, 4, 5}), all));
    CHECK(missed < last);
    last = missed;
  }
  CHECK(last <= 8 * tolerance::f16_storage * norm(all));  // bf16 has three bits less
}

TEST_CASE("shadowkv lives: later keys exact, or on the prompt's directions", "[shadowkv]") {
  for (data::shape const& shape :
       {data::shape{.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 70, .head_dim = 80},
        data::shape{.sequences = 2, .kv_heads = 2, .group = 1, .tokens = 1, .head_dim = 32},
        data::shape{.sequences = 1,
        .kv_heads = 4,
        .group = 8,
        .tokens = 45,
        .head_dim = 20,
        .value_dim = 12}}) {
    data::cache c(shape);
    shape_rows(c, 0.8, 3);
    lives(shadowkv<>{{.kv_heads = 2, .rank = 19, .local = 0}}, c, {}, 0);
  }
}

TEST_CASE("shadowkv's pages are chosen by an index", "[shadowkv]") {
  data::cache c({.kv_heads = 2, .group = 4, .tokens = 120, .head_dim = 32});
  shape_rows(c, 0.85, 4);
  turn(c.k, c.shape);
  data::compressed const run(
      pipeline{shadowkv<float>{{.kv_heads = 2, .rank = 24, .local = 8, .rounds = 4}},
               quest<float>{{.budget = 40, .page = 8}}},
      c.view());
  REQUIRE(run.result.ok());
  index_t const most = most_spans(run.plan);
  std::vector<std::int32_t> spans(at(2 * most * 2)), counts(2);
  page_spans const pages{spans.data(), counts.data(), most};
  auto const q = c.queries(1);
  oracle::asked asked(run.packed, q);
  data::buffer update(update_index_bytes(run.plan)), scratch(select_pages_bytes(run.plan, 8));
  REQUIRE(update_index(cpu{}, run.plan, run.packed, update).ok());
  REQUIRE(select_pages(cpu{}, run.plan, run.packed, asked.request, pages, scratch).ok());
  asked.request.visible = pages;
  REQUIRE(attend(cpu{}, run.packed, asked.request).ok());
  CHECK(oracle::error_of(run.packed, asked.request) <= tolerance::attend);
}

TEST_CASE("shadowkv stores a layer's keys once", "[shadowkv]") {
  auto const plan = make_plan(shadowkv<>{{.kv_heads = 4, .rank = 48, .local = 0}}, {1, 4, 64, 32});
  auto const first = plan.layout().parts(64, 0), other = plan.layout().parts(64, 3);
  CHECK(first.key_blocks - first.key_state == 2 * 48 * 128);
  CHECK(first.key_tail - first.key_blocks == 2 * 48 * 64);
  CHECK(other.key_tail == 0);
  CHECK(other.value_tail - other.value_blocks == 2 * 32 * 64);
}

TEST_CASE("shadowkv refuses what it cannot store and reads back what it wrote", "[shadowkv]") {
  auto const refused = [](shadowkv<>::options const& o) {
    return !shadowkv<>{o}.key_codec().check(64).ok();
  };
  CHECK_FALSE(refused({}));
  CHECK(refused({.kv_heads = 2}));  // 160 of 128 channels
  CHECK(refused({.rank = 0}));
  CHECK(refused({.local = -1}));
  CHECK(refused({.rounds = 256}));
  CHECK(refused({.rotation = {.dims = 66}}));
  data::cache const c({.kv_heads = 3, .tokens = 40, .head_dim = 32});
  data::compressed const apart(shadowkv<>{{.kv_heads = 2, .rank = 8}}, c.view());
  CHECK(apart.result.code == errc::invalid_shape);
  reads_back(shadowkv<>{{.kv_heads = 4, .rank = 40, .local = 9}}.key_codec(), {0, 1, 3, 4, 5, 6});
}
