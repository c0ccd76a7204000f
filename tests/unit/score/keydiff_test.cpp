// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/keydiff.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/score/keydiff.hpp>

using namespace kvslim;

namespace {

auto best(index_t budget) { return pipeline{keydiff{}, top_k{{.budget = budget}}, dense<float>{}}; }

}  // namespace

TEST_CASE("keydiff's scores and kept sets are kvpress's", "[keydiff]") {
  golden const g("keydiff");
  auto const k = g.floats("k");
  data::text_of const text{nullptr, k.data(), 0, 3, 80, 16};
  auto const scores = data::scores_by(pipeline{keydiff{}}, text.prompt(80));
  for (std::size_t i = 0; i < 3 * 80; ++i)
    REQUIRE(std::abs(scores[i] - g["score"][i]) <= tolerance::accumulated);
  auto const kept = data::kept_by(best(32), text.prompt(80));
  REQUIRE(kept.size() == 3);
  for (index_t h = 0; h < 3; ++h)
    CHECK(kept[static_cast<std::size_t>(h)] ==
          std::vector<index_t>(g["kept"].begin() + h * 32, g["kept"].begin() + (h + 1) * 32));
}

TEST_CASE("keydiff in blocks keeps what kvpress keeps in blocks", "[keydiff]") {
  golden const g("keydiff");
  auto const k = g.floats("k");
  data::text_of const text{nullptr, k.data(), 0, 3, 80, 16};
  data::in_blocks life(best(32), text.prompt(32), 16);
  REQUIRE(life.result.ok());
  for (index_t t = 32; t < 80; t += 16) REQUIRE(life.take(text.keys(t, 16)).ok());
  for (index_t h = 0; h < 3; ++h)
    CHECK(life.held(0, h) == std::vector<index_t>(g["kept_blocks"].begin() + h * 32,
                                                  g["kept_blocks"].begin() + (h + 1) * 32));
}

TEST_CASE("keydiff matches the reference in any order of cells", "[keydiff]") {
  for (index_t group : {1, 2, 4}) {  // which no score depends on
    data::cache const c(
        {.sequences = 3, .kv_heads = 2, .group = group, .tokens = 90, .head_dim = 48},
        static_cast<unsigned>(group));
    std::vector<index_t> const lengths{90, 33, 5};
    data::shuffled const ragged(c, 21, lengths);
    for (bool unit_keys : {true, false})
      for (index_t budget : {1, 5, 40, 89, 90, 200}) {
        auto const kept =
            data::kept_by(pipeline{keydiff{{.unit_keys = unit_keys}},
                                   top_k{{.budget = budget, .sinks = 2, .recent = 2}}},
                          ragged.view());
        REQUIRE(kept.size() == 6);
        for (index_t r = 0; r < 6; ++r) {
          auto const score = reference::keydiff(
              oracle::keys(c, r / 2, r % 2, lengths[static_cast<std::size_t>(r / 2)]), unit_keys);
          CHECK(kept[static_cast<std::size_t>(r)] == reference::keep(score, budget, 2, 2));
        }
      }
  }
}

TEST_CASE("keydiff's mean holds its digits over rows of many stretches", "[keydiff]") {
  data::cache const c({.kv_heads = 1, .group = 1, .tokens = 3000, .head_dim = 16});
  auto const scores = data::scores_by(pipeline{keydiff{}}, c.view());
  auto const expected = reference::keydiff(oracle::keys(c, 0, 0));
  for (std::size_t t = 0; t < 3000; ++t)
    REQUIRE(std::abs(scores[t] - expected[t]) <= tolerance::accumulated);
}

TEST_CASE("keydiff's heads may change places, and a larger budget keeps more", "[keydiff]") {
  data::cache const c({.kv_heads = 3, .tokens = 70, .head_dim = 16});
  auto const other = data::reversed_heads(c);
  data::kept_sets fewer(3);
  for (index_t budget : {1, 6, 20, 70, 71}) {
    auto const policy = pipeline{keydiff{}, top_k{{.budget = budget, .sinks = 2, .recent = 3}}};
    auto const kept = data::kept_by(policy, c.view());
    CHECK(data::contains(kept, fewer));
    CHECK(data::reversed_heads(data::kept_by(policy, other.view()), 3) == kept);
    if (budget >= 5) CHECK(data::contains(kept, data::kept_sets(3, {0, 1, 67, 68, 69})));
    fewer = kept;
  }
}

TEST_CASE("keydiff holds its budget over 10,000 tokens", "[keydiff]") {
  data::cache const c({.kv_heads = 2, .tokens = 24, .head_dim = 8});
  data::in_blocks life(best(24), c.view(), 8);
  REQUIRE(life.result.ok());
  std::size_t const bytes = life.packed().bytes();
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> k(2 * 8 * 8);
  for (index_t t = 24; t < 10024; t += 8) {
    for (float& x : k) x = normal(engine);
    REQUIRE(life.take(dense_rows(k.data(), {1, 2, 8, 8})).ok());
    REQUIRE(life.packed().slots(0, 0) == 24);
    REQUIRE(life.packed().slots(0, 1) == 24);
    REQUIRE(life.packed().bytes() == bytes);
  }
  CHECK(life.packed().next_position(0) == 10024);
}

TEST_CASE("keydiff of one token, equal keys, zero keys and empty rows", "[keydiff]") {
  data::cache const one({.tokens = 1, .head_dim = 8});
  CHECK(data::kept_by(best(4), one.view()) == data::kept_sets{{0}, {0}});
  CHECK(std::abs(data::scores_by(pipeline{keydiff{}}, one.view())[0] + 1.0) <=
        tolerance::accumulated);

  data::cache equal({.tokens = 12, .head_dim = 8});
  std::fill(equal.k.begin(), equal.k.end(), 0.5f);
  CHECK(data::kept_by(best(4), equal.view()) == data::kept_sets(2, {0, 1, 2, 3}));

  // A zero key resembles nothing: it ranks above every key along the mean.
  std::fill(equal.k.begin() + 7 * 8, equal.k.begin() + 8 * 8, 0.0f);
  auto const scores = data::scores_by(pipeline{keydiff{}}, equal.view());
  CHECK(scores[7] == 0.0f);
  CHECK(data::kept_by(best(1), equal.view())[0] == std::vector<index_t>{7});
  std::fill(equal.k.begin(), equal.k.end(), 0.0f);
  CHECK(data::kept_by(best(2), equal.view()) == data::kept_sets(2, {0, 1}));

  data::cache const c({.sequences = 2, .tokens = 12, .head_dim = 8});
  data::shuffled const empty(c, 3, {0, 12});
  auto const kept = data::kept_by(best(4), empty.view());
  REQUIRE(kept.size() == 4);
  CHECK(kept[0].empty());
  CHECK(kept[2].size() == 4);
}

TEST_CASE("keydiff refuses keys that are no numbers", "[keydiff]") {
  data::cache c({.tokens = 12, .head_dim = 8});
  c.k[17] = std::numeric_limits<float>::infinity();
  CHECK(data::compressed(best(4), c.view()).result.code == errc::non_finite);
}
