// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
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

}  // namespace

TEST_CASE("kvmerger matches the reference", "[kvmerger]") {
  data::cache const c({.tokens = 160, .head_dim = 32});
  auto const scores = some_scores(2 * 160, 3);
  for (float sigma : {0.0f, 5.0f, 1.5f})
    for (float threshold : {0.5f, 0.75f, 0.9f}) {
      data::compressed const run(pipeline{given_scores{},
                                          kvmerger{{.threshold = threshold,
                                                    .sigma = sigma,
                                                    .recent = 10,
                                                    .sinks = 3,
                                                    .mass_bias = true}},
                                          dense<float>{}},
                                 c.view(), evidence{token_scores<>{scores.data()}});
      REQUIRE(run.result.ok());
      for (index_t h = 0; h < 2; ++h) {
        std::vector<bool> fixed(160, false);
        for (std::size_t t = 0; t < 160; ++t) fixed[t] = t < 3 || t >= 150;
        std::vector<double> const s(scores.begin() + h * 160, scores.begin() + (h + 1) * 160);
        auto const expected = reference::kvmerger(oracle::keys(c, 0, h), oracle::values(c, 0, h), s,
                                                  fixed, threshold, sigma);
        REQUIRE(run.kept(0, h) == expected.pivots);
        for (std::size_t i = 0; i < expected.pivots.size(); ++i) {
          auto const t = static_cast<index_t>(i);
          REQUIRE(std::abs(run.packed.log_weight(h, t) -
                           std::log(static_cast<double>(expected.members[i]))) <=
                  tolerance::accumulated);
          for (index_t d = 0; d < 32; ++d) {
            REQUIRE(
                std::abs(run.packed.key(h, t, d) - expected.k[i][static_cast<std::size_t>(d)]) <=
                10 * tolerance::accumulated);
            REQUIRE(
                std::abs(run.packed.value(h, t, d) - expected.v[i][static_cast<std::size_t>(d)]) <=
                10 * tolerance::accumulated);
          }
        }
      }
    }
}

TEST_CASE("kvmerger after a selector keeps the budget and folds evicted neighbours in",
          "[kvmerger]") {
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
    CHECK(same == (merged.packed.log_weight(0, i) == 0.0f));
    changed += same ? 0 : 1;
  }
  CHECK(changed > 5);
}

TEST_CASE("merge strength 0 is plain eviction, bit for bit", "[kvmerger]") {
  data::cache const c({.tokens = 100, .head_dim = 16});
  auto const scores = some_scores(2 * 100, 4);
  auto const ev = evidence{token_scores<>{scores.data()}};
  data::compressed const plain(pipeline{given_scores{}, top_k{{.budget = 30}},
                                        kivi<4>{{.group = 32, .residual = 32, .value_group = 16}}},
                               c.view(), ev);
  data::compressed const merged(
      pipeline{given_scores{}, top_k{{.budget = 30}}, kvmerger{{.threshold = 1.0f}},
               kivi<4>{{.group = 32, .residual = 32, .value_group = 16}}},
      c.view(), ev);
  REQUIRE(plain.packed.bytes() == merged.packed.bytes());
  CHECK(std::equal(plain.storage.data(), plain.storage.data() + plain.packed.bytes(),
                   merged.storage.data()));
}

TEST_CASE("merging equal tokens with mass_bias leaves attention unchanged", "[kvmerger]") {
  data::cache c({.kv_heads = 1, .tokens = 40, .head_dim = 16});
  for (index_t t = 0; t < 40; ++t)
    for (index_t d = 0; d < 16; ++d) {
      c.k[c.index(0, 0, t, d)] =
          c.k[c.index(0, 0, t / 10 * 10, d)];  // four groups of ten equal tokens
      c.v[c.index(0, 0, t, d)] = c.v[c.index(0, 0, t / 10 * 10, d)];
    }
  std::vector<float> const scores(40, 1.0f);
  data::compressed const run(
      pipeline{given_scores{}, kvmerger{{.threshold = 0.999f, .mass_bias = true}}, dense<float>{}},
      c.view(), evidence{token_scores<>{scores.data()}});
  REQUIRE(run.packed.tokens(0, 0) <= 4);
  std::vector<float> out(2 * 16), lse(2);
  REQUIRE(attend(cpu{}, c.queries(1), run.packed, dense_rows(out.data(), {1, 2, 1, 16}), lse.data())
              .ok());
  auto const q = c.queries(1);
  auto const exact = reference::attention({q.row(0, 0), q.row(0, 0) + 16}, oracle::keys(c, 0, 0),
                                          oracle::values(c, 0, 0));
  CHECK(std::abs(lse[0] - exact.lse) <= 10 * tolerance::accumulated);
  for (std::size_t d = 0; d < 16; ++d)
    CHECK(std::abs(out[d] - exact.out[d]) <= 10 * tolerance::accumulated);
}
