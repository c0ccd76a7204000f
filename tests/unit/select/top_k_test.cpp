// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <numeric>

using namespace kvslim;

namespace {

std::vector<float> tied_scores(std::size_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::vector<float> x(n);
  for (float& y : x) y = static_cast<float>(engine() % 20);  // many ties
  return x;
}

auto kept(data::cache const& c, top_k const& quota, std::vector<float> const& scores) {
  return data::kept_by(pipeline{given_scores{}, quota}, c.view(),
                       evidence{token_scores<>{scores.data()}});
}

}  // namespace

TEST_CASE("the best stay: sinks, then the newest, then by score and place", "[select][top_k]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 50, .head_dim = 8});
  for (unsigned seed = 0; seed < 20; ++seed) {
    auto const scores = tied_scores(4 * 50, seed);
    std::mt19937 engine(seed);
    index_t const budget = 1 + engine() % 60, sinks = engine() % 8, recent = engine() % 20;
    CAPTURE(seed, budget, sinks, recent);
    auto const rows = kept(c, {{.budget = budget, .sinks = sinks, .recent = recent}}, scores);
    REQUIRE(rows.size() == 4);
    for (std::size_t r = 0; r < 4; ++r) {
      auto const from = scores.begin() + static_cast<std::ptrdiff_t>(r) * 50;
      CHECK(rows[r] == reference::keep({from, from + 50}, budget, sinks, recent));
    }
  }
}

TEST_CASE("NaN scores rank last and infinities rank by the total order",
          "[select][top_k][bad_input]") {
  data::cache const c({.kv_heads = 1, .tokens = 6, .head_dim = 8});
  std::vector<float> const scores{std::nanf(""), -INFINITY, INFINITY, 0, std::nanf(""), 1};
  CHECK(kept(c, {{.budget = 5}}, scores) == data::kept_sets{{0, 1, 2, 3, 5}});
  CHECK(kept(c, {{.budget = 2}}, scores) == data::kept_sets{{2, 5}});
  // Protection asks for no score.
  CHECK(kept(c, {{.budget = 3, .sinks = 1, .recent = 2}}, scores) == data::kept_sets{{0, 4, 5}});
}

TEST_CASE("a budget that cannot hold what it protects keeps sinks, then the newest", "[top_k]") {
  data::cache const c({.kv_heads = 1, .tokens = 10, .head_dim = 80});
  std::vector<float> const scores{0, 0, 0, 0, 9, 9, 0, 0, 0, 0};
  auto const all = [&](index_t budget, index_t sinks, index_t recent) {
    return kept(c, {{.budget = budget, .sinks = sinks, .recent = recent}}, scores)[0];
  };
  CHECK(all(5, 3, 4) == std::vector<index_t>{0, 1, 2, 8, 9});
  CHECK(all(2, 3, 4) == std::vector<index_t>{0, 1});
  CHECK(all(3, 3, 4) == std::vector<index_t>{0, 1, 2});
  CHECK(all(4, 0, 40) == std::vector<index_t>{6, 7, 8, 9});
  CHECK(all(4, 40, 0) == std::vector<index_t>{0, 1, 2, 3});
  CHECK(all(9, 5, 5).size() == 9);  // they meet: no token counts twice
  std::vector<index_t> everything(10);
  std::iota(everything.begin(), everything.end(), index_t{0});
  CHECK(all(10, 0, 0) == everything);
  CHECK(all(11, 0, 0) == everything);
  CHECK(all(10, 40, 40) == everything);
}

TEST_CASE("every row keeps its budget or all it has, and a larger budget no fewer", "[top_k]") {
  for (index_t group : {1, 8}) {
    data::cache const c(
        {.sequences = 3, .kv_heads = 2, .group = group, .tokens = 70, .head_dim = 80},
        static_cast<unsigned>(group));
    data::shuffled const ragged(c, 9, {70, 5, 0});
    data::kept_sets fewer(6);
    for (index_t budget : {1, 4, 5, 6, 69, 70, 500}) {
      pipeline const policy{knorm{}, top_k{{.budget = budget, .sinks = 1}}};
      auto const rows = data::kept_by(policy, ragged.view());
      REQUIRE(rows.size() == 6);
      for (std::size_t r = 0; r < 6; ++r) {
        index_t const has = std::vector<index_t>{70, 5, 0}[r / 2];
        CHECK(std::ssize(rows[r]) == std::min(budget, has));
        CHECK(std::is_sorted(rows[r].begin(), rows[r].end()));
      }
      CHECK(data::contains(rows, fewer));
      CHECK(make_plan(policy, c.shape.extents()).most_kept() == std::min<index_t>(budget, 70));
      fewer = rows;
    }
  }
}

TEST_CASE("top_k refuses budgets below one and protection below zero", "[top_k]") {
  data::cache const c({.kv_heads = 1, .tokens = 10, .head_dim = 8});
  auto const check = [&](top_k::options const& o) {
    data::compressed const run(pipeline{knorm{}, top_k{o}}, c.view());
    CHECK(run.result.code == top_k{o}.check(c.shape.extents()).code);
    if (!run.result.ok()) {
      CHECK(std::string(run.result.message).rfind("kvslim: top_k needs ", 0) == 0);
      CHECK(run.storage.untouched());
    }
    return run.result.code;
  };
  CHECK(check({.budget = 0}) == errc::invalid_option);
  CHECK(check({.budget = -1}) == errc::invalid_option);
  CHECK(check({.budget = std::numeric_limits<index_t>::min()}) == errc::invalid_option);
  CHECK(check({.budget = 1, .sinks = -1}) == errc::invalid_option);
  CHECK(check({.budget = 1, .recent = -1}) == errc::invalid_option);
  CHECK(check({.budget = 1}) == errc::ok);
  index_t const huge = std::numeric_limits<index_t>::max();
  CHECK(check({.budget = huge, .sinks = huge, .recent = huge}) == errc::ok);
}
