// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/methods.hpp"

using namespace kvslim;

TEST_CASE("given scores select as given, shared by a layer when asked", "[given_scores]") {
  data::cache const c({.tokens = 10, .head_dim = 4});
  std::vector<float> const scores{9, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2};
  auto const ev = evidence{token_scores<>{scores.data()}};
  CHECK(data::kept_by(pipeline{given_scores{}, top_k{{.budget = 2}}}, c.view(), ev) ==
        data::kept_sets{{0, 9}, {1, 9}});
  CHECK(data::kept_by(pipeline{shared{given_scores{}, {.kv_heads = 2}}, top_k{{.budget = 3}}},
                      c.view(), ev) == data::kept_sets(2, {0, 1, 9}));
}

TEST_CASE("given scores are by cell, wherever a token lies", "[given_scores]") {
  data::cache const c({.sequences = 2, .tokens = 30, .head_dim = 4});
  data::shuffled const other(c, 7);
  std::mt19937 engine(1);
  std::vector<float> by_token(4 * 30), by_cell(4 * 37, 1e9f);  // padding is never looked at
  for (float& x : by_token) x = static_cast<float>(engine() % 1000);
  for (std::size_t r = 0; r < 4; ++r)
    for (std::size_t cell = 0; cell < 37; ++cell)
      if (other.valid[r / 2 * 37 + cell] != 0)
        by_cell[r * 37 + cell] =
            by_token[r * 30 + static_cast<std::size_t>(other.positions[r / 2 * 37 + cell])];
  auto const policy = pipeline{given_scores{}, top_k{{.budget = 9}}};
  auto const kept = data::kept_by(policy, c.view(), evidence{token_scores<>{by_token.data()}});
  REQUIRE(kept.size() == 4);
  CHECK(kept == data::kept_by(policy, other.view(), evidence{token_scores<>{by_cell.data()}}));
}

TEST_CASE("given scores must be there", "[given_scores]") {
  data::cache const c({.tokens = 10, .head_dim = 4});
  CHECK(data::compressed(pipeline{given_scores{}, top_k{{.budget = 2}}}, c.view(),
                         evidence{token_scores<>{nullptr}})
            .result.code == errc::invalid_pointer);
}
