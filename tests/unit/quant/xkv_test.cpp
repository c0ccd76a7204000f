// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Rows of several layers and heads in one space of low rank: the authors' SVD, and attention in
// that space.

#include "reference/xkv.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/low_rank.hpp"

#include <kvslim/kvslim.hpp>

using namespace kvslim;
using namespace low_rank;

namespace {

template <element T = f16>
using given = xkv<T, key_form::as_given>;

}  // namespace

TEST_CASE("xkv is the authors' truncated SVD", "[golden][xkv]") {
  golden const g("xkv");
  data::cache c({.sequences = 2, .kv_heads = 2, .tokens = 50, .head_dim = 16});
  c.k = c.v = g.floats("rows");
  auto const check = [&](given<float>::options const& o, std::string const& name) {
    data::compressed const run(given<float>{o}, c.view());
    REQUIRE(run.result.ok());
    auto const theirs = side_by_side(g.floats(name), c.shape, 16, {0, 1, 2, 3});
    for (bool const keys : {true, false})
      CHECK(norm(minus(held(run.packed, keys, 50, {0, 1, 2, 3}), theirs)) <=
            tolerance::accumulated * norm(theirs));
  };
  check({.rows = {2, 2}, .key_rank = 12, .value_rank = 12, .rounds = 40}, "rank_12");
  check({.rows = {1, 1}, .key_rank = 5, .value_rank = 5, .rounds = 40}, "head_rank_5");
}

TEST_CASE("xkv misses what a truncated SVD misses, group by group", "[xkv]") {
  data::cache c({.sequences = 4, .kv_heads = 3, .tokens = 90, .head_dim = 20, .value_dim = 12});
  shape_rows(c, 0.9, 5);
  given<float> const policy{{.rows = {2, 3}, .key_rank = 24, .value_rank = 10, .rounds = 12}};
  data::compressed const run(policy, c.view());
  REQUIRE(run.result.ok());
  CHECK(run.intact());
  for (index_t first : {0, 6}) {
    std::vector<index_t> rows(6);
    std::iota(rows.begin(), rows.end(), first);
    for (bool const keys : {true, false}) {
      auto const all = side_by_side(keys ? c.k : c.v, c.shape, keys ? 20 : 12, rows);
      double const least = norm(minus(all, reference::truncated(all, keys ? 24 : 10)));
      double const missed = norm(minus(all, held(run.packed, keys, 90, rows)));
      CHECK(missed >= least * (1 - tolerance::accumulated));
      CHECK(missed <= least * (1 + 10 * tolerance::f16_storage));
    }
  }
  double last = 1e30;
  for (index_t rank : {4, 12, 40, 120}) {  // 120 are all channels of a group
    data::compressed const more(
        given<float>{{.rows = {2, 3}, .key_rank = rank, .value_rank = 8, .rounds = 4}}, c.view());
    auto const all = side_by_side(c.k, c.shape, 20, {0, 1, 2, 3, 4, 5});
    double const missed = norm(minus(all, held(more.packed, true, 90, {0, 1, 2, 3, 4, 5})));
    CHECK(missed < last);
    last = missed;
    if (rank == 120) CHECK(missed <= tolerance::f16_storage * norm(all));  // squares of floats
  }
}

TEST_CASE("xkv lives: later tokens exact, or on the prompt's basis", "[xkv]") {
  for (data::shape const& shape :
       {data::shape{.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 70, .head_dim = 80},
        data::shape{.sequences = 2, .kv_heads = 2, .group = 1, .tokens = 1, .head_dim = 32},
        data::shape{.sequences = 4, .kv_heads = 2, .group = 8, .tokens = 45, .head_dim = 20}}) {
    data::cache c(shape);
    shape_rows(c, 0.8, 3);
    lives(given<>{{.rows = {2, 2}, .key_rank = 19, .value_rank = 33, .residual = 2}}, c, {}, 2);
  }
}

TEST_CASE("xkv stores a group's coordinates once", "[xkv]") {
  data::cache c({.sequences = 2, .kv_heads = 2, .tokens = 64, .head_dim = 32});
  shape_rows(c, 0.8, 3);
  data::compressed const run(given<>{{.rows = {2, 2}, .key_rank = 16, .value_rank = 24}}, c.view());
  REQUIRE(run.result.ok());
  auto const first = run.plan.layout().parts(64, 0), other = run.plan.layout().parts(64, 3);
  CHECK(first.key_blocks - first.key_state == 2 * 16 * 128);
  CHECK(first.key_tail - first.key_blocks == 2 * 16 * 64);
  CHECK(first.value_blocks - first.value_state == 2 * 24 * 128);
  CHECK(first.value_tail - first.value_blocks == 2 * 24 * 64);
  CHECK(other.key_tail == 0);
  CHECK(other.value_tail - other.value_state == 0);
}

