// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/at_least.hpp"

#include "reference/adakv.hpp"
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <kvslim/select/at_least.hpp>

using namespace kvslim;

TEST_CASE("at_least keeps kvpress's tokens of a prompt and while decoding", "[at_least][life]") {
  golden const g("dms");
  auto const k = g.floats("k");
  data::text_of const text{k.data(), k.data(), 2, 2, 60, 8};
  pipeline const policy{knorm{}, at_least{{.least = -2.6f, .recent = 6}}, dense<float>{}};
  data::evicting life(policy, text.prompt(40), evidence<>{}, 20);
  REQUIRE(life.run.result.ok());
  auto length = g["length"].begin(), kept = g["kept"].begin();
  for (index_t t = 40; t <= 60; ++t) {
    for (index_t h = 0; h < 2; ++h) {
      auto const n = static_cast<std::ptrdiff_t>(*length++);
      CHECK(life.held(0, h) == std::vector<index_t>(kept, kept + n));
      kept += n;
    }
    if (t < 60) REQUIRE(life.step(text.keys(t, 1), text.keys(t, 1), text.queries(t, 1)).ok());
  }
  CHECK(life.intact());
}

TEST_CASE("at_least matches the reference for any group, length and order of cells", "[at_least]") {
  index_t const window = 8;
  for (index_t group : {1, 4, 8})
    for (index_t dim : {16, 80}) {
      data::cache const c(
          {.sequences = 3, .kv_heads = 2, .group = group, .tokens = 90, .head_dim = dim},
          static_cast<unsigned>(group));
      std::vector<index_t> const lengths{90, 47, 0};
      data::shuffled const ragged(c, 17, lengths);
      for (float least : {0.0f, 0.004f, 0.012f, 1.0f})
        for (index_t budget : {0, 12}) {
          auto const kept = data::kept_by(
              pipeline{snapkv{{.window = window, .reduce_first = true}},
                       at_least{{.least = least, .budget = budget, .sinks = 2, .recent = 3}}},
              ragged.view(), evidence{window_queries{c.queries(window)}});
          REQUIRE(kept.size() == 6);
          for (index_t r = 0; r < 6; ++r) {
            index_t const n = lengths[static_cast<std::size_t>(r / 2)];
            std::vector<double> score;
            if (n > 0)
              score = reference::window_score(oracle::window(c, r / 2, r % 2, window),
                                              oracle::keys(c, r / 2, r % 2, n), 5, false,
                                              reference::reduce::mean);
            score.resize(static_cast<std::size_t>(n), 0.0);
            CHECK(kept[static_cast<std::size_t>(r)] ==
                  reference::at_least_keep(score, static_cast<double>(least),
                                           static_cast<std::size_t>(budget == 0 ? n : budget), 2,
                                           window));
          }
        }
    }
}

TEST_CASE("at_least of extreme scores and pins", "[at_least]") {
  using row = std::vector<index_t>;
  std::vector<float> const scores{1, -INFINITY, std::nanf(""), 3, 2, -1};
  data::cache const c({.kv_heads = 1, .group = 1, .tokens = 6, .head_dim = 8});
  auto const kept = [&](float least, std::vector<std::uint8_t> const& valid) {
    auto view = c.view();
    view.valid = valid.data();
    return data::kept_by(pipeline{given_scores{}, at_least{{.least = least, .recent = 1}}}, view,
                         evidence{token_scores<>{scores.data()}})
        .at(0);
  };
  std::vector<std::uint8_t> valid(6, 1);
  CHECK(kept(2.0f, valid) == row{3, 4, 5});
  CHECK(kept(1e30f, valid) == row{5});
  CHECK(kept(-INFINITY, valid) == row{0, 1, 2, 3, 4, 5});
  valid[1] = 2;
  CHECK(kept(2.0f, valid) == row{1, 3, 4, 5});
}

TEST_CASE("at_least holds its budget while decoding, and names no victim above its least",
          "[at_least][life]") {
  data::cache const c({.kv_heads = 2, .group = 1, .tokens = 60, .head_dim = 16});
  data::text_of const text{c.k.data(), c.k.data(), 2, 2, 60, 16};
  pipeline const policy{knorm{}, at_least{{.least = -1e9f, .budget = 20, .recent = 4}}};
  data::evicting life(policy, text.prompt(15), evidence<>{}, 45);
  REQUIRE(life.run.result.ok());
  for (index_t t = 15; t < 60; ++t) {
    REQUIRE(life.step(text.keys(t, 1), text.keys(t, 1), text.queries(t, 1)).ok());
    CHECK(life.held(0, 0).size() == static_cast<std::size_t>(std::min<index_t>(t + 1, 20)));
  }
}

TEST_CASE("at_least refuses what makes no sense", "[at_least]") {
  extents const e{1, 2, 50, 8};
  auto const code = [&](at_least::options const& o) {
    return make_plan(pipeline{knorm{}, at_least{o}}, e).check().code;
  };
  CHECK(code({}) == errc::ok);
  CHECK(code({.least = std::nanf("")}) == errc::invalid_option);
  CHECK(code({.budget = -1}) == errc::invalid_option);
  CHECK(code({.budget = std::numeric_limits<index_t>::max()}) == errc::invalid_option);
  CHECK(code({.sinks = -1}) == errc::invalid_option);
  CHECK(code({.recent = -1}) == errc::invalid_option);
}
