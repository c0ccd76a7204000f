// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// Two classes of ZipCache in two caches store what the authors' functions give, attention reads
// both as one, and the second holds what the first does not.

#include "reference/zipcache.hpp"

#include "support/catch.hpp"
#include "support/classes.hpp"
#include "support/golden.hpp"
#include "support/lives.hpp"
#include "support/matrix.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/kvslim.hpp>

#include <algorithm>

using namespace kvslim;
using classes::tokens;

namespace {

template <int Bits, class View>
auto encoded(View const& view, keep_set const& keep) {
  data::room<zipcache<Bits, f16, float>> room({}, view.extents(), {.positions = true});
  REQUIRE(encode(cpu{}, room.plan, view, keep, room.packed, room.scratch).ok());
  CHECK(room.intact());
  return room;
}

/// A width that the authors do not pack: one class of 16 channels of 20 tokens.
template <int Bits>
void check_width(golden const& g) {
  CAPTURE(Bits);
  index_t const n = 20, dim = 16;
  data::cache c({.kv_heads = 1, .tokens = n, .head_dim = dim});
  for (index_t t = 0; t < n; ++t)
    for (index_t d = 0; d < dim; ++d) {
      auto const from = static_cast<std::size_t>(t * 32 + d),
                 to = static_cast<std::size_t>(t * dim + d);
      c.k[to] = static_cast<float>(g["k"][from]);
      c.v[to] = static_cast<float>(g["v"][from]);
    }
  tokens every(1, n);
  for (index_t t = 0; t < n; ++t)
    every.cells[static_cast<std::size_t>(every.begins[1]++)] = static_cast<std::int32_t>(t);
  auto const room = encoded<Bits>(c.view(), every.set);
  std::string const bits = "_value_" + std::to_string(Bits);
  for (index_t t = 0; t < n; ++t)
    for (index_t d = 0; d < dim; ++d) {
      auto const at = static_cast<std::size_t>(t * dim + d);
      classes::check_near(room.packed.key(0, t, d), g["k" + bits][at], c.k[at]);
      classes::check_near(room.packed.value(0, t, d), g["v" + bits][at], c.v[at]);
    }
}

}  // namespace

TEST_CASE("zipcache stores what the authors' functions give", "[golden][zipcache]") {
  golden const g("zipcache");
  index_t const n = 40, dim = 32;
  data::cache c({.kv_heads = 1, .tokens = n, .head_dim = dim});
  c.k = g.floats("k");
  c.v = g.floats("v");
  tokens chosen(1, n), rest(1, n);
  for (index_t t = 0; t < n; t += 3)
    chosen.cells[static_cast<std::size_t>(chosen.begins[1]++)] = static_cast<std::int32_t>(t);
  REQUIRE(ops::rest_of(cpu{}, c.view(), chosen.set, rest.set).ok());
  REQUIRE(rest.begins[1] == n - chosen.begins[1]);
  auto const high = encoded<4>(c.view(), chosen.set);
  auto const low = encoded<2>(c.view(), rest.set);
  auto const check = [&](auto const& packed) {
    for (index_t i = 0; i < packed.slots(0, 0); ++i)
      for (index_t d = 0; d < dim; ++d) {
        auto const at = static_cast<std::size_t>(packed.position(0, 0, i) * dim + d);
        classes::check_near(packed.key(0, i, d), g["k_value"][at], c.k[at]);
        classes::check_near(packed.value(0, i, d), g["v_value"][at], c.v[at]);
      }
  };
  check(high.packed);
  check(low.packed);
  CHECK(classes::segments_error(high.packed, low.packed, c) <= tolerance::attend);
  check_width<3>(g);
  check_width<5>(g);
  check_width<6>(g);
  check_width<7>(g);
}

TEST_CASE("zipcache's classes come from any scorer, over any cells", "[zipcache]") {
  matrix::scene const at;
  data::layouts<float> source(at.c);
  auto const view = at.ragged(source.dense());
  auto const& e = view.extents();
  auto const plan =
      make_plan(pipeline{snapkv{{.window = 8}}, top_k{{.budget = 20, .recent = 8}}, zipcache<8>{}},
                e, {.positions = true});
  data::buffer memory(plan.keep_bytes()), scratch(plan.select_bytes());
  auto keep = plan.keep(memory);
  REQUIRE(select(cpu{}, plan, view, at.evidence(), keep, scratch).ok());
  tokens rest(e.rows(), e.rows() * e.tokens);
  REQUIRE(ops::rest_of(cpu{}, view, keep, rest.set).ok());
  for (index_t r = 0; r < e.rows(); ++r) {
    std::vector<int> held(static_cast<std::size_t>(e.tokens), 0);
    auto const count = [&](keep_set const& set) {
      for (auto i = set.begins[r]; i < set.begins[r + 1]; ++i) {
        ++held[static_cast<std::size_t>(set.cells[i])];
        if (i > set.begins[r]) CHECK(set.ranks[i] > set.ranks[i - 1]);
      }
    };
    count(keep);
    CHECK(keep.count(r) == 20);
    count(rest.set);
    for (index_t t = 0; t < e.tokens; ++t) {
      bool const token =
          t < at.lengths[r / 2] && at.valid[static_cast<std::size_t>(r / 2 * 75 + t)];
      CHECK(held[static_cast<std::size_t>(t)] == (token ? 1 : 0));
    }
  }
  auto const high = encoded<5>(view, keep);
  auto const low = encoded<4>(view, rest.set);
  CHECK(classes::segments_error(high.packed, low.packed, at.c) <= tolerance::attend);
  auto const check = [&](auto const& packed, int bits) {
    for (index_t r = 0; r < e.rows(); ++r) {
      reference::matrix k, v;
      for (index_t i = 0; i < packed.slots(r / 2, r % 2); ++i) {
        k.emplace_back();
        v.emplace_back();
        for (index_t d = 0; d < 32; ++d) {
          k.back().push_back(at.c.key(r / 2, r % 2, packed.position(r / 2, r % 2, i), d));
          v.back().push_back(at.c.value(r / 2, r % 2, packed.position(r / 2, r % 2, i), d));
        }
      }
      auto const keys = reference::zipcache_keys(k, bits),
                 values = reference::zipcache_values(v, bits);
      for (std::size_t i = 0; i < k.size(); ++i)
        for (std::size_t d = 0; d < 32; ++d) {
          auto const slot = static_cast<index_t>(i), channel = static_cast<index_t>(d);
          classes::check_near(packed.key(r, slot, channel), keys[i][d], k[i][d]);
          classes::check_near(packed.value(r, slot, channel), values[i][d], v[i][d]);
        }
    }
  };
  check(high.packed, 5);
  check(low.packed, 4);
}

