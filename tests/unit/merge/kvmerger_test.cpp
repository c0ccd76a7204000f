// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

constexpr float hidden = -std::numeric_limits<float>::infinity();

std::vector<float> some_scores(index_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> uniform;
  std::vector<float> s(static_cast<std::size_t>(n));
  for (float& x : s) x = uniform(engine);
  return s;
}

/// One row of four-channel tokens, K and V alike.
data::cache tokens_of(std::vector<std::vector<float>> const& rows) {
  data::cache c(
      {.kv_heads = 1, .group = 1, .tokens = static_cast<index_t>(rows.size()), .head_dim = 4});
  c.k.clear();
  for (auto const& row : rows) c.k.insert(c.k.end(), row.begin(), row.end());
  c.v = c.k;
  return c;
}

template <class Packed>
double key_error(Packed const& packed, index_t h, index_t t, std::vector<double> const& expected) {
  double worst = 0;
  for (std::size_t d = 0; d < expected.size(); ++d)
    worst = std::max(worst, std::abs(packed.key(h, t, static_cast<index_t>(d)) - expected[d]));
  return worst;
}
template <class Packed>
double value_error(Packed const& packed, index_t h, index_t t,
                   std::vector<double> const& expected) {
  double worst = 0;
  for (std::size_t d = 0; d < expected.size(); ++d)
    worst = std::max(worst, std::abs(packed.value(h, t, static_cast<index_t>(d)) - expected[d]));
  return worst;
}

}  // namespace

TEST_CASE("kvmerger matches the reference, with logit biases and without", "[kvmerger]") {
  data::cache const c({.tokens = 160, .head_dim = 32});
  auto const scores = some_scores(2 * 160, 3);
  auto biases = some_scores(160, 4);
  for (std::size_t t = 0; t < 160; ++t) biases[t] = t % 7 == 2 ? hidden : 4 * biases[t] - 2;
  for (bool biased : {false, true})
    for (float sigma : {0.0f, 5.0f, 1.5f})
      for (float threshold : {0.5f, 0.75f, 0.9f}) {
        auto view = c.view();
        if (biased) view.bias = biases.data();
        data::compressed const run(pipeline{given_scores{},
                                            kvmerger{{.threshold = threshold,
                                                      .sigma = sigma,
                                                      .recent = 10,
                                                      .sinks = 3,
                                                      .mass_bias = true}},
                                            dense<float>{}},
                                   view, evidence{token_scores<>{scores.data()}},
                                   {.biases = biased});
        REQUIRE(run.result.ok());
        for (index_t h = 0; h < 2; ++h) {
          std::vector<bool> fixed(160, false);
          for (std::size_t t = 0; t < 160; ++t) fixed[t] = t < 3 || t >= 150;
          std::vector<double> const s(scores.begin() + h * 160, scores.begin() + (h + 1) * 160);
          std::vector<double> b;
          if (biased) b.assign(biases.begin(), biases.end());
          auto const expected = reference::kvmerger(oracle::keys(c, 0, h), oracle::values(c, 0, h),
                                                    s, fixed, threshold, sigma, b);
          REQUIRE(run.kept(0, h) == expected.pivots);
          for (std::size_t i = 0; i < expected.pivots.size(); ++i) {
            auto const t = static_cast<index_t>(i);
            float const stored = run.packed.logit_bias(h, t);
            if (expected.mass[i] == 0.0) {
              REQUIRE(stored == hidden);
              continue;
            }
            REQUIRE(std::abs(stored - std::log(expected.mass[i])) <= tolerance::accumulated);
            REQUIRE(key_error(run.packed, h, t, expected.k[i]) <= 10 * tolerance::accumulated);
            REQUIRE(value_error(run.packed, h, t, expected.v[i]) <= 10 * tolerance::accumulated);
          }
        }
      }
}