TEST_CASE("xkv composes: a selection that rows share, KIVI for K", "[xkv]") {
  data::cache c({.sequences = 2, .kv_heads = 2, .group = 2, .tokens = 120, .head_dim = 32});
  shape_rows(c, 0.85, 8);
  auto const key = kivi<4>{{.residual = 32}}.key_codec();
  auto const value = given<>{{.rows = {2, 2}, .value_rank = 40}}.value_codec();
  data::compressed const run(pipeline{shared{knorm{}, row_group{2, 2}},
                                      top_k{{.budget = 80, .sinks = 4}}, codec_pair{key, value}},
                             c.view());
  REQUIRE(run.result.ok());
  CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  // Rows of a group that keep different tokens are refused.
  data::compressed const apart(
      pipeline{knorm{}, top_k{{.budget = 80, .sinks = 4}}, codec_pair{key, value}}, c.view());
  CHECK(apart.result.code == errc::unsupported);
}

TEST_CASE("latents are coded by any codec, in a basis of a table", "[xkv]") {
  // A basis per KV head, of two layers: authors of loaded projectors (EigenAttention, Palu, CSKV)
  // differ in where it comes from.
  data::cache c({.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 100, .head_dim = 40});
  shape_rows(c, 0.9, 4);
  index_t const rank = 16;
  std::vector<float> table;
  reference::matrix best;
  for (index_t r = 0; r < 4; ++r) {
    auto const all = side_by_side(c.v, c.shape, 40, {r});
    auto const found = reference::svd(all);
    for (index_t j = 0; j < rank; ++j)
      for (double const x : found.vectors[static_cast<std::size_t>(j)])
        table.push_back(static_cast<float>(x));
  }
  using plain = latent<dense_value<float>, basis_from::table, false, float>;
  using coded = latent<token_value<8>, basis_from::table, false, float>;
  using keyed = latent<channel_key<8>, basis_from::table, false, float>;
  auto const live = [&](auto const& key, auto const& value, double near) {
    data::room room(codec_pair{key, value}, c.view().extents(),
                    {.append_tokens = 70, .draft_tokens = 4});
    CHECK(compress(cpu{}, room.plan, c.view(), evidence<>{}, room.packed, room.scratch).code ==
          errc::invalid_pointer);  // not bound
    CHECK(room.storage.untouched());
    room.packed.bind({.key = table.data(), .value = table.data()});
    REQUIRE(compress(cpu{}, room.plan, c.view(), evidence<>{}, room.packed, room.scratch).ok());
    CHECK(room.intact());
    for (index_t r = 0; r < 4; ++r) {
      auto const all = side_by_side(c.v, c.shape, 40, {r});
      CHECK(norm(minus(held(room.packed, false, 90, {r}), [&] {
              auto t = reference::truncated(all, static_cast<std::size_t>(rank));
              t.resize(90);
              return t;
            }())) <= near * norm(all));
    }
    CHECK(oracle::attend_error(room.packed, c) <= tolerance::attend);
    data::life life(room.packed, c);
    for (int i = 0; i < 60; ++i) {
      REQUIRE(life.append().ok());
      REQUIRE(life.settle().ok());
    }
    CHECK(life.intact());
    CHECK(oracle::attend_error(room.packed, c) <= tolerance::attend);
    room.packed.bind({.key = table.data()});
    oracle::asked asked(room.packed, c.queries(1));
    CHECK(attend(cpu{}, room.packed, asked.request).code == errc::invalid_pointer);
    CHECK(life.settle().ok());  // has a cache of its own, still bound
  };
  live(dense_key<f16>{}, plain{{}, rank, 0, {}, 8, 4}, tolerance::accumulated);
  live(dense_key<f16>{}, coded{{}, rank, 7, {}, 8, 4}, tolerance::eight_bits);
  live(keyed{{32, 32}, rank, 0, {}, 8, 4}, plain{{}, rank, 10, {}, 8, 4}, tolerance::accumulated);
}

