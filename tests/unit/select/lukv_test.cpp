// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/lukv.hpp"

#include "reference/adakv.hpp"
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <kvslim/select/lukv.hpp>

using namespace kvslim;

TEST_CASE("lukv keeps kvpress's tokens", "[lukv]") {
  golden const g("lukv");
  auto const k = g.floats("k"), removed = g.floats("removed");
  auto const view = dense_cache(k.data(), k.data(), extents{3, 4, 77, 8});
  auto length = g["length"].begin(), kept = g["kept"].begin();
  for (std::size_t i = 0; i < g["row"].size(); ++i) {
    CHECK(lukv_row(g["thousandths"][i] / 1000) == static_cast<index_t>(g["row"][i]));
    data::kept_sets expected;
    for (int r = 0; r < 12; ++r) {
      expected.emplace_back(kept, kept + static_cast<std::ptrdiff_t>(*length));
      kept += static_cast<std::ptrdiff_t>(*length++);
    }
    lukv<> const quota{{.removed = removed.data() + i * 12, .layers = 3, .kv_heads = 4}};
    CHECK(data::kept_by(pipeline{knorm{}, quota}, view) == expected);
  }
  CHECK(lukv_row(0.0) == 0);
  CHECK(lukv_row(-1.0) == 0);
  CHECK(lukv_row(std::nan("")) == 0);
  CHECK(lukv_row(2.0) == 98);
}

TEST_CASE("lukv matches the reference for any group, length and order of cells", "[lukv]") {
  index_t const window = 8;
  std::vector<float> const removed{0.1f, 0.75f, 0.333f, 0.95f};
  for (index_t group : {1, 4, 8})
    for (index_t dim : {16, 80}) {
      data::cache const c(
          {.sequences = 4, .kv_heads = 2, .group = group, .tokens = 90, .head_dim = dim},
          static_cast<unsigned>(group));
      std::vector<index_t> const lengths{90, 90, 47, 3};
      data::shuffled const ragged(c, 17, lengths);
      lukv<> const quota{
          {.removed = removed.data(), .layers = 2, .kv_heads = 2, .kept = 0.6, .recent = 2}};
      auto const kept =
          data::kept_by(pipeline{snapkv{{.window = window, .reduce_first = true}}, quota},
                        ragged.view(), evidence{window_queries{c.queries(window)}});
      REQUIRE(kept.size() == 8);
      for (index_t r = 0; r < 8; ++r) {
        index_t const n = lengths[static_cast<std::size_t>(r / 2)];
        std::vector<double> score;
        if (n > window)
          score = reference::window_score(oracle::window(c, r / 2, r % 2, window),
                                          oracle::keys(c, r / 2, r % 2, n), 5, false,
                                          reference::reduce::mean);
        score.resize(static_cast<std::size_t>(n), 0.0);
        auto const layer = removed.begin() + r / 2 % 2 * 2;
        auto const count = reference::lukv_counts({layer, layer + 2}, n);
        CHECK(
            kept[static_cast<std::size_t>(r)] ==
            reference::keep(score, std::min(n, count[static_cast<std::size_t>(r % 2)]), 4, window));
      }
    }
}

TEST_CASE("lukv plans for what its layers keep, and spares pins", "[lukv]") {
  std::vector<float> const removed{0.5f, 0.9f, 0.7f, 0.7f};
  data::cache const c({.sequences = 4, .kv_heads = 2, .tokens = 100, .head_dim = 8});
  lukv<>::options options{.removed = removed.data(), .layers = 2, .kv_heads = 2, .kept = 0.3};
  auto const plan = make_plan(pipeline{knorm{}, lukv<>{options}}, c.shape.extents());
  CHECK(plan.check().ok());
  CHECK(plan.total_kept() <= 4 * 63);
  data::shuffled mixed(c, 9);
  for (std::size_t cell = 0; cell < 109; ++cell)
    if (mixed.valid[cell] == 1 && mixed.positions[cell] == 33) mixed.valid[cell] = 2;
  auto const kept = data::kept_by(pipeline{knorm{}, lukv<>{options}}, mixed.view());
  REQUIRE(kept.size() == 8);
  CHECK(std::binary_search(kept[1].begin(), kept[1].end(), 33));
  CHECK(kept[0].size() == 50);
  CHECK(kept[1].size() == 10);
  options.kept = 0.29;
  CHECK(make_plan(pipeline{knorm{}, lukv<>{options}}, c.shape.extents()).check().code ==
        errc::invalid_option);
}

TEST_CASE("lukv refuses what makes no sense", "[lukv]") {
  std::vector<float> removed{0.5f, 0.9f, 0.7f, 0.7f};
  extents const e{4, 2, 50, 8};
  auto const code = [&](lukv<>::options const& o) {
    return make_plan(pipeline{knorm{}, lukv<>{o}}, e).check().code;
  };
  lukv<>::options const good{.removed = removed.data(), .layers = 2, .kv_heads = 2};
  CHECK(code(good) == errc::ok);
  auto bad = good;
  bad.removed = nullptr;
  CHECK(code(bad) == errc::invalid_pointer);
  bad = good;
  bad.kept = 0.0;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.sinks = -1;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.layers = 0;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.layers = 3;
  CHECK(code(bad) == errc::invalid_shape);
  bad = good;
  bad.kv_heads = 1;
  CHECK(code(bad) == errc::invalid_shape);
  removed[3] = 1.5f;
  CHECK(code(good) == errc::invalid_option);
  removed[3] = std::nanf("");
  CHECK(code(good) == errc::invalid_option);
}
