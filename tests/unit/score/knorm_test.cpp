// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

TEST_CASE("knorm keeps the shortest keys", "[knorm]") {
  for (index_t group : {1, 2, 4}) {  // which no score depends on
    data::cache const c({.sequences = 2, .group = group, .tokens = 150, .head_dim = 48},
                        static_cast<unsigned>(group));
    data::shuffled const other(c, 11);
    auto const got = data::scores_by(pipeline{knorm{}}, c.view());
    REQUIRE(got.size() == 4 * 150);
    data::kept_sets fewer(4);
    for (index_t budget : {1, 50, 150, 151}) {
      auto const policy = pipeline{knorm{}, top_k{{.budget = budget}}};
      auto const kept = data::kept_by(policy, c.view());
      CHECK(data::contains(kept, fewer));
      CHECK(kept == data::kept_by(policy, other.view()));
      for (index_t r = 0; r < 4; ++r) {
        std::vector<double> expected;
        for (auto const& row : oracle::keys(c, r / 2, r % 2))
          expected.push_back(-std::sqrt(reference::dot(row, row)));
        for (std::size_t t = 0; t < 150; ++t)
          REQUIRE(std::abs(got[static_cast<std::size_t>(r) * 150 + t] - expected[t]) <=
                  tolerance::accumulated * std::abs(expected[t]));
        CHECK(kept[static_cast<std::size_t>(r)] == reference::keep(expected, budget, 0, 0));
      }
      fewer = kept;
    }
  }
}

TEST_CASE("knorm ignores rotation", "[knorm]") {
  data::cache const c({.tokens = 80, .head_dim = 32});
  data::cache rotated = c;
  rope const r{.base = 10000.0f};
  for (index_t h = 0; h < 2; ++h)
    for (index_t t = 0; t < 80; ++t)
      ops::rotate(r, 32, t, rotated.k.data() + rotated.cell(0, h, t) * 32);
  auto const before = data::scores_by(pipeline{knorm{}}, c.view());
  auto const after = data::scores_by(pipeline{knorm{}}, rotated.view());
  for (std::size_t i = 0; i < 2 * 80; ++i)
    CHECK(std::abs(before[i] - after[i]) <= tolerance::accumulated * std::abs(before[i]));
}

TEST_CASE("knorm of one token, of equal and of zero keys", "[knorm]") {
  auto const policy = pipeline{knorm{}, top_k{{.budget = 3}}};
  data::cache const one({.tokens = 1, .head_dim = 8});
  CHECK(data::kept_by(policy, one.view()) == data::kept_sets(2, {0}));
  data::cache equal({.tokens = 9, .head_dim = 8});
  std::fill(equal.k.begin(), equal.k.end(), -2.0f);
  CHECK(data::kept_by(policy, equal.view()) == data::kept_sets(2, {0, 1, 2}));
  std::fill(equal.k.begin() + 5 * 8, equal.k.begin() + 6 * 8, 0.0f);
  CHECK(data::kept_by(policy, equal.view())[0] == std::vector<index_t>{0, 1, 5});
}