TEST_CASE("latents over all heads of a layer read one table", "[xkv]") {
  data::cache c({.sequences = 2, .kv_heads = 3, .group = 2, .tokens = 60, .head_dim = 16});
  shape_rows(c, 0.9, 6);
  index_t const rank = 20;
  std::vector<float> table(static_cast<std::size_t>(6 * rank * 16));
  for (index_t s = 0; s < 2; ++s) {
    auto const found =
        reference::svd(side_by_side(c.v, c.shape, 16, {3 * s, 3 * s + 1, 3 * s + 2}));
    for (index_t h = 0; h < 3; ++h)
      for (index_t j = 0; j < rank; ++j)
        for (index_t d = 0; d < 16; ++d)
          table[static_cast<std::size_t>(((3 * s + h) * rank + j) * 16 + d)] = static_cast<float>(
              found.vectors[static_cast<std::size_t>(j)][static_cast<std::size_t>(h * 16 + d)]);
  }
  latent<dense_value<float>, basis_from::table, true, float> const value{{},     rank, 32,
                                                                         {1, 3}, 8,    6};
  data::room room(codec_pair{dense_key<f16>{}, value}, c.view().extents(), {});
  room.packed.bind({.value = table.data()});
  REQUIRE(compress(cpu{}, room.plan, c.view(), evidence<>{}, room.packed, room.scratch).ok());
  for (index_t s = 0; s < 2; ++s) {
    std::vector<index_t> const rows{3 * s, 3 * s + 1, 3 * s + 2};
    auto const all = side_by_side(c.v, c.shape, 16, rows);
    auto expected = reference::truncated(all, static_cast<std::size_t>(rank));
    for (std::size_t t = 28; t < 60; ++t) expected[t] = all[t];  // the exact window
    CHECK(norm(minus(held(room.packed, false, 60, rows), expected)) <=
          tolerance::accumulated * norm(all));
  }
  CHECK(oracle::attend_error(room.packed, c) <= tolerance::attend);
}

TEST_CASE("xkv refuses what it cannot store and reads back what it wrote", "[xkv]") {
  auto const refused = [](given<>::options const& o) {
    return !given<>{o}.key_codec().check(64).ok() || !given<>{o}.value_codec().check(64).ok();
  };
  CHECK_FALSE(refused({.rows = {2, 8}}));
  CHECK(refused({.rows = {1, 1}}));  // 512 of 64 channels
  CHECK(refused({.rows = {1, 1}, .key_rank = 0, .value_rank = 4}));
  CHECK(refused({.rows = {64, 8}, .key_rank = 1025}));
  CHECK(refused({.rows = {0, 8}, .key_rank = 4, .value_rank = 4}));
  CHECK(refused({.rows = {2, 8}, .residual = -1}));
  CHECK(refused({.rows = {2, 8}, .rounds = 0}));
  using table_over_layers = latent<dense_value<f16>, basis_from::table, true>;
  CHECK_FALSE(table_over_layers{{}, 8, 0, {2, 1}}.check(64).ok());
  CHECK_FALSE(table_over_layers{{}, 8, 0, {1, 1}, 8, 0}.check(64).ok());
  CHECK(latent<channel_key<4>>{{32, 32}, 8, 1}.check(64).ok());
  CHECK_FALSE(latent<token_value<4>>{{0, 5}, 8}.check(64).ok());
  CHECK_FALSE(latent<channel_key<4>>{{32, 32}, 6}.check(64).ok());  // units of four channels
  data::cache const odd({.sequences = 3, .kv_heads = 2, .tokens = 40, .head_dim = 16});
  data::compressed const apart(given<>{{.rows = {2, 2}, .key_rank = 4, .value_rank = 4}},
                               odd.view());
  CHECK(apart.result.code == errc::invalid_shape);
  auto const codec = given<>{{.rows = {2, 4}, .key_rank = 300, .residual = 17}}.key_codec();
  auto const f = codec.written();
  auto out = codec;
  REQUIRE(decltype(out)::read(f, out).ok());
  CHECK(out.written() == f);
  for (int const word : {0, 1, 4, 5, 6}) {
    auto wrong = f;
    wrong.words[word] = word == 6 ? 1 : 0xfffffff1u;
    CHECK(decltype(out)::read(wrong, out).code == errc::foreign);
  }
}

