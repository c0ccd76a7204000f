// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/cake.hpp"
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/score/cake_scores.hpp>

using namespace kvslim;

namespace {

/// The variance is a difference of sums: errors count against the largest score.
double error_of(float const* got, std::vector<double> const& expected) {
  double worst = 0, most = 1e-30;
  for (std::size_t t = 0; t < expected.size(); ++t) {
    worst = std::max(worst, std::abs(static_cast<double>(got[t]) - expected[t]));
    most = std::max(most, std::abs(expected[t]));
  }
  return worst / most;
}

}  // namespace

TEST_CASE("cake_scores are the authors'", "[cake_scores]") {
  golden const g("cake");
  auto const q = g.floats("q"), k = g.floats("k");
  auto const view = dense_cache(k.data(), k.data(), extents{4, 2, 96, 16});
  evidence const seen{window_queries{dense_rows(q.data(), {4, 4, 8, 16})}};
  auto const scores =
      data::scores_by(pipeline{cake_scores{{.window = 8}}, top_k{{.budget = 24}}}, view, seen);
  REQUIRE(scores.size() == 8 * 96);
  for (std::size_t r = 0; r < 8; ++r) {
    std::vector<double> const expected(
        g["score"].begin() + static_cast<std::ptrdiff_t>(r * 88),
        g["score"].begin() + static_cast<std::ptrdiff_t>((r + 1) * 88));
    CHECK(error_of(scores.data() + r * 96, expected) <= tolerance::accumulated);
  }
}

TEST_CASE("cake_scores match the reference for any group, length and order of cells",
          "[cake_scores]") {
  index_t const window = 8;
  for (index_t group : {1, 4, 8})
    for (index_t dim : {16, 80}) {
      data::cache const c(
          {.sequences = 3, .kv_heads = 2, .group = group, .tokens = 70, .head_dim = dim},
          static_cast<unsigned>(group));
      std::vector<index_t> const lengths{70, 33, 5};
      data::shuffled const ragged(c, 17, lengths);
      cake_scores const scorer{{.window = window, .pool = 3, .gamma = 150.0f}};
      // What it states of its rows, seen from below the quota.
      auto const plan = make_plan(pipeline{scorer, top_k{{.budget = 9}}}, ragged.extent);
      std::vector<float> scratch(static_cast<std::size_t>(plan.score_floats() * 6)), out(6 * 87);
      std::vector<row_statistics> stated(6);
      text<decltype(ragged.view())> ordered{ragged.view()};
      std::vector<std::int32_t> cells(6 * 87), counts(6);
      std::vector<std::uint64_t> keys(6 * 87);
      REQUIRE(ops::make_text_order(cpu{}, ordered.cells, {cells.data(), counts.data(), keys.data()},
                                   ordered.order)
                  .ok());
      REQUIRE(scorer
                  .score(cpu{}, ordered, evidence{window_queries{c.queries(window)}},
                         score_view{out.data(), 87, stated.data()}, scratch.data())
                  .ok());
      for (std::size_t r = 0; r < 6; ++r) {
        auto const s = static_cast<index_t>(r / 2), h = static_cast<index_t>(r % 2);
        index_t const n = lengths[r / 2];
        if (n <= window) {
          CHECK((stated[r].entropy == 0.0f && stated[r].variance == 0.0f));
          continue;
        }
        auto const x = reference::cake_scores(oracle::window(c, s, h, window),
                                              oracle::keys(c, s, h, n), 3, 150.0);
        CHECK(error_of(out.data() + r * 87, x.score) <= tolerance::accumulated);
        CHECK(std::abs(stated[r].entropy - x.entropy) <= tolerance::accumulated * x.entropy);
        CHECK(std::abs(stated[r].variance - x.variance) <= tolerance::accumulated * x.variance);
      }
    }
}

TEST_CASE("cake_scores keep the window, whatever the heads' order; equal queries add nothing",
          "[cake_scores]") {
  data::cache c({.kv_heads = 3, .group = 2, .tokens = 60, .head_dim = 16});
  auto const other = data::reversed_heads(c);
  auto const policy = pipeline{cake_scores{{.window = 6}}, top_k{{.budget = 20}}};
  auto const kept = data::kept_by(policy, c.view(), evidence{window_queries{c.queries(6)}});
  CHECK(data::contains(kept, data::kept_sets(3, {54, 55, 56, 57, 58, 59})));
  CHECK(data::reversed_heads(
            data::kept_by(policy, other.view(), evidence{window_queries{other.queries(6)}}), 3) ==
        kept);
  std::fill(c.k.begin(), c.k.end(), 1.0f);
  auto const flat = data::kept_by(policy, c.view(), evidence{window_queries{c.queries(6)}});
  CHECK(flat[0] == std::vector<index_t>{2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                        12, 13, 14, 15, 54, 55, 56, 57, 58, 59});
}

TEST_CASE("cake_scores refuse what makes no sense", "[cake_scores]") {
  data::cache const c({.tokens = 30, .head_dim = 8});
  auto const code = [&](cake_scores::options const& o) {
    data::compressed const run(pipeline{cake_scores{o}, top_k{{.budget = 9}}}, c.view(),
                               evidence{window_queries{c.queries(4)}});
    return run.result.code;
  };
  CHECK(code({.window = 4}) == errc::ok);
  CHECK(code({.window = 5}) == errc::invalid_shape);
  CHECK(code({.window = 1}) == errc::invalid_option);
  CHECK(code({.window = 4, .pool = 2}) == errc::invalid_option);
  CHECK(code({.window = 4, .gamma = std::nanf("")}) == errc::invalid_option);
}
