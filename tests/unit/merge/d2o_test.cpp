// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// D2O at the end of the prompt: the authors' merged rows, the reference's with either weights, and
// what it lets go.

#include "reference/d2o.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

std::vector<float> some_scores(index_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> uniform;
  std::vector<float> s(static_cast<std::size_t>(n));
  for (float& x : s) x = uniform(engine);
  return s;
}

template <class Packed>
double row_error(Packed const& packed, index_t r, reference::d2o_rows const& expected) {
  double worst = 0, most = 1e-30;
  if (packed.raw_row(r).slots != std::ssize(expected.k)) return 1e9;
  for (std::size_t i = 0; i < expected.k.size(); ++i) {
    auto const slot = static_cast<index_t>(i);
    auto const compare = [&](double got, double wanted) {
      worst = std::max(worst, std::abs(got - wanted));
      most = std::max(most, std::abs(wanted));
    };
    for (std::size_t d = 0; d < expected.k[i].size(); ++d)
      compare(packed.key(r, slot, static_cast<index_t>(d)), expected.k[i][d]);
    for (std::size_t d = 0; d < expected.v[i].size(); ++d)
      compare(packed.value(r, slot, static_cast<index_t>(d)), expected.v[i][d]);
  }
  return worst / most;
}

}  // namespace

TEST_CASE("d2o makes the authors' rows", "[d2o]") {
  golden const g("d2o");
  index_t const heads = 3, tokens = 50, dim = 16, kept = 20;
  auto const k = g.floats("k"), v = g.floats("v"), score = g.floats("score");
  auto const view = dense_cache(
      k.data(), v.data(), {.sequences = 1, .kv_heads = heads, .tokens = tokens, .head_dim = dim});
  data::compressed const run(
      pipeline{given_scores{}, top_k{{.budget = kept, .sinks = 4, .recent = 9}}, d2o{},
               dense<float>{}},
      view, evidence{token_scores<>{score.data()}});
  REQUIRE(run.result.ok());
  for (index_t h = 0; h < heads; ++h) {
    reference::d2o_rows expected;
    for (index_t i = 0; i < kept; ++i) {
      auto const at = (h * kept + i) * dim;
      expected.k.emplace_back(g["keys"].begin() + at, g["keys"].begin() + at + dim);
      expected.v.emplace_back(g["values"].begin() + at, g["values"].begin() + at + dim);
    }
    CHECK(row_error(run.packed, h, expected) <= tolerance::accumulated);
  }
}

TEST_CASE("d2o matches the reference", "[d2o]") {
  data::cache const c(
      {.sequences = 3, .kv_heads = 4, .tokens = 80, .head_dim = 80, .value_dim = 32});
  auto const scores = some_scores(12 * 80, 7);
  std::int32_t const lengths[] = {80, 29, 80};
  for (bool const softmax : {false, true})
    for (index_t const heads : {4, 1}) {
      auto view = c.view();
      view.lengths = lengths;
      d2o const merger{{.weights = softmax ? d2o_weights::softmax : d2o_weights::counted,
                        .filter = heads == 1 ? fold_filter::mean : fold_filter::places}};
      data::compressed const run(
          pipeline{given_scores{}, top_k{{.budget = 25, .sinks = 1, .recent = 6}}, merger,
                   dense<float>{}},
          view, evidence{token_scores<>{scores.data()}});
      REQUIRE(run.result.ok());
      CHECK(run.intact());
      for (index_t first = 0; first < 12; first += heads) {
        std::vector<reference::matrix> k, v;
        std::vector<std::vector<std::size_t>> kept;
        for (index_t r = first; r < first + heads; ++r) {
          k.push_back(oracle::keys(c, r / 4, r % 4, lengths[r / 4]));
          v.push_back(oracle::values(c, r / 4, r % 4, lengths[r / 4]));
          kept.emplace_back();
          for (index_t t : run.kept(r / 4, r % 4))
            kept.back().push_back(static_cast<std::size_t>(t));
        }
        auto const expected = reference::d2o(k, v, kept, softmax);
        for (index_t r = first; r < first + heads; ++r)
          CHECK(row_error(run.packed, r, expected[static_cast<std::size_t>(r - first)]) <=
                tolerance::accumulated);
      }
      CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
    }
}

TEST_CASE("d2o folds some and lets go of others", "[d2o]") {
  // One head, two kept tokens along the axes; what goes is near the first, or between.
  data::cache c({.sequences = 1, .kv_heads = 1, .tokens = 4, .head_dim = 4});
  c.k = {1, 0, 0, 0, 0, 1, 0, 0, 2, 0.1f, 0, 0, 1, 1, 0, 0};
  c.v = {4, 0, 0, 0, 0, 4, 0, 0, 0, 0, 4, 0, 0, 0, 0, 4};
  float const scores[] = {9, 8, 1, 1};
  auto const with = [&](d2o const& merger) {
    return data::compressed(pipeline{given_scores{}, top_k{{.budget = 2}}, merger, dense<float>{}},
                            c.view(), evidence{token_scores<>{scores}});
  };
  auto const run = with(d2o{{.mass_bias = true}});
  REQUIRE(run.result.ok());
  double const u = 2 / std::sqrt(4.01);
  CHECK(std::abs(run.packed.value(0, 0, 0) - 2) < 1e-6);
  CHECK(std::abs(run.packed.value(0, 0, 2) - 2 * u) < 1e-6);
  CHECK(run.packed.value(0, 0, 3) == 0);  // below the mean
  CHECK(run.packed.value(0, 1, 1) == 4);
  CHECK(std::abs(run.packed.logit_bias(0, 0) - std::log(2.0f)) < 1e-6f);
  CHECK(run.packed.logit_bias(0, 1) == 0);
  // With nothing alike enough it is plain eviction, bit for bit.
  auto const none = with(d2o{{.least = 1.1f}});
  data::compressed const plain(pipeline{given_scores{}, top_k{{.budget = 2}}, dense<float>{}},
                               c.view(), evidence{token_scores<>{scores}});
  REQUIRE((none.result.ok() && plain.result.ok()));
  CHECK(data::bytes_of(none.packed) == data::bytes_of(plain.packed));
  CHECK(d2o{{.least = std::nanf("")}}.check().code == errc::invalid_option);
}