TEST_CASE("xkv's keys before RoPE are the authors', rotated", "[golden][xkv]") {
  golden const g("xkv");
  data::cache c({.sequences = 2, .kv_heads = 2, .tokens = 50, .head_dim = 16});
  std::vector<std::int32_t> positions(50);
  for (std::size_t t = 0; t < 50; ++t) positions[t] = static_cast<std::int32_t>(3 * t + t % 2 + 7);
  for (rope const& r : {rope{}, rope{.base = 500000.0f, .dims = 12, .interleaved = true}}) {
    c.k = c.v = g.floats("rows");
    turn(c.k, c.shape, positions, r);
    auto theirs = g.floats("rank_12");
    turn(theirs, c.shape, positions, r);
    auto view = c.view();
    std::vector<std::int32_t> both(positions);
    both.insert(both.end(), positions.begin(), positions.end());
    view.positions = both.data();
    data::compressed const run(
        xkv<float>{{.rows = {2, 2}, .key_rank = 12, .value_rank = 12, .rounds = 40, .rotation = r}},
        view);
    REQUIRE(run.result.ok());
    auto const expected = side_by_side(theirs, c.shape, 16, {0, 1, 2, 3});
    CHECK(norm(minus(held(run.packed, true, 50, {0, 1, 2, 3}), expected)) <=
          tolerance::accumulated * norm(expected));
    CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
  }
}

TEST_CASE("a rank holds more of keys before RoPE", "[xkv]") {
  data::cache c({.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 90, .head_dim = 32});
  shape_rows(c, 0.8, 7);
  std::vector<std::int32_t> positions(90);
  std::iota(positions.begin(), positions.end(), 0);
  turn(c.k, c.shape, positions, {});
  data::compressed const before(xkv<>{{.rows = {2, 2}, .key_rank = 20, .value_rank = 8}}, c.view());
  data::compressed const after(given<>{{.rows = {2, 2}, .key_rank = 20, .value_rank = 8}},
                               c.view());
  REQUIRE(before.result.ok());
  auto const all = side_by_side(c.k, c.shape, 32, {0, 1, 2, 3});
  auto const missed = [&](auto const& run) {
    return norm(minus(all, held(run.packed, true, 90, {0, 1, 2, 3})));
  };
  CHECK(missed(before) * 4 < missed(after));
}

TEST_CASE("keys before RoPE live", "[xkv]") {
  for (data::shape const& shape :
       {data::shape{.sequences = 2, .kv_heads = 2, .group = 4, .tokens = 70, .head_dim = 80},
        data::shape{.sequences = 2, .kv_heads = 2, .group = 1, .tokens = 1, .head_dim = 32},
        data::shape{.sequences = 2, .kv_heads = 2, .group = 8, .tokens = 45, .head_dim = 20}}) {
    data::cache c(shape);
    shape_rows(c, 0.8, 3);
    lives(xkv<>{{.rows = {2, 1}, .key_rank = 19, .value_rank = 33, .residual = 2}}, c, {}, 2);
  }
}

TEST_CASE("keys before RoPE refuse what they cannot turn and read back what they wrote", "[xkv]") {
  auto const key = [](rope const& r) {
    return xkv<>{{.rows = {1, 2}, .key_rank = 8, .rotation = r}}.key_codec();
  };
  float const table[4] = {};
  CHECK(key({}).check(64).ok());
  CHECK(key({.dims = 66}).check(64).code == errc::invalid_option);
  CHECK(key({.dims = 7}).check(64).code == errc::invalid_option);
  CHECK(key({.base = 0.0f}).check(64).code == errc::invalid_option);
  CHECK(key({.dims = 8, .inverse_frequency = table}).check(64).code == errc::invalid_option);
  CHECK(key({}).check(514).code == errc::invalid_shape);
  rebuilt_key<latent<channel_key<4>>> const many{{{32, 32}, 8}, {}};
  CHECK(many.check(64).code == errc::invalid_option);
  auto const codec = key({.base = 500000.0f, .dims = 48, .interleaved = true});
  auto const f = codec.written();
  auto out = codec;
  out.rotation = {};
  REQUIRE(decltype(out)::read(f, out).ok());
  CHECK(out.written() == f);
  for (int const word : {0, 1, 2, 3, 4, 5}) {
    auto wrong = f;
    wrong.words[word] = word == 2 ? 0 : 0xfffffff1u;
    CHECK(decltype(out)::read(wrong, out).code == errc::foreign);
  }
  auto wrong = f;
  ++wrong.id;
  CHECK(decltype(out)::read(wrong, out).code == errc::foreign);
}
