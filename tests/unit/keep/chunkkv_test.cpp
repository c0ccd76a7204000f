// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/chunkkv.hpp"

#include "reference/adakv.hpp"
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <kvslim/keep/chunkkv.hpp>

using namespace kvslim;

TEST_CASE("chunkkv keeps kvpress's tokens", "[chunkkv]") {
  golden const g("chunkkv");
  auto const k = g.floats("k");
  auto const view = dense_cache(k.data(), k.data(), extents{1, 2, 110, 8});
  auto expected = g["kept"].begin();
  for (std::size_t i = 0; i < g["length"].size(); ++i) {
    auto const size = static_cast<index_t>(g["cases"][2 * i]);
    double const stays = 1.0 - g["cases"][2 * i + 1] / 100.0;
    // As many chunks as kvpress counts, the last one whole or not.
    auto const chunks = std::max<index_t>(
        1, static_cast<index_t>(static_cast<double>((110 + size - 1) / size) * stays));
    index_t const budget = size > 110 ? static_cast<index_t>(110 * stays) : size * chunks;
    chunkkv const rule{{.size = size}};
    top_k const quota{{.budget = budget}};
    auto const kept =
        size > 110
            ? data::kept_by(pipeline{knorm{}, quota, rule}, view)
            : data::kept_by(pipeline{shared{knorm{}, {1, 2}, reduce::sum}, quota, rule}, view);
    REQUIRE(kept.size() == 2);
    for (auto const& row : kept) {
      auto const n = static_cast<std::ptrdiff_t>(g["length"][i]);
      CHECK(row == std::vector<index_t>(expected, expected + n));
      expected += n;
    }
  }
}

TEST_CASE("chunkkv matches the reference for any group, length and order of cells", "[chunkkv]") {
  index_t const window = 8;
  for (index_t group : {1, 4, 8})
    for (index_t dim : {16, 80}) {
      data::cache const c(
          {.sequences = 3, .kv_heads = 2, .group = group, .tokens = 90, .head_dim = dim},
          static_cast<unsigned>(group));
      std::vector<index_t> const lengths{90, 47, 0};
      data::shuffled const ragged(c, 17, lengths);
      for (index_t size : {1, 5, 16, 100})
        for (index_t budget : {9, 30, 60, 89, 200}) {
          auto const kept = data::kept_by(
              pipeline{snapkv{{.window = window, .reduce_first = true}},
                       top_k{{.budget = budget, .sinks = 3}}, chunkkv{{.size = size}}},
              ragged.view(), evidence{window_queries{c.queries(window)}});
          REQUIRE(kept.size() == 6);
          for (index_t r = 0; r < 6; ++r) {
            index_t const n = lengths[static_cast<std::size_t>(r / 2)];
            if (n == 0) {
              CHECK(kept[static_cast<std::size_t>(r)].empty());
              continue;
            }
            auto score = reference::window_score(oracle::window(c, r / 2, r % 2, window),
                                                 oracle::keys(c, r / 2, r % 2, n), 5, false,
                                                 reference::reduce::mean);
            score.resize(static_cast<std::size_t>(n), 0.0);
            CHECK(kept[static_cast<std::size_t>(r)] ==
                  reference::chunkkv_keep(score, static_cast<std::size_t>(size),
                                          static_cast<std::size_t>(budget), 3, window));
          }
        }
    }
}

TEST_CASE("chunkkv of size 1 is the best-of, and pins never go", "[chunkkv]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 70, .head_dim = 16});
  top_k const quota{{.budget = 31, .sinks = 2, .recent = 5}};
  data::shuffled mixed(c, 9);
  CHECK(data::kept_by(pipeline{knorm{}, quota, chunkkv{{.size = 1}}}, mixed.view()) ==
        data::kept_by(pipeline{knorm{}, quota}, mixed.view()));
  for (std::size_t cell = 0; cell < 79; ++cell)
    if (mixed.valid[cell] == 1 && mixed.positions[cell] == 33) mixed.valid[cell] = 2;
  auto const kept = data::kept_by(pipeline{knorm{}, quota, chunkkv{{.size = 10}}}, mixed.view());
  REQUIRE(kept.size() == 4);
  CHECK(std::binary_search(kept[0].begin(), kept[0].end(), 33));
  CHECK(data::contains(kept, data::kept_sets(4, {0, 1, 65, 66, 67, 68, 69})));
  for (auto const& row : kept) CHECK(row.size() <= 31);
}

TEST_CASE("chunkkv refuses what makes no sense", "[chunkkv]") {
  extents const e{1, 2, 50, 8};
  auto const code = [&](index_t size) {
    return make_plan(pipeline{knorm{}, top_k{{.budget = 10}}, chunkkv{{.size = size}}}, e)
        .check()
        .code;
  };
  CHECK(code(1) == errc::ok);
  CHECK(code(1000) == errc::ok);
  CHECK(code(0) == errc::invalid_option);
  CHECK(code(std::numeric_limits<index_t>::max()) == errc::invalid_option);
}