TEST_CASE("d2o's layers keep what the authors' keep", "[golden][d2o]") {
  golden const g("d2o");
  auto const attention = g.floats("attention");
  auto const& expected = g["unevenness"];
  auto const layers = static_cast<index_t>(expected.size()), heads = index_t{4};
  std::vector<double> uneven(expected.size());
  std::vector<reference::matrix> again(expected.size(), reference::matrix(4));
  for (index_t l = 0; l < layers; ++l) {
    auto& mine = uneven[static_cast<std::size_t>(l)];
    REQUIRE(d2o_unevenness({attention.data() + l * 160, 160}, heads, mine).ok());
    CHECK(std::abs(mine - expected[static_cast<std::size_t>(l)]) <= tolerance::accumulated);
    for (std::size_t h = 0; h < 4; ++h) {
      auto const from = attention.begin() + l * 160 + static_cast<std::ptrdiff_t>(h) * 40;
      again[static_cast<std::size_t>(l)][h].assign(from, from + 40);
    }
  }
  std::vector<d2o_budget> got(uneven.size());
  slice<double const> const all{uneven.data(), layers};
  slice<d2o_budget> const out{got.data(), layers};
  d2o_budget_options options{.best = 0.15, .recent = 0.1, .spares_ends = false};
  REQUIRE(d2o_budgets(all, 1000, options, out).ok());
  auto const naive = reference::d2o_layers(again, 1000, 0.15, 0.1);
  for (std::size_t l = 0; l < got.size(); ++l) {
    CHECK(got[l].best == static_cast<index_t>(g["best"][l]));
    CHECK(got[l].recent == static_cast<index_t>(g["recent"][l]));
    CHECK(got[l].best == naive[l].first);
    CHECK(got[l].recent == naive[l].second);
  }
  options.spares_ends = true;
  REQUIRE(d2o_budgets(all, 1000, options, out).ok());
  for (std::size_t l = 0; l < got.size(); ++l)
    CHECK((got[l].best == 1000 && got[l].recent == 0) == (l < 2 || l == 7));
  double const even[] = {0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3};
  REQUIRE(d2o_budgets({even, 7}, 1000, {.spares_ends = false}, {got.data(), 7}).ok());
  for (std::size_t l = 0; l < 7; ++l) CHECK((got[l].best == 100 && got[l].recent == 100));
  // Too small a part and too large a one.
  double const far[] = {0, 50, 50, 50};
  d2o_budget cut[4];
  REQUIRE(d2o_budgets({far, 4}, 1000, {.best = 0.5, .recent = 0.25, .spares_ends = false}, {cut, 4})
              .ok());
  CHECK(cut[0].best == 666);
  CHECK(cut[0].recent == 333);
  CHECK(cut[3].best == 6);
  CHECK(cut[3].recent == 3);
}

TEST_CASE("d2o's budgets say what they need", "[d2o]") {
  float const x[] = {1, 2, 3, 4, 5, std::nanf("")};
  double uneven = 7;
  CHECK(d2o_unevenness({x, 5}, 2, uneven).code == errc::invalid_shape);
  CHECK(d2o_unevenness({x, 2}, 2, uneven).code == errc::invalid_shape);
  CHECK(d2o_unevenness({x, 4}, 0, uneven).code == errc::invalid_shape);
  CHECK(d2o_unevenness({x, 6}, 2, uneven).code == errc::non_finite);
  CHECK(uneven == 7);
  REQUIRE(d2o_unevenness({x, 4}, 2, uneven).ok());
  CHECK(uneven == 0);  // heads of one variance
  double const bad[] = {0, std::nan("")};
  d2o_budget out[2] = {{3, 3}, {3, 3}};
  CHECK(d2o_budgets({bad, 2}, 10, {}, {out, 2}).code == errc::invalid_option);
  CHECK(d2o_budgets({bad, 1}, 10, {.best = -1.0}, {out, 1}).code == errc::invalid_option);
  CHECK(d2o_budgets({bad, 1}, 10, {.best = 0.0, .recent = 0.0}, {out, 1}).code ==
        errc::invalid_option);
  CHECK(d2o_budgets({bad, 1}, -1, {}, {out, 1}).code == errc::invalid_shape);
  CHECK(d2o_budgets({bad, 1}, 10, {}, {out, 2}).code == errc::invalid_shape);
  CHECK(out[0].best == 3);
}
