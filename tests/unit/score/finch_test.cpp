// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/finch.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/score/finch.hpp>

using namespace kvslim;

TEST_CASE("finch's scores, kept sets and rotated keys are kvpress's", "[finch]") {
  golden const g("finch");
  auto const q = g.floats("q"), k = g.floats("k");
  auto const view = dense_cache(k.data(), k.data(), extents{1, 2, 80, 16});
  evidence const ev{window_queries{dense_rows(q.data(), {1, 4, 12, 16})}};
  for (bool const normalized : {true, false}) {
    std::string const name = normalized ? "" : "_plain";
    finch const question{{.window = 12, .normalized = normalized}};
    auto const scores = data::scores_by(pipeline{question}, view, ev);
    REQUIRE(scores.size() == 160);
    auto const& expected = g["score" + name];
    double const most = *std::max_element(expected.begin(), expected.end());
    for (std::size_t h = 0; h < 2; ++h)
      for (std::size_t t = 0; t < 68; ++t)
        REQUIRE(std::abs(scores[h * 80 + t] - expected[h * 68 + t]) <=
                tolerance::accumulated * most);
    data::compressed const run(
        pipeline{question, top_k{{.budget = 30}}, rerotate{}, dense<float>{}}, view, ev);
    REQUIRE(run.result.ok());
    auto const kept =
        data::kept_by(pipeline{question, top_k{{.budget = 30}}, dense<float>{}}, view, ev);
    for (index_t h = 0; h < 2; ++h) {
      auto const begin = g["kept" + name].begin() + h * 30;
      CHECK(kept[static_cast<std::size_t>(h)] == std::vector<index_t>(begin, begin + 30));
      for (index_t i = 0; i < 30; ++i) {
        double error = 0, norm = 0;
        for (index_t d = 0; d < 16; ++d) {
          double const x = g["keys" + name][static_cast<std::size_t>((h * 30 + i) * 16 + d)];
          error += std::pow(run.packed.key(h, i, d) - x, 2);
          norm += x * x;
        }
        REQUIRE(std::sqrt(error) <= tolerance::accumulated * std::sqrt(norm));
      }
    }
  }
}

TEST_CASE("finch matches the reference in any order of cells", "[finch]") {
  for (auto const& [group, dim] : {std::pair<index_t, index_t>{1, 64}, {4, 80}, {8, 128}}) {
    data::cache const c(
        {.sequences = 3, .kv_heads = 2, .group = group, .tokens = 60, .head_dim = dim},
        static_cast<unsigned>(dim));
    std::vector<index_t> const lengths{60, 33, 5};
    data::shuffled const ragged(c, 21, lengths);
    for (index_t const window : {1, 7, 40})
      for (bool const normalized : {true, false}) {
        finch const question{{.window = window, .normalized = normalized}};
        evidence const ev{window_queries{c.queries(window)}};
        auto const scores = data::scores_by(pipeline{question}, ragged.view(), ev);
        auto const kept =
            data::kept_by(pipeline{question, top_k{{.budget = 45, .sinks = 1}}}, ragged.view(), ev);
        REQUIRE(scores.size() == 6 * 81);
        REQUIRE(kept.size() == 6);
        for (index_t r = 0; r < 6; ++r) {
          index_t const n = lengths[static_cast<std::size_t>(r / 2)];
          std::vector<double> expected(static_cast<std::size_t>(n), 0.0);
          if (n > window) {
            auto const prefix = reference::finch(oracle::window(c, r / 2, r % 2, window),
                                                 oracle::keys(c, r / 2, r % 2, n), normalized);
            std::copy(prefix.begin(), prefix.end(), expected.begin());
          }
          double const most = *std::max_element(expected.begin(), expected.end());
          for (index_t t = 0; t < n; ++t)
            REQUIRE(std::abs(scores[static_cast<std::size_t>(r * 81 + t)] -
                             expected[static_cast<std::size_t>(t)]) <=
                    tolerance::accumulated * most);
          CHECK(kept[static_cast<std::size_t>(r)] == reference::keep(expected, 45, 1, window));
        }
      }
  }
}

TEST_CASE("finch without its normalization is snapkv without pooling", "[finch]") {
  data::cache const c({.tokens = 50, .head_dim = 16});
  evidence const ev{window_queries{c.queries(8)}};
  auto const view = c.view();
  CHECK(data::scores_by(pipeline{finch{{.window = 8, .normalized = false}}}, view, ev) ==
        data::scores_by(pipeline{snapkv{{.window = 8, .pool = 1}}}, view, ev));
  // One query, one weight: the same order.
  evidence const one{window_queries{c.queries(1)}};
  top_k const keep{{.budget = 20}};
  CHECK(data::kept_by(pipeline{finch{{.window = 1}}, keep}, view, one) ==
        data::kept_by(pipeline{finch{{.window = 1, .normalized = false}}, keep}, view, one));
}

TEST_CASE("finch keeps the question, and refuses what it cannot use", "[finch]") {
  data::cache const c({.tokens = 30, .head_dim = 16});
  auto const result = [&](index_t window, index_t asked) {
    return data::compressed(pipeline{finch{{.window = window}}, top_k{{.budget = 10}}}, c.view(),
                            evidence{window_queries{c.queries(asked)}})
        .result.code;
  };
  CHECK(result(8, 8) == errc::ok);
  CHECK(result(8, 9) == errc::invalid_shape);
  CHECK(result(0, 8) == errc::invalid_option);
  CHECK(result(index_t{1} << 17, 8) == errc::invalid_option);
  auto const kept = data::kept_by(pipeline{finch{{.window = 8}}, top_k{{.budget = 8}}}, c.view(),
                                  evidence{window_queries{c.queries(8)}});
  CHECK(kept == data::kept_sets(2, {22, 23, 24, 25, 26, 27, 28, 29}));
}