TEST_CASE("a class of zipcache lives", "[zipcache]") {
  for (index_t const n : {1, 20, 70})
    for (index_t const dim : {32, 80}) {
      CAPTURE(n, dim);
      data::cache const c(
          {.kv_heads = 2, .group = n == 20 ? 8 : 1, .tokens = n, .head_dim = dim, .value_dim = 48});
      data::compressed const run(zipcache<4>{{.residual = n == 70 ? 9 : 0}}, c.view(), {},
                                 {.append_tokens = 40, .evicts = true});
      REQUIRE(run.result.ok());
      CHECK(run.intact());
      CHECK(oracle::attend_error(run.packed, c, 2) <= tolerance::attend);
      data::lives_evicting(run.plan, run.packed, c);
    }
}

TEST_CASE("zipcache takes tokens that its prompt says nothing of", "[zipcache]") {
  // Channels of zeros, then tokens far outside: cut, and finite.
  data::cache c({.kv_heads = 1, .tokens = 32, .head_dim = 32});
  std::fill(c.k.begin(), c.k.end(), 0.0f);
  std::fill(c.v.begin(), c.v.end(), 0.0f);
  data::compressed const run(zipcache<2>{}, c.view(), {}, {.append_tokens = 8});
  REQUIRE(run.result.ok());
  CHECK(run.packed.key(0, 5, 3) == 0.0f);
  CHECK(run.packed.value(0, 5, 3) == 0.0f);
  std::vector<float> const far(32, 60000.0f);
  data::buffer scratch(std::max(append_bytes(run.plan.layout()), settle_bytes(run.plan.layout())));
  auto const row = dense_rows(far.data(), {1, 1, 1, 32});
  REQUIRE(append(cpu{}, run.packed, row, row, scratch).ok());
  REQUIRE(settle(cpu{}, run.packed, scratch).ok());
  CHECK(run.packed.raw_row(0).key_coded == 33);
  CHECK(run.packed.key(0, 32, 3) == 0.0f);
  CHECK(std::abs(run.packed.value(0, 32, 3) - 60000.0f) <= 60000 * tolerance::f16_storage);
}

TEST_CASE("zipcache and rest_of say what they need", "[zipcache]") {
  auto const check = [](auto const& policy, index_t dim) {
    return make_plan(policy, {1, 1, 10, dim}).check().code;
  };
  CHECK(check(zipcache<4>{}, 64) == errc::ok);
  CHECK(check(zipcache<4>{}, 66) == errc::invalid_shape);
  CHECK(check(zipcache<4>{{.residual = -1}}, 64) == errc::invalid_option);
  data::cache c({.kv_heads = 1, .tokens = 10, .head_dim = 32});
  tokens chosen(1, 10), rest(1, 9);
  CHECK(ops::rest_of(cpu{}, c.view(), chosen.set, rest.set).code == errc::invalid_shape);
  CHECK(rest.begins[1] == 0);
  chosen.begins[1] = 1;
  CHECK(ops::rest_of(cpu{}, c.view(), chosen.set, rest.set).ok());
  CHECK(rest.cells == std::vector<std::int32_t>{1, 2, 3, 4, 5, 6, 7, 8, 9});
  keep_set none;
  CHECK(ops::rest_of(cpu{}, c.view(), chosen.set, none).code == errc::invalid_pointer);
  CHECK(ops::rest_of(cpu{}, c.view(), none, rest.set).code == errc::invalid_pointer);
  c.v[9] = 66000.0f;
  CHECK(data::compressed(zipcache<4, float>{}, c.view()).result.code == errc::non_finite);
  auto const key = zipcache<4>{{.residual = 5}}.key_codec();
  auto back = zipcache<4>{}.key_codec();
  REQUIRE(decltype(back)::read(key.written(), back).ok());
  CHECK(back.written() == key.written());
  auto const value = zipcache<4>{{.residual = 5}}.value_codec();
  auto other = zipcache<4>{}.value_codec();
  REQUIRE(decltype(other)::read(value.written(), other).ok());
  CHECK(other.written() == value.written());
  auto fewer = zipcache<2>{}.value_codec();
  CHECK(decltype(fewer)::read(value.written(), fewer).code == errc::foreign);
  form bad = key.written();
  bad.words[0] = 1u << 30;
  CHECK(decltype(back)::read(bad, back).code == errc::foreign);
}
