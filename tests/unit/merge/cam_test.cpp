// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// CaM: the authors' step, the reference for many tokens at once, and what draws depend on.

#include "reference/cam.hpp"

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
double value_error(Packed const& packed, index_t r, reference::matrix const& v) {
  double worst = 0, most = 1e-30;
  if (packed.raw_row(r).slots != std::ssize(v)) return 1e9;
  for (std::size_t i = 0; i < v.size(); ++i)
    for (std::size_t d = 0; d < v[i].size(); ++d) {
      auto const got = packed.value(r, static_cast<index_t>(i), static_cast<index_t>(d));
      worst = std::max(worst, std::abs(static_cast<double>(got) - v[i][d]));
      most = std::max(most, std::abs(v[i][d]));
    }
  return worst / most;
}

template <class Policy>
data::compressed<Policy> folded(Policy const& policy, data::cache const& c,
                                std::vector<float> const& scores) {
  return {policy, c.view(), evidence{token_scores<>{scores.data()}}};
}

}  // namespace

TEST_CASE("cam hands on what the authors' code does", "[cam]") {
  golden const g("cam");
  index_t const heads = 3, tokens = 30, dim = 8, kept = 29;
  auto const k = g.floats("k"), v = g.floats("v");
  auto const view = dense_cache(
      k.data(), v.data(), {.sequences = 1, .kv_heads = heads, .tokens = tokens, .head_dim = dim});
  for (std::string const name : {"part", "sure", "never"}) {
    INFO(name);
    auto const score = g.floats("score_" + name);
    data::compressed const run(
        pipeline{given_scores{}, top_k{{.budget = kept, .sinks = 5, .recent = 24}},
                 cam{{.window = 16, .draws = name != "part"}}, dense<float>{}},
        view, evidence{token_scores<>{score.data()}});
    REQUIRE(run.result.ok());
    auto const values = g["values_" + name];
    for (index_t h = 0; h < heads; ++h) {
      reference::matrix expected;
      for (index_t i = 0; i < kept; ++i) {
        auto const at = values.begin() + (h * kept + i) * dim;
        expected.emplace_back(at, at + dim);
      }
      CHECK(value_error(run.packed, h, expected) <= tolerance::accumulated);
      for (index_t i = 0; i < kept; ++i)  // keys stay bit for bit
        for (index_t d = 0; d < dim; ++d)
          CHECK(run.packed.key(h, i, d) ==
                k[static_cast<std::size_t>((h * tokens + i + (i >= 5 ? 1 : 0)) * dim + d)]);
    }
  }
}

TEST_CASE("cam matches the reference where many go at once", "[cam]") {
  data::cache const c({.sequences = 2, .kv_heads = 8, .tokens = 90, .head_dim = 80});
  auto scores = some_scores(16 * 90, 3);
  for (std::size_t i = 0; i < scores.size(); i += 13) scores[i] = 0.0f;
  auto biases = some_scores(16 * 90, 4);
  std::int32_t const lengths[] = {90, 33};
  for (index_t const window : {1, 7, 32, 1000})
    for (bool const biased : {false, true}) {
      auto view = c.view();
      view.lengths = lengths;
      if (biased) view.bias = {biases.data(), 8 * 90, 90};
      data::compressed const run(
          pipeline{given_scores{}, top_k{{.budget = 21, .sinks = 2, .recent = 3}},
                   cam{{.window = window, .draws = false}}, dense<float>{}},
          view, evidence{token_scores<>{scores.data()}}, {.biases = biased});
      REQUIRE(run.result.ok());
      CHECK(run.intact());
      for (index_t r = 0; r < 16; ++r) {
        std::vector<std::size_t> kept;
        for (index_t t : run.kept(r / 8, r % 8)) kept.push_back(static_cast<std::size_t>(t));
        std::vector<double> score, mass;
        for (index_t t = 0; t < lengths[r / 8]; ++t) {
          auto const at = static_cast<std::size_t>(r * 90 + t);
          score.push_back(static_cast<double>(scores[at]));
          mass.push_back(biased ? std::exp(static_cast<double>(biases[at])) : 1.0);
        }
        auto const expected = reference::cam(oracle::values(c, r / 8, r % 8, lengths[r / 8]), kept,
                                             score, static_cast<std::size_t>(window), mass);
        CHECK(value_error(run.packed, r, expected) <= tolerance::accumulated);
      }
      CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
    }
}