TEST_CASE("kvmerger stores the sum of its members' own masses", "[kvmerger]") {
  // Four pairs of equal tokens; biases are logarithms of what each stands for.
  auto const c = tokens_of({{4, 0, 0, 0},
                            {4, 0, 0, 0},
                            {0, 4, 0, 0},
                            {0, 4, 0, 0},
                            {0, 0, 4, 0},
                            {0, 0, 4, 0},
                            {0, 0, 0, 4},
                            {0, 0, 0, 4}});
  float const masses[] = {2, 3, 3, 1, 7, 1, 9, 1};
  std::vector<float> biases;
  for (float m : masses) biases.push_back(std::log(m));
  std::vector<float> const scores(8, 1.0f);
  auto view = c.view();
  view.bias = biases.data();
  auto const ev = evidence{token_scores<>{scores.data()}};
  data::compressed const run(
      pipeline{given_scores{}, kvmerger{{.threshold = 0.9f, .mass_bias = true}}, dense<float>{}},
      view, ev);
  REQUIRE(run.result.ok());
  REQUIRE(run.kept(0, 0) == std::vector<index_t>{0, 2, 4, 6});
  float const sums[] = {5, 4, 8, 10};
  for (index_t i = 0; i < 4; ++i)
    CHECK(std::abs(run.packed.logit_bias(0, i) - std::log(sums[i])) <= tolerance::accumulated);

  // So that attention is what it was.
  data::compressed const whole(dense<float>{}, view, evidence<>{}, {.biases = true});
  REQUIRE(whole.result.ok());
  oracle::asked before(whole.packed, c.queries(1)), after(run.packed, c.queries(1));
  REQUIRE(attend(cpu{}, whole.packed, before.request).ok());
  REQUIRE(attend(cpu{}, run.packed, after.request).ok());
  CHECK(std::abs(before.lse[0] - after.lse[0]) <= tolerance::accumulated);
  for (std::size_t d = 0; d < 4; ++d)
    CHECK(std::abs(before.out[d] - after.out[d]) <= 10 * tolerance::accumulated);

  // Stored biases without mass_bias: the run's mean, as the paper gives no mass.
  data::compressed const mean(
      pipeline{given_scores{}, kvmerger{{.threshold = 0.9f}}, dense<float>{}}, view, ev,
      {.biases = true});
  REQUIRE(mean.result.ok());
  for (index_t i = 0; i < 4; ++i)
    CHECK(std::abs(mean.packed.logit_bias(0, i) - std::log(sums[i] / 2)) <= tolerance::accumulated);
}

TEST_CASE("a hidden token is no pivot and takes nothing from a visible one", "[kvmerger]") {
  auto const c = tokens_of({{1, 1, 0, 0}, {2, 2, 0, 1}, {0, 0, 3, 0}, {0, 0, 4, 0}});
  std::vector<float> const biases{hidden, 0.5f, hidden, hidden};
  std::vector<float> const scores{9, 1, 1, 2};
  auto view = c.view();
  view.bias = biases.data();
  for (bool mass_bias : {true, false}) {
    data::compressed const run(
        pipeline{given_scores{}, kvmerger{{.threshold = 0.5f, .mass_bias = mass_bias}},
                 dense<float>{}},
        view, evidence{token_scores<>{scores.data()}}, {.biases = true});
    REQUIRE(run.result.ok());
    REQUIRE(run.kept(0, 0) == std::vector<index_t>{1, 3});
    CHECK(std::abs(run.packed.logit_bias(0, 0) - 0.5f) <= tolerance::elementwise);
    CHECK(key_error(run.packed, 0, 0, {2, 2, 0, 1}) <= tolerance::elementwise);
    CHECK(value_error(run.packed, 0, 0, {2, 2, 0, 1}) <= tolerance::elementwise);
    CHECK(run.packed.logit_bias(0, 1) == hidden);  // nobody sees either
  }
  // Nor is it one where a quota keeps it.
  data::compressed const kept(
      pipeline{given_scores{}, top_k{{.budget = 2}}, kvmerger{{.threshold = 0.5f}}, dense<float>{}},
      view, evidence{token_scores<>{scores.data()}}, {.biases = true});
  REQUIRE(kept.result.ok());
  CHECK(kept.packed.tokens(0, 0) == 2);
}

