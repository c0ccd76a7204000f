// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/laq.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/score/laq.hpp>

using namespace kvslim;

TEST_CASE("laq keeps what the authors keep", "[laq]") {
  golden const g("laq");
  auto const q = g.floats("q"), k = g.floats("k");
  auto const view = dense_cache(k.data(), k.data(), extents{1, 3, 90, 16});
  for (index_t const window : {8, 0}) {
    rows_view<float const> const queries{q.data() + (8 - window) * 16, 1, 3, window + 8, 16,
                                         {0, 16 * 16, 16, 1}};
    evidence const ev{window_queries{queries}};
    for (auto const kind : {pooling::average, pooling::maximum}) {
      laq const method{{.window = window, .kind = kind}};
      auto const kept = data::kept_by(pipeline{method, top_k{{.budget = 40}}}, view, ev);
      auto const scores = data::scores_by(pipeline{method}, view, ev);
      auto const& theirs = g[(kind == pooling::maximum ? "kept_maxpool_" : "kept_avgpool_") +
                             std::to_string(window)];
      REQUIRE(kept.size() == 3);
      for (index_t h = 0; h < 3; ++h) {
        auto const& mine = kept[static_cast<std::size_t>(h)];
        std::vector<index_t> const expected(theirs.begin() + h * 40, theirs.begin() + (h + 1) * 40);
        if (kind == pooling::average) CHECK(mine == expected);
        // Maxima are equal along stretches, of which theirs are any: as many of each score.
        auto const scored = [&](std::vector<index_t> const& tokens) {
          std::vector<float> x;
          for (index_t const t : tokens) x.push_back(scores[static_cast<std::size_t>(h * 90 + t)]);
          std::sort(x.begin(), x.end());
          return x;
        };
        CHECK(scored(mine) == scored(expected));
      }
    }
  }
}

TEST_CASE("laq matches the reference in any order of cells", "[laq]") {
  for (auto const& [group, dim] : {std::pair<index_t, index_t>{1, 64}, {4, 80}, {8, 128}}) {
    data::cache const c(
        {.sequences = 4, .kv_heads = 2, .group = group, .tokens = 60, .head_dim = dim},
        static_cast<unsigned>(dim));
    std::vector<index_t> const lengths{60, 33, 5, 0};
    data::shuffled const ragged(c, 21, lengths);
    for (auto const& [window, pseudo, pool] :
         {std::tuple<index_t, index_t, index_t>{0, 1, 1}, {0, 30, 7}, {8, 8, 7}, {20, 3, 3}}) {
      laq const method{{.window = window, .pseudo = pseudo, .pool = pool}};
      evidence const ev{window_queries{c.queries(window + pseudo)}};
      auto const scores = data::scores_by(pipeline{method}, ragged.view(), ev);
      auto const kept = data::kept_by(pipeline{method, top_k{{.budget = 30}}}, ragged.view(), ev);
      REQUIRE(scores.size() == 8 * 81);
      REQUIRE(kept.size() == 8);
      for (index_t r = 0; r < 8; ++r) {
        index_t const n = lengths[static_cast<std::size_t>(r / 2)];
        std::vector<double> expected(static_cast<std::size_t>(n), 0.0);
        if (n > window) {
          auto const prefix = reference::laq(
              oracle::window(c, r / 2, r % 2, window + pseudo), oracle::keys(c, r / 2, r % 2, n),
              static_cast<std::size_t>(window), static_cast<std::size_t>(pool));
          std::copy(prefix.begin(), prefix.end(), expected.begin());
        }
        for (index_t t = 0; t < n; ++t)
          REQUIRE(std::abs(scores[static_cast<std::size_t>(r * 81 + t)] -
                           expected[static_cast<std::size_t>(t)]) <= tolerance::accumulated);
        if (pool == 1)  // pooling makes neighbours equal but for rounding
          CHECK(kept[static_cast<std::size_t>(r)] == reference::keep(expected, 30, 0, window));
      }
    }
  }
}

TEST_CASE("a drafted query that is the prompt's last one counts as much", "[laq]") {
  data::cache const c({.kv_heads = 1, .group = 1, .tokens = 50, .head_dim = 16});
  // One query of the newest token and its copy, drafted: they see the same.
  std::vector<float> q(c.q.begin(), c.q.begin() + 16);
  q.insert(q.end(), c.q.begin(), c.q.begin() + 16);
  auto const both = data::scores_by(pipeline{laq{{.window = 1, .pseudo = 1, .pool = 1}}}, c.view(),
                                    evidence{window_queries{dense_rows(q.data(), {1, 1, 2, 16})}});
  auto const one = data::scores_by(pipeline{snapkv{{.window = 1, .pool = 1}}}, c.view(),
                                   evidence{window_queries{c.queries(1)}});
  REQUIRE(both.size() == one.size());
  for (std::size_t i = 0; i < one.size(); ++i)
    CHECK(std::abs(both[i] - one[i]) <= tolerance::elementwise);
}

TEST_CASE("laq keeps its window and pins, and refuses what it cannot use", "[laq]") {
  data::cache const c({.tokens = 30, .head_dim = 16});
  auto const result = [&](laq::options const& opt, index_t asked) {
    return data::compressed(pipeline{laq{opt}, top_k{{.budget = 10}}}, c.view(),
                            evidence{window_queries{c.queries(asked)}})
        .result.code;
  };
  CHECK(result({}, 16) == errc::ok);
  CHECK(result({}, 15) == errc::invalid_shape);
  CHECK(result({.window = -1}, 7) == errc::invalid_option);
  CHECK(result({.pseudo = 0}, 8) == errc::invalid_option);
  CHECK(result({.pool = 4}, 16) == errc::invalid_option);
  CHECK(result({.pool = 0}, 16) == errc::invalid_option);
  CHECK(result({.window = index_t{1} << 20}, 16) == errc::invalid_option);
  auto view = c.view();
  std::vector<std::uint8_t> valid(30, 1);
  valid[13] = 2;
  view.valid = valid.data();
  auto const kept = data::kept_by(pipeline{laq{}, top_k{{.budget = 9}}}, view,
                                  evidence{window_queries{c.queries(16)}});
  CHECK(kept == data::kept_sets(2, {13, 22, 23, 24, 25, 26, 27, 28, 29}));
}