TEST_CASE("cam's draws are all or nothing, and the same everywhere", "[cam]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 70, .head_dim = 32});
  data::shuffled const mixed(c, 9);
  top_k const keep{{.budget = 30, .recent = 4}};
  auto const with = [&](std::uint64_t seed, bool draws) {
    return pipeline{random_scores{{.seed = 5}}, keep,
                    cam{{.window = 4, .draws = draws, .seed = seed}}, dense<float>{}};
  };
  data::compressed const a(with(1, true), c.view()), b(with(1, true), mixed.view()),
      other(with(2, true), c.view()), parts(with(1, false), c.view());
  REQUIRE((a.result.ok() && b.result.ok() && other.result.ok() && parts.result.ok()));
  bool differs = false;
  for (index_t r = 0; r < 4; ++r)
    for (index_t i = 0; i < 30; ++i)
      for (index_t d = 0; d < 32; ++d) {
        CHECK(a.packed.value(r, i, d) == b.packed.value(r, i, d));
        differs = differs || a.packed.value(r, i, d) != other.packed.value(r, i, d);
      }
  CHECK(differs);
  // The mean over seeds is the expected part: within five of its own standard errors.
  int const runs = 400;
  std::vector<double> sum(30 * 4), square(30 * 4);
  for (int seed = 0; seed < runs; ++seed) {
    data::compressed const one(with(static_cast<std::uint64_t>(seed), true), c.view());
    for (std::size_t i = 0; i < sum.size(); ++i) {
      auto const x = static_cast<double>(
          one.packed.value(1, static_cast<index_t>(i / 4), static_cast<index_t>(i % 4)));
      sum[i] += x / runs;
      square[i] += x * x / runs;
    }
  }
  for (std::size_t i = 0; i < sum.size(); ++i) {
    double const deviation = std::sqrt(std::max(0.0, square[i] - sum[i] * sum[i]) / runs);
    double const expected = static_cast<double>(
        parts.packed.value(1, static_cast<index_t>(i / 4), static_cast<index_t>(i % 4)));
    CHECK(std::abs(sum[i] - expected) <= 5 * deviation + tolerance::accumulated);
  }
}

TEST_CASE("cam that hands on nothing is plain eviction, bit for bit", "[cam]") {
  data::cache const c({.sequences = 1, .kv_heads = 2, .tokens = 80, .head_dim = 64});
  std::vector<float> const scores(160, -1.0f);  // what goes has had no attention
  auto const none =
      folded(pipeline{given_scores{}, top_k{{.budget = 20}}, cam{}, int_per_token<4>{}}, c, scores);
  auto const bare =
      folded(pipeline{given_scores{}, top_k{{.budget = 20}}, int_per_token<4>{}}, c, scores);
  REQUIRE((none.result.ok() && bare.result.ok()));
  CHECK(data::bytes_of(none.packed) == data::bytes_of(bare.packed));
}

TEST_CASE("cam at the edges", "[cam]") {
  data::cache c({.sequences = 2, .kv_heads = 1, .tokens = 8, .head_dim = 4});
  std::vector<float> const equal(16, 0.5f);
  std::int32_t const lengths[] = {0, 8};
  auto view = c.view();
  view.lengths = lengths;
  auto const with = [&](cam const& merger, top_k const& keep) {
    return data::compressed(pipeline{given_scores{}, keep, merger, dense<f16>{}}, view,
                            evidence{token_scores<>{equal.data()}});
  };
  auto const run = with(cam{{.window = 2}}, top_k{{.budget = 2, .recent = 2}});
  REQUIRE(run.result.ok());
  CHECK(run.packed.raw_row(0).slots == 0);
  // Equal scores are sure; six values are shared by the two newest.
  std::vector<float> sum(4);
  for (index_t t = 0; t < 6; ++t)
    for (index_t d = 0; d < 4; ++d) sum[static_cast<std::size_t>(d)] += c.value(1, 0, t, d) / 2;
  for (index_t d = 0; d < 4; ++d)
    CHECK(std::abs(run.packed.value(1, 1, d) -
                   (c.value(1, 0, 7, d) + sum[static_cast<std::size_t>(d)])) < 1e-2f);
  // Nothing follows the newest: what went stays gone.
  auto const first = with(cam{}, top_k{{.budget = 2, .sinks = 2}});
  REQUIRE(first.result.ok());
  for (index_t d = 0; d < 4; ++d)
    CHECK(first.packed.value(1, 1, d) == to_float(from_float<f16>(c.value(1, 0, 1, d))));
  CHECK(cam{{.window = 0}}.check().code == errc::invalid_option);
  CHECK(with(cam{{.window = -3}}, top_k{{.budget = 2}}).result.code == errc::invalid_option);
  // Values that grow beyond the storage type are refused, and nothing is written.
  for (std::size_t i = 32; i < 64; ++i) c.v[i] = 60000.0f;
  auto const large = with(cam{{.window = 1}}, top_k{{.budget = 2, .recent = 2}});
  CHECK(large.result.code == errc::non_finite);
  CHECK(large.storage.untouched());
}