TEST_CASE("a threshold of 1 merges nothing, and an equal cosine does not join", "[kvmerger]") {
  data::cache equal({.kv_heads = 1, .tokens = 800, .head_dim = 48});
  for (std::size_t i = 0; i < equal.k.size(); ++i) equal.k[i] = equal.k[i % 48];
  std::vector<float> const scores(800, 1.0f);
  auto const ev = evidence{token_scores<>{scores.data()}};
  auto const left = [&](data::cache const& c, float threshold) {
    data::compressed const run(
        pipeline{given_scores{}, kvmerger{{.threshold = threshold}}, dense<float>{}}, c.view(), ev);
    return run.result.ok() ? run.packed.tokens(0, 0) : -1;
  };
  CHECK(left(equal, 1.0f) == 800);
  CHECK(left(equal, 2.0f) == 800);
  CHECK(left(equal, 0.999f) == 1);
  std::vector<std::vector<float>> rows;
  for (int i = 0; i < 400; ++i) {
    rows.push_back({1, 0, 0, 0});
    rows.push_back({1, 1, 1, 1});  // a cosine of exactly one half
  }
  auto const half = tokens_of(rows);
  CHECK(left(half, 0.5f) == 800);
  CHECK(left(half, std::nextafter(0.5f, 0.0f)) == 1);
  CHECK(left(half, std::nextafter(0.5f, 1.0f)) == 800);
}

TEST_CASE("merged values stay below infinity, or are refused", "[kvmerger]") {
  auto c = tokens_of({{1, 0, 0, 0}, {1, 0, 0, 0}, {1, 0, 0, 0}, {0, 1, 0, 0}});
  std::fill(c.v.begin(), c.v.end(), 2e38f);
  std::vector<float> const scores(4, 1.0f);
  auto const ev = evidence{token_scores<>{scores.data()}};
  for (float sigma : {0.0f, 5.0f}) {
    data::compressed const run(
        pipeline{given_scores{}, kvmerger{{.threshold = 0.9f, .sigma = sigma, .mass_bias = true}},
                 dense<float>{}},
        c.view(), ev);
    REQUIRE(run.result.ok());
    REQUIRE(run.packed.tokens(0, 0) == 2);
    for (index_t d = 0; d < 4; ++d)
      CHECK(std::abs(run.packed.value(0, 0, d) / 2e38 - 1.0) <= tolerance::elementwise);
  }
  auto const scaled = pipeline{given_scores{}, kvmerger{{.threshold = 0.9f, .value_scale_n = true}},
                               dense<float>{}};
  CHECK(data::compressed(scaled, c.view(), ev).result.code == errc::non_finite);
  std::fill(c.v.begin(), c.v.end(), 2.0f);
  data::compressed const run(scaled, c.view(), ev);
  REQUIRE(run.result.ok());
  CHECK(value_error(run.packed, 0, 0, {6, 6, 6, 6}) <= 10 * tolerance::elementwise);
  CHECK(run.packed.value(0, 1, 0) == 2.0f);
}

TEST_CASE("kvmerger after a quota keeps the budget and folds evicted neighbours in", "[kvmerger]") {
  data::cache const c({.tokens = 200, .head_dim = 32});
  auto const scores = some_scores(2 * 200, 8);
  auto const ev = evidence{token_scores<>{scores.data()}};
  top_k const keep{{.budget = 50, .sinks = 4, .recent = 8}};
  data::compressed const plain(pipeline{given_scores{}, keep, dense<float>{}}, c.view(), ev);
  data::compressed const merged(
      pipeline{given_scores{}, keep, kvmerger{{.threshold = 0.5f, .mass_bias = true}},
               dense<float>{}},
      c.view(), ev);
  CHECK(plain.kept(0, 0) == merged.kept(0, 0));
  int changed = 0;
  for (index_t i = 0; i < 50; ++i) {
    bool const same = plain.packed.value(0, i, 5) == merged.packed.value(0, i, 5);
    bool const is_protected = i < 4 || i >= 42;
    if (is_protected) CHECK(same);
    CHECK(same == (merged.packed.logit_bias(0, i) == 0.0f));
    changed += same ? 0 : 1;
  }
  CHECK(changed > 5);
}

