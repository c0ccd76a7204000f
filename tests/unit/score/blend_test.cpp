// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/reference.hpp"
#include "support/catch.hpp"
#include "support/methods.hpp"
#include "support/tolerance.hpp"

#include <kvslim/score/blend.hpp>

using namespace kvslim;

namespace {

/// n scores less their mean, over their deviation; what is above all counts in neither.
std::vector<double> standard(std::vector<double> x) {
  double count = 0, mean = 0, squares = 0;
  auto const ordinary = [](double y) { return y < static_cast<double>(ops::largest_float); };
  for (double const y : x) count += ordinary(y) ? 1 : 0;
  for (double const y : x) mean += ordinary(y) ? y / count : 0;
  for (double const y : x) squares += ordinary(y) ? (y - mean) * (y - mean) : 0;
  double const deviation = count > 1 ? std::sqrt(squares / (count - 1)) : 0;
  for (double& y : x)
    if (ordinary(y)) y = (y - mean) / std::max(deviation, 1e-6);
  return x;
}

/// One row of n of a scorer's scores.
std::vector<double> row(std::vector<float> const& scores, index_t r, index_t stride, index_t n) {
  return {scores.begin() + r * stride, scores.begin() + r * stride + n};
}

}  // namespace

TEST_CASE("blend is the weighted sum of two scorers in any order of cells", "[blend]") {
  for (index_t const group : {1, 4, 8}) {
    data::cache const c(
        {.sequences = 4, .kv_heads = 2, .group = group, .tokens = 60, .head_dim = 80},
        static_cast<unsigned>(group));
    std::vector<index_t> const lengths{60, 33, 3, 0};
    data::shuffled const ragged(c, 21, lengths);
    evidence const ev{probes{c.queries(20)}, window_queries{c.queries(8)}};
    kvzip const one{{.sinks = 2}};  // whose sinks are above all
    snapkv const two{{.window = 8}};
    auto const a = data::scores_by(pipeline{one}, ragged.view(), ev);
    auto const b = data::scores_by(pipeline{two}, ragged.view(), ev);
    for (blend_options const& opt :
         {blend_options{}, blend_options{2.0f, -0.5f, true}, blend_options{.standard = true}}) {
      blend const both{one, two, opt};
      auto const scores = data::scores_by(pipeline{both}, ragged.view(), ev);
      REQUIRE(scores.size() == 8 * 81);
      auto const kept =
          data::kept_by(pipeline{both, top_k{{.budget = 20, .sinks = 1}}}, ragged.view(), ev);
      REQUIRE(kept.size() == 8);
      for (index_t r = 0; r < 8; ++r) {
        index_t const n = lengths[static_cast<std::size_t>(r / 2)];
        auto x = row(a, r, 81, n), y = row(b, r, 81, n);
        if (opt.standard) {
          x = standard(x);
          y = standard(y);
        }
        std::vector<double> expected;
        for (std::size_t t = 0; t < x.size(); ++t) {
          expected.push_back(t < 2 ? static_cast<double>(ops::largest_float)
                                   : static_cast<double>(opt.first) * x[t] +
                                         static_cast<double>(opt.second) * y[t]);
          double const got = scores[static_cast<std::size_t>(r * 81) + t];
          REQUIRE((got == expected[t] ||
                   std::abs(got - expected[t]) <=
                       tolerance::accumulated * std::max(1.0, std::abs(expected[t]))));
        }
        CHECK(kept[static_cast<std::size_t>(r)] ==
              reference::keep(expected, 20, 1, two.opt.window));
      }
    }
  }
}

TEST_CASE("blend of one weight is that scorer, of token scorers and of blends", "[blend]") {
  data::cache const c({.kv_heads = 3, .tokens = 50, .head_dim = 16});
  evidence const ev{window_queries{c.queries(8)}};
  top_k const keep{{.budget = 20}};
  auto const by = [&](auto const& scorer) {
    return data::kept_by(pipeline{scorer, keep}, c.view(), ev);
  };
  snapkv const snap{{.window = 8}};
  CHECK(by(blend{snap, knorm{}, {1.0f, 0.0f}}) == by(snap));
  CHECK(by(blend{knorm{}, keydiff{}, {1.0f, 0.0f}}) == by(knorm{}));
  CHECK(by(blend{knorm{}, keydiff{}, {0.0f, 3.0f}}) == by(keydiff{}));
  CHECK(by(blend{blend{knorm{}, keydiff{}, {1.0f, 0.0f}}, curdkv{}, {1.0f, 0.0f}}) == by(knorm{}));
  CHECK(blend{snap, knorm{}}.protected_recent() == 8);
  // A scale or an offset of one scorer changes nothing once rows are standardized.
  data::cache large = c;
  for (float& x : large.k) x *= 4.0f;
  auto const standardized = pipeline{blend{knorm{}, keydiff{}, {.standard = true}}, keep};
  CHECK(data::kept_by(standardized, c.view()) == data::kept_by(standardized, large.view()));
  auto const other = data::reversed_heads(c);
  CHECK(data::reversed_heads(data::kept_by(standardized, other.view()), 3) ==
        data::kept_by(standardized, c.view()));
}

TEST_CASE("blend of equal scores, pins, and what it refuses", "[blend]") {
  data::cache c({.tokens = 20, .head_dim = 16});
  auto view = c.view();
  std::vector<std::uint8_t> valid(20, 1);
  valid[13] = valid[17] = 2;
  view.valid = valid.data();
  auto const policy = pipeline{blend{knorm{}, keydiff{}, {.standard = true}}, top_k{{.budget = 2}}};
  CHECK(data::kept_by(policy, view) == data::kept_sets(2, {13, 17}));
  std::fill(c.k.begin(), c.k.end(), 1.0f);  // no deviation: the earlier stay
  CHECK(data::kept_by(policy, c.view()) == data::kept_sets(2, {0, 1}));

  float const nan = std::numeric_limits<float>::quiet_NaN();
  auto const result = [&](auto const& scorer, index_t asked = 8) {
    return data::compressed(pipeline{scorer, top_k{{.budget = 4}}}, c.view(),
                            evidence{window_queries{c.queries(asked)}})
        .result.code;
  };
  snapkv const snap{{.window = 8}};
  CHECK(result(blend{snap, knorm{}}) == errc::ok);
  CHECK(result(blend{snap, knorm{}, {.first = nan}}) == errc::invalid_option);
  CHECK(result(blend{snap, knorm{}, {.second = std::numeric_limits<float>::infinity()}}) ==
        errc::invalid_option);
  CHECK(result(blend{knorm{}, snap}, 9) == errc::invalid_shape);
  CHECK(result(blend{snap, knorm{}}, 9) == errc::invalid_shape);
  CHECK(result(blend{snapkv{{.window = 0}}, knorm{}}) == errc::invalid_option);
  CHECK(result(blend{knorm{}, lagkv{{.lag = 0}}}) == errc::invalid_option);
}
