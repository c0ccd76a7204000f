// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/scissorhands.hpp"

#include "support/catch.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <kvslim/score/scissorhands.hpp>

using namespace kvslim;

namespace {

/// A buffer that gives up `drop` of `full` tokens, over a history of H queries.
template <index_t H>
auto buffer_of(index_t full, index_t drop, index_t recent) {
  return pipeline{scissorhands<H>{}, top_k{{.budget = full - drop, .recent = recent}},
                  dense<float>{}};
}

template <index_t H>
void decodes(index_t group, index_t dim) {
  index_t const prompt = 40, tokens = 130, full = 30, drop = 8, recent = 5, seen = 12;
  data::cache const c({.kv_heads = 2, .group = 1, .tokens = tokens, .head_dim = dim}, 5);
  data::cache const asked({.kv_heads = 2, .group = 1, .tokens = tokens * group, .head_dim = dim},
                          9);
  data::text_of const text{asked.k.data(), c.k.data(), 2 * group, 2, tokens, dim};
  data::evicting life(buffer_of<H>(full, drop, recent), text.prompt(prompt),
                      evidence{window_queries{text.queries(prompt - seen, seen)}}, tokens - prompt);
  REQUIRE(life.run.result.ok());
  std::vector<std::vector<reference::indices>> expected;
  for (index_t h = 0; h < 2; ++h) {
    std::vector<reference::matrix> heads;
    for (index_t i = 0; i < group; ++i) {
      heads.emplace_back();
      for (index_t t = 0; t < tokens; ++t) {
        float const* const row = asked.k.data() + ((h * group + i) * tokens + t) * dim;
        heads.back().emplace_back(row, row + dim);
      }
    }
    expected.push_back(reference::scissorhands_run(heads, oracle::keys(c, 0, h), prompt, full, drop,
                                                   recent, H, seen));
  }
  for (index_t t = prompt; t <= tokens; ++t) {
    for (index_t h = 0; h < 2; ++h)
      REQUIRE(life.held(0, h) ==
              expected[static_cast<std::size_t>(h)][static_cast<std::size_t>(t - prompt)]);
    if (t == tokens) break;
    REQUIRE(life.look(text.keys(t, 1), text.keys(t, 1), text.queries(t, 1)).ok());
    if (life.held(0, 0).size() >= static_cast<std::size_t>(full)) REQUIRE(life.drop_all().ok());
    REQUIRE(life.settle().ok());
  }
  CHECK(life.intact());
}

}  // namespace

TEST_CASE("scissorhands decodes as the reference does, for any group and history",
          "[scissorhands][life]") {
  for (index_t group : {1, 4, 8}) decodes<32>(group, 16);
  decodes<64>(2, 80);
  decodes<256>(1, 16);
}

TEST_CASE("scissorhands counts the last queries, not those before a token", "[scissorhands]") {
  scissorhands<64> const scorer{};
  auto x = scorer.born({.position = 3, .now = 3, .visible = 4});
  auto const count = [&] {
    int bits = 0;
    for (auto word : x.low)
      for (int i = 0; i < 32; ++i) bits += static_cast<int>(word >> i & 1u);
    return bits;
  };
  for (int i = 0; i < 50; ++i) scorer.observe(x, 0.1f, {.visible = 5});  // half its share
  CHECK(count() == 50);
  scorer.observe(x, 0.2f, {.visible = 5});
  CHECK(count() == 50);
  for (int i = 0; i < 20; ++i) scorer.observe(x, 0.9f, {.visible = 5});
  CHECK(count() == 43);  // seven have left
  for (int i = 0; i < 100; ++i) scorer.observe(x, 0.0f, {.visible = 5});
  CHECK(count() == 64);
}

TEST_CASE("scissorhands of a prompt, ragged, in any order of cells, with pins", "[scissorhands]") {
  index_t const seen = 9;
  for (index_t group : {1, 4}) {
    data::cache const c(
        {.sequences = 3, .kv_heads = 2, .group = group, .tokens = 60, .head_dim = 16},
        static_cast<unsigned>(group));
    std::vector<index_t> const lengths{60, 33, 0};
    data::shuffled ragged(c, 17, lengths);
    evidence const asked{window_queries{c.queries(seen)}};
    auto const policy = buffer_of<32>(20, 6, 4);
    auto const kept = data::kept_by(policy, ragged.view(), asked);
    REQUIRE(kept.size() == 6);
    for (index_t r = 0; r < 4; ++r) {
      auto const n = static_cast<std::size_t>(lengths[static_cast<std::size_t>(r / 2)]);
      auto heads = oracle::window(c, r / 2, r % 2, seen);
      for (auto& head : heads)
        head.insert(head.begin(), n - head.size(), std::vector<double>(16, 0.0));
      CHECK(kept[static_cast<std::size_t>(r)] ==
            reference::scissorhands_run(heads,
                                        oracle::keys(c, r / 2, r % 2, static_cast<index_t>(n)), n,
                                        20, 6, 4, 32, static_cast<std::size_t>(seen))
                .back());
    }
    CHECK(kept[4].empty());
    for (std::size_t cell = 0; cell < 77; ++cell)
      if (ragged.valid[cell] == 1 && ragged.positions[cell] == 21) ragged.valid[cell] = 2;
    auto const pinned = data::kept_by(policy, ragged.view(), asked);
    REQUIRE(pinned.size() == 6);
    CHECK(std::binary_search(pinned[0].begin(), pinned[0].end(), 21));
  }
}