TEST_CASE("merge strength 0 is plain eviction, bit for bit", "[kvmerger]") {
  data::cache const c({.tokens = 100, .head_dim = 16});
  auto const scores = some_scores(2 * 100, 4);
  auto const ev = evidence{token_scores<>{scores.data()}};
  kivi<4> const stored{{.group = 32, .residual = 32, .value_group = 16}};
  data::compressed const plain(pipeline{given_scores{}, top_k{{.budget = 30}}, stored}, c.view(),
                               ev);
  data::compressed const merged(
      pipeline{given_scores{}, top_k{{.budget = 30}}, kvmerger{{.threshold = 1.0f}}, stored},
      c.view(), ev);
  REQUIRE(plain.packed.bytes() == merged.packed.bytes());
  CHECK(std::equal(plain.storage.data(), plain.storage.data() + plain.packed.bytes(),
                   merged.storage.data()));
}

TEST_CASE("kvmerger's neighbours are those of the text, whatever cells they lie in", "[kvmerger]") {
  data::cache const c({.sequences = 2, .tokens = 90, .head_dim = 16});
  data::shuffled const other(c, 31);
  auto const policy =
      pipeline{knorm{}, kvmerger{{.threshold = 0.6f, .mass_bias = true}}, dense<float>{}};
  data::compressed const a(policy, c.view()), b(policy, other.view());
  REQUIRE(a.result.ok());
  REQUIRE(b.result.ok());
  for (index_t r = 0; r < 4; ++r) {
    REQUIRE(a.kept(r / 2, r % 2) == b.kept(r / 2, r % 2));
    index_t const n = a.packed.tokens(r / 2, r % 2);
    CHECK(n < 80);  // some have merged
    for (index_t t = 0; t < n; ++t) {
      CHECK(a.packed.logit_bias(r, t) == b.packed.logit_bias(r, t));
      for (index_t d = 0; d < 16; ++d) {
        CHECK(a.packed.key(r, t, d) == b.packed.key(r, t, d));
        CHECK(a.packed.value(r, t, d) == b.packed.value(r, t, d));
      }
    }
  }
}

TEST_CASE("kvmerger of one token and of empty rows; options that make no sense", "[kvmerger]") {
  data::cache const one({.tokens = 1, .head_dim = 8});
  auto const policy = pipeline{knorm{}, kvmerger{{.mass_bias = true}}, dense<float>{}};
  data::compressed const alone(policy, one.view());
  REQUIRE(alone.result.ok());
  CHECK(alone.packed.tokens(0, 0) == 1);
  CHECK(alone.packed.logit_bias(0, 0) == 0.0f);
  CHECK(alone.packed.key(1, 0, 3) == one.key(0, 1, 0, 3));
  data::cache const c({.sequences = 2, .tokens = 12, .head_dim = 8});
  data::shuffled const empty(c, 3, {0, 12});
  data::compressed const run(policy, empty.view());
  REQUIRE(run.result.ok());
  CHECK(run.packed.tokens(0, 0) == 0);
  CHECK(run.packed.tokens(1, 0) > 0);
  auto const code = [&](kvmerger::options const& options) {
    return make_plan(pipeline{knorm{}, kvmerger{options}}, c.shape.extents()).check().code;
  };
  CHECK(code({}) == errc::ok);
  CHECK(code({.threshold = -1.5f}) == errc::invalid_option);
  CHECK(code({.threshold = std::nanf("")}) == errc::invalid_option);
  CHECK(code({.sigma = -1.0f}) == errc::invalid_option);
  CHECK(code({.sigma = std::numeric_limits<float>::infinity()}) == errc::invalid_option);
  CHECK(code({.recent = -1}) == errc::invalid_option);
  CHECK(code({.sinks = -1}) == errc::invalid_option);
}

TEST_CASE("kvmerger leaves pinned tokens alone without a quota too", "[kvmerger]") {
  data::cache const c = tokens_of(std::vector<std::vector<float>>(9, {1, 2, 3, 4}));
  std::vector<std::uint8_t> valid(9, 1);
  valid[2] = valid[5] = 2;
  valid[7] = 0;
  auto view = c.view();
  view.valid = valid.data();
  data::compressed const run(pipeline{streaming_llm{}, kvmerger{}, dense<float>{}}, view);
  REQUIRE(run.result.ok());
  auto const kept = run.kept(0, 0);
  CHECK(kept.size() == 5);  // two runs before and between, and the last one
  for (index_t const pinned : {2, 5})
    CHECK(std::find(kept.begin(), kept.end(), pinned) != kept.end());
}
