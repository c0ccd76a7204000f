// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/methods.hpp"

using namespace kvslim;

TEST_CASE("streaming_llm keeps sinks and the newest", "[streaming_llm]") {
  data::cache const c({.tokens = 100, .head_dim = 16});
  data::shuffled const other(c, 9);
  auto const policy = pipeline{streaming_llm{{.sinks = 4}}, top_k{{.budget = 20}}};
  std::vector<index_t> expected{0, 1, 2, 3};
  for (index_t t = 84; t < 100; ++t) expected.push_back(t);
  CHECK(data::kept_by(policy, c.view()) == data::kept_sets(2, expected));
  CHECK(data::kept_by(policy, other.view()) == data::kept_sets(2, expected));
  auto const all = data::kept_by(pipeline{streaming_llm{}, top_k{{.budget = 500}}}, c.view());
  REQUIRE(all.size() == 2);
  CHECK(all[0].size() == 100);  // a budget above the length keeps everything
}

TEST_CASE("streaming_llm of rows shorter than the sinks, and of no tokens", "[streaming_llm]") {
  data::cache const c({.sequences = 3, .tokens = 10, .head_dim = 8});
  data::shuffled const ragged(c, 2, {10, 3, 0});
  auto const kept = data::kept_by(pipeline{streaming_llm{}, top_k{{.budget = 6}}}, ragged.view());
  REQUIRE(kept.size() == 6);
  CHECK(kept[0] == std::vector<index_t>{0, 1, 2, 3, 8, 9});
  CHECK(kept[2] == std::vector<index_t>{0, 1, 2});
  CHECK(kept[4].empty());
}

TEST_CASE("streaming_llm holds its budget over 10,000 tokens in the slots it began with",
          "[streaming_llm]") {
  data::cache const c({.kv_heads = 2, .tokens = 24, .head_dim = 8});
  data::evicting life(pipeline{streaming_llm{}, top_k{{.budget = 16}}, dense<float>{}}, c.view(),
                      evidence<>{});
  REQUIRE(life.run.result.ok());
  std::vector<float> const k(2 * 8, 1.0f);
  auto const row = dense_rows(k.data(), {1, 2, 1, 8});
  for (index_t t = 24; t < 10024; ++t) {
    REQUIRE(life.step(row, row, {}).ok());
    REQUIRE(life.run.packed.slots(0, 0) <= 17);
  }
  std::vector<index_t> expected{0, 1, 2, 3};
  for (index_t t = 10012; t < 10024; ++t) expected.push_back(t);
  CHECK(life.held(0, 0) == expected);
  CHECK(life.held(0, 1) == expected);
}
