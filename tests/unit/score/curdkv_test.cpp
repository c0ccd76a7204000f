// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/curdkv.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/score/curdkv.hpp>

using namespace kvslim;

namespace {

struct {
  leverage kind;
  reference::cur_kind theirs;
  char const* name;
} const kinds[] = {{leverage::product, reference::cur_kind::product, "kv_product"},
                   {leverage::key, reference::cur_kind::key, "key"},
                   {leverage::value, reference::cur_kind::value, "value"},
                   {leverage::average, reference::cur_kind::average, "kv_avg"}};

}  // namespace

TEST_CASE("curdkv's scores and kept sets are kvpress's", "[curdkv]") {
  golden const g("curdkv");
  auto const k = g.floats("k"), v = g.floats("v");
  auto const view = dense_cache(k.data(), v.data(), extents{1, 2, 75, 16});
  auto const same = [&](std::string const& name, curdkv const& method) {
    auto const scores = data::scores_by(pipeline{method}, view);
    auto const& expected = g["score_" + name];
    REQUIRE(scores.size() == expected.size());
    for (std::size_t i = 0; i < scores.size(); ++i)
      REQUIRE(std::abs(scores[i] - expected[i]) <= tolerance::accumulated * expected[i]);
    auto const kept = data::kept_by(pipeline{method, top_k{{.budget = 30}}}, view);
    REQUIRE(kept.size() == 2);
    for (index_t h = 0; h < 2; ++h) {
      auto const begin = g["kept_" + name].begin() + h * 30;
      CHECK(kept[static_cast<std::size_t>(h)] == std::vector<index_t>(begin, begin + 30));
    }
  };
  for (auto const& it : kinds) same(it.name, {{.kind = it.kind}});
  same("global", {{.sinks = 2, .window = 0}});
  same("window_7", {{.window = 7}});
}

TEST_CASE("curdkv matches the reference in any order of cells", "[curdkv]") {
  for (index_t const dim : {64, 80, 128})
    for (auto const& it : kinds)
      for (index_t const window : {0, 1, 5, 16, 1000}) {
        data::cache const c({.sequences = 3,
                             .kv_heads = 2,
                             .group = dim == 80 ? 8 : 1,  // which no score depends on
                             .tokens = 60,
                             .head_dim = dim,
                             .value_dim = dim == 128 ? 24 : 0},
                            static_cast<unsigned>(dim));
        std::vector<index_t> const lengths{60, 33, 3};
        data::shuffled const ragged(c, 21, lengths);
        curdkv const method{{.sinks = 3, .window = window, .kind = it.kind}};
        auto const scores = data::scores_by(pipeline{method}, ragged.view());
        REQUIRE(scores.size() == 6 * 81);
        auto const kept =
            data::kept_by(pipeline{method, top_k{{.budget = 20, .recent = 2}}}, ragged.view());
        REQUIRE(kept.size() == 6);
        for (index_t r = 0; r < 6; ++r) {
          index_t const n = lengths[static_cast<std::size_t>(r / 2)];
          auto const expected = reference::curdkv(oracle::keys(c, r / 2, r % 2, n),
                                                  oracle::values(c, r / 2, r % 2, n), 3,
                                                  static_cast<std::size_t>(window), it.theirs);
          for (index_t t = 0; t < n; ++t) {
            double const x = expected[static_cast<std::size_t>(t)];
            REQUIRE(std::abs(scores[static_cast<std::size_t>(r * 81 + t)] - x) <=
                    tolerance::accumulated * x);
          }
          for (index_t t = n; t < 81; ++t)
            REQUIRE(scores[static_cast<std::size_t>(r * 81 + t)] == 0.0f);
          if (window != 1)  // then all are equal but for rounding
            CHECK(kept[static_cast<std::size_t>(r)] == reference::keep(expected, 20, 0, 2));
        }
      }
}

TEST_CASE("curdkv does not see the scale of a window", "[curdkv]") {
  data::cache const c({.tokens = 64, .head_dim = 16});
  auto const policy = pipeline{curdkv{{.sinks = 0}}, top_k{{.budget = 20}}};
  auto const kept = data::kept_by(policy, c.view());
  data::cache scaled = c;
  for (index_t r = 0; r < 2; ++r)
    for (std::size_t i = 0; i < 16 * 16; ++i)
      scaled.k[static_cast<std::size_t>(r) * 64 * 16 + 32 * 16 + i] *= 8.0f;
  CHECK(data::kept_by(policy, scaled.view()) == kept);
  auto const other = data::reversed_heads(c);
  CHECK(data::reversed_heads(data::kept_by(policy, other.view()), 2) == kept);
}

TEST_CASE("curdkv of zero vectors, pins, empty rows and wrong options", "[curdkv]") {
  data::cache c({.kv_heads = 1, .tokens = 40, .head_dim = 8});
  std::fill(c.k.begin() + 16 * 8, c.k.begin() + 32 * 8, 0.0f);  // the second window
  auto const scores = data::scores_by(pipeline{curdkv{}}, c.view());
  for (std::size_t t = 16; t < 32; ++t) CHECK(scores[t] == 0.0f);
  CHECK(data::kept_by(pipeline{curdkv{}, top_k{{.budget = 24}}}, c.view())[0].back() > 31);
  std::fill(c.k.begin(), c.k.end(), 0.0f);
  CHECK(data::kept_by(pipeline{curdkv{}, top_k{{.budget = 6}}}, c.view()) ==
        data::kept_sets{{0, 1, 2, 3, 4, 5}});
  auto view = c.view();
  std::vector<std::uint8_t> valid(40, 1);
  valid[13] = valid[27] = 2;
  view.valid = valid.data();
  CHECK(data::kept_by(pipeline{curdkv{}, top_k{{.budget = 2}}}, view) == data::kept_sets{{13, 27}});

  data::cache const pair({.sequences = 2, .tokens = 12, .head_dim = 8});
  data::shuffled const empty(pair, 3, {0, 12});
  auto const kept = data::kept_by(pipeline{curdkv{}, top_k{{.budget = 4}}}, empty.view());
  REQUIRE(kept.size() == 4);
  CHECK(kept[0].empty());
  CHECK(kept[2] == std::vector<index_t>{0, 1, 2, 3});

  for (curdkv::options const& wrong : {curdkv::options{.sinks = -1}, curdkv::options{.window = -1}})
    CHECK(data::compressed(pipeline{curdkv{wrong}, top_k{{.budget = 4}}}, c.view()).result.code ==
          errc::invalid_option);
}
