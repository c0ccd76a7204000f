// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/coverage.hpp"

#include "reference/adakv.hpp"
#include "support/catch.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <kvslim/select/coverage.hpp>

using namespace kvslim;

namespace {

/// What one row of so many scores keeps.
std::vector<index_t> kept_of(std::vector<float> const& scores, coverage::options const& options) {
  auto const n = static_cast<index_t>(scores.size());
  data::cache const c({.kv_heads = 1, .group = 1, .tokens = n, .head_dim = 8});
  auto const kept = data::kept_by(pipeline{given_scores{}, coverage{options}}, c.view(),
                                  evidence{token_scores<>{scores.data()}});
  REQUIRE(kept.size() == 1);
  return kept[0];
}

}  // namespace

TEST_CASE("coverage of known scores", "[coverage]") {
  using row = std::vector<index_t>;
  std::vector<float> const uniform(40, 0.25f);
  CHECK(kept_of(uniform, {.part = 0.5f}).size() == 20);
  CHECK(kept_of(uniform, {.part = 0.51f}).size() == 21);
  CHECK(kept_of(uniform, {.part = 1.0f}).size() == 40);
  CHECK(kept_of(uniform, {.part = 1e-9f}) == row{0});
  std::vector<float> one(40, 0.0f);
  one[17] = 3.0f;
  CHECK(kept_of(one, {.part = 0.975f}) == row{17});
  CHECK(kept_of(one, {.part = 1.0f}) == row{17});
  CHECK(kept_of({1, 2, 4, 8}, {.part = 0.75f}) == row{2, 3});       // 12 of 15
  CHECK(kept_of({1, 2, 4, 8}, {.part = 0.8125f}) == row{1, 2, 3});  // more than 12
  // Protected tokens come first and hold their part.
  CHECK(kept_of({1, 2, 4, 8}, {.part = 0.5f, .sinks = 1}) == row{0, 3});
  CHECK(kept_of({1, 2, 4, 8}, {.part = 0.5f, .recent = 1}) == row{3});
  CHECK(kept_of({1, 2, 4, 8}, {.part = 1.0f, .budget = 2}) == row{2, 3});
  // No mass at all, negative scores and what is no number hold nothing.
  CHECK(kept_of({0, 0, 0, 0}, {.part = 1.0f}).empty());
  CHECK(kept_of({-1, -2, -3, -4}, {.part = 1.0f, .recent = 1}) == row{3});
  CHECK(kept_of({-1, std::nanf(""), 3, -4}, {.part = 1.0f}) == row{2});
  CHECK(kept_of({1, INFINITY, 3, INFINITY}, {.part = 1.0f}) == row{1, 3});
  CHECK(kept_of({1, INFINITY, 3, INFINITY}, {.part = 0.5f}) == row{1});
  CHECK(kept_of({1e-38f, 3e-38f, 1e-45f, 0}, {.part = 0.7f}) == row{1});
}

TEST_CASE("coverage matches the reference for any group, length and order of cells", "[coverage]") {
  index_t const window = 8;
  for (index_t group : {1, 4, 8})
    for (index_t dim : {16, 80}) {
      data::cache const c(
          {.sequences = 3, .kv_heads = 2, .group = group, .tokens = 90, .head_dim = dim},
          static_cast<unsigned>(group));
      std::vector<index_t> const lengths{90, 47, 0};
      data::shuffled const ragged(c, 17, lengths);
      for (float part : {0.1f, 0.6f, 0.975f})
        for (index_t budget : {0, 12, 40}) {
          auto const kept =
              data::kept_by(pipeline{snapkv{{.window = window, .reduce_first = true}},
                                     coverage{{.part = part, .budget = budget, .sinks = 2}}},
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
                  reference::coverage_keep(score, static_cast<double>(part),
                                           static_cast<std::size_t>(budget == 0 ? n : budget), 2,
                                           window));
          }
        }
    }
}

TEST_CASE("coverage is minimal, grows with the part and spares pins", "[coverage]") {
  std::mt19937 engine(4);
  std::uniform_real_distribution<float> uniform;
  std::vector<float> scores(300);
  for (float& x : scores) x = std::pow(uniform(engine), 6.0f);
  double all = 0;
  for (float x : scores) all += static_cast<double>(x);
  std::vector<index_t> last;
  for (float part : {0.05f, 0.3f, 0.7f, 0.9f, 0.99f, 1.0f}) {
    auto const kept = kept_of(scores, {.part = part});
    double held = 0, least = 1e9;
    for (auto t : kept) {
      double const x = static_cast<double>(scores[static_cast<std::size_t>(t)]);
      held += x;
      least = std::min(least, x);
    }
    CHECK(held >= (static_cast<double>(part) - 1e-6) * all);
    if (part < 1.0f) CHECK(held - least < static_cast<double>(part) * all);
    CHECK(std::includes(kept.begin(), kept.end(), last.begin(), last.end()));
    last = kept;
  }
  data::cache const c({.kv_heads = 1, .group = 1, .tokens = 60, .head_dim = 8});
  auto view = c.view();
  std::vector<std::uint8_t> valid(60, 1);
  valid[31] = 2;
  view.valid = valid.data();
  std::vector<float> one(60, 0.0f);
  one[5] = 1.0f;
  CHECK(data::kept_by(pipeline{given_scores{}, coverage{}}, view,
                      evidence{token_scores<>{one.data()}}) == data::kept_sets{{5, 31}});
}

TEST_CASE("coverage refuses what makes no sense", "[coverage]") {
  extents const e{1, 2, 50, 8};
  auto const code = [&](coverage::options const& o) {
    return make_plan(pipeline{knorm{}, coverage{o}}, e).check().code;
  };
  CHECK(code({}) == errc::ok);
  CHECK(code({.part = 0.0f}) == errc::invalid_option);
  CHECK(code({.part = 1.1f}) == errc::invalid_option);
  CHECK(code({.part = std::nanf("")}) == errc::invalid_option);
  CHECK(code({.budget = -1}) == errc::invalid_option);
  CHECK(code({.recent = -1}) == errc::invalid_option);
  CHECK(code({.budget = std::numeric_limits<index_t>::max()}) == errc::invalid_option);
}
