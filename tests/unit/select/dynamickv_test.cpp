// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/dynamickv.hpp"

#include "reference/adakv.hpp"
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <kvslim/select/dynamickv.hpp>

using namespace kvslim;

TEST_CASE("dynamickv keeps the authors' tokens in every layer", "[dynamickv][snapkv]") {
  golden const g("dynamickv");
  auto const q = g.floats("q"), k = g.floats("k");
  auto const view = dense_cache(k.data(), k.data(), extents{8, 2, 64, 8});
  evidence const seen{window_queries{dense_rows(q.data(), {8, 2, 8, 8})}};
  data::kept_sets expected;
  auto at = g["kept"].begin();
  for (double n : g["length"])
    for (int h = 0; h < 2; ++h) {
      expected.emplace_back(at, at + static_cast<std::ptrdiff_t>(n));
      at += static_cast<std::ptrdiff_t>(n);
    }
  CHECK(data::kept_by(pipeline{snapkv{{.window = 8, .pool = 7}},
                               dynamickv{{.budget = 24, .layers = 8, .kv_heads = 2}}},
                      view, seen) == expected);
}

TEST_CASE("dynamickv's budgets are the authors'", "[dynamickv]") {
  golden const g("dynamickv");
  auto expected = g["case_lengths"].begin();
  auto score = g["case_scores"].begin();
  for (auto at = g["cases"].begin(); at != g["cases"].end(); at += 4) {
    auto const layers = static_cast<index_t>(at[0]), base = static_cast<index_t>(at[1]),
               tokens = static_cast<index_t>(at[2]);
    std::vector<float> const scores(score, score + layers * tokens);
    std::vector<std::vector<std::vector<double>>> rows;
    for (index_t l = 0; l < layers; ++l)
      rows.push_back({{score + l * tokens, score + (l + 1) * tokens}});
    data::cache const c(
        {.sequences = layers, .kv_heads = 1, .group = 1, .tokens = tokens, .head_dim = 8});
    auto const kept = data::kept_by(
        pipeline{given_scores{},
                 dynamickv{{.budget = base, .layers = layers, .largest = at[3] / 10}}},
        c.view(), evidence{token_scores<>{scores.data()}});
    auto const mine = reference::dynamickv_budgets(rows, base, at[3] / 10);
    REQUIRE(kept.size() == static_cast<std::size_t>(layers));
    for (std::size_t l = 0; l < kept.size(); ++l) {
      CHECK(kept[l].size() == static_cast<std::size_t>(*expected++));
      CHECK(mine[l] == static_cast<std::int64_t>(kept[l].size()));
    }
    score += layers * tokens;
  }
}

TEST_CASE("dynamickv matches the reference for any group, length and order of cells",
          "[dynamickv]") {
  index_t const layers = 3, window = 8;
  for (index_t group : {1, 4, 8}) {
    data::cache const c(
        {.sequences = 2 * layers, .kv_heads = 2, .group = group, .tokens = 90, .head_dim = 16},
        static_cast<unsigned>(group));
    std::vector<index_t> const lengths{90, 90, 90, 47, 47, 47};  // two requests
    data::shuffled const ragged(c, 17, lengths);
    for (index_t budget : {9, 24, 45, 70}) {
      auto const kept =
          data::kept_by(pipeline{snapkv{{.window = window, .reduce_first = true}},
                                 dynamickv{{.budget = budget, .layers = layers, .kv_heads = 2}}},
                        ragged.view(), evidence{window_queries{c.queries(window)}});
      REQUIRE(kept.size() == 12);
      for (index_t request = 0; request < 2; ++request) {
        index_t const n = lengths[static_cast<std::size_t>(request * layers)];
        std::vector<std::vector<std::vector<double>>> score(3);
        for (index_t l = 0; l < layers; ++l)
          for (index_t h = 0; h < 2; ++h) {
            index_t const s = request * layers + l;
            score[static_cast<std::size_t>(l)].push_back(
                reference::window_score(oracle::window(c, s, h, window), oracle::keys(c, s, h, n),
                                        5, false, reference::reduce::mean));
          }
        auto const budgets = reference::dynamickv_budgets(score, budget - window, 10.0);
        for (std::size_t i = 0; i < 6; ++i) {
          auto row = score[i / 2][i % 2];
          row.resize(static_cast<std::size_t>(n), 0.0);
          CHECK(kept[static_cast<std::size_t>(request) * 6 + i] ==
                reference::keep(row, budgets[i / 2] + window, 0, window));
        }
      }
    }
  }
}

TEST_CASE("dynamickv of empty rows, equal scores and budgets within the window", "[dynamickv]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .group = 1, .tokens = 40, .head_dim = 8});
  evidence const seen{window_queries{c.queries(4)}};
  auto const sizes = [&](index_t budget, std::vector<index_t> const& lengths) {
    std::vector<std::size_t> n;
    for (auto const& row :
         data::kept_by(pipeline{snapkv{{.window = 4}},
                                dynamickv{{.budget = budget, .layers = 2, .kv_heads = 2}}},
                       data::shuffled(c, 3, lengths).view(), seen))
      n.push_back(row.size());
    return n;
  };
  CHECK(sizes(10, {0, 0}) == std::vector<std::size_t>{0, 0, 0, 0});
  CHECK(sizes(10, {3, 3}) == std::vector<std::size_t>{3, 3, 3, 3});
  CHECK(sizes(3, {40, 40}) == std::vector<std::size_t>{3, 3, 3, 3});
  CHECK(sizes(100, {40, 40}) == std::vector<std::size_t>{40, 40, 40, 40});
  auto const cut = sizes(10, {40, 40});
  REQUIRE(cut.size() == 4);
  CHECK(cut[0] == cut[1]);
  CHECK(cut[0] + cut[2] == 20);
}

TEST_CASE("dynamickv refuses what makes no sense", "[dynamickv]") {
  extents const e{4, 2, 50, 8};
  auto const code = [&](dynamickv::options const& o) {
    return make_plan(pipeline{knorm{}, dynamickv{o}}, e).check().code;
  };
  CHECK(code({.budget = 20, .layers = 4, .kv_heads = 2}) == errc::ok);
  CHECK(code({.budget = 0, .layers = 4, .kv_heads = 2}) == errc::invalid_option);
  CHECK(code({.budget = 20, .layers = 1025}) == errc::invalid_option);
  CHECK(code({.budget = 20, .largest = 0.5}) == errc::invalid_option);
  CHECK(code({.budget = 20, .largest = std::nan("")}) == errc::invalid_option);
  CHECK(code({.budget = 20, .layers = 3}) == errc::invalid_shape);
}
