// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/corm.hpp"

#include "support/catch.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <kvslim/score/corm.hpp>
#include <kvslim/select/at_least.hpp>

using namespace kvslim;

namespace {

/// The paper's rule for a window and as many recent tokens as given.
auto rule(index_t window, index_t recent) {
  return pipeline{corm{}, at_least{{.least = static_cast<float>(1 - window), .recent = recent}},
                  dense<float>{}};
}

}  // namespace

TEST_CASE("corm decodes as the reference does, for any group", "[corm][life]") {
  index_t const prompt = 40, tokens = 90, window = 6;
  for (index_t group : {1, 4, 8})
    for (index_t recent : {2, 12})
      for (index_t dim : {16, 80}) {
        data::cache const c({.kv_heads = 2, .group = 1, .tokens = tokens, .head_dim = dim}, 5);
        data::cache const asked(
            {.kv_heads = 2, .group = 1, .tokens = tokens * group, .head_dim = dim}, 9);
        data::text_of const text{asked.k.data(), c.k.data(), 2 * group, 2, tokens, dim};
        data::evicting life(rule(window, recent), text.prompt(prompt),
                            evidence{window_queries{text.queries(prompt - window, window)}},
                            tokens - prompt);
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
          expected.push_back(
              reference::corm_run(heads, oracle::keys(c, 0, h), prompt, window, recent));
        }
        bool shrinks = false;
        for (index_t t = prompt; t <= tokens; ++t) {
          for (index_t h = 0; h < 2; ++h) {
            auto const& held =
                expected[static_cast<std::size_t>(h)][static_cast<std::size_t>(t - prompt)];
            REQUIRE(life.held(0, h) == held);
            shrinks = shrinks || held.size() + 1 < static_cast<std::size_t>(t);
          }
          if (t == tokens) break;
          REQUIRE(life.look(text.keys(t, 1), text.keys(t, 1), text.queries(t, 1)).ok());
          REQUIRE(life.drop_all().ok());
          REQUIRE(life.settle().ok());
        }
        CHECK(shrinks);
        CHECK(life.intact());
      }
}

TEST_CASE("corm of a prompt in any order of cells, ragged and pinned", "[corm]") {
  index_t const window = 5;
  for (index_t group : {1, 4}) {
    data::cache const c(
        {.sequences = 3, .kv_heads = 2, .group = group, .tokens = 60, .head_dim = 16},
        static_cast<unsigned>(group));
    std::vector<index_t> const lengths{60, 33, 0};
    data::shuffled ragged(c, 17, lengths);
    auto const kept =
        data::kept_by(rule(window, 3), ragged.view(), evidence{window_queries{c.queries(window)}});
    REQUIRE(kept.size() == 6);
    for (index_t r = 0; r < 4; ++r) {
      // Queries before the window change nothing: any will do.
      auto const n = static_cast<std::size_t>(lengths[static_cast<std::size_t>(r / 2)]);
      auto heads = oracle::window(c, r / 2, r % 2, window);
      for (auto& head : heads)
        head.insert(head.begin(), n - head.size(), std::vector<double>(16, 0.0));
      CHECK(kept[static_cast<std::size_t>(r)] ==
            reference::corm_run(heads, oracle::keys(c, r / 2, r % 2, static_cast<index_t>(n)), n,
                                window, 3)
                .back());
    }
    CHECK(kept[4].empty());
    for (std::size_t cell = 0; cell < 77; ++cell)
      if (ragged.valid[cell] == 1) ragged.valid[cell] = 2;
    CHECK(data::kept_by(rule(window, 3), ragged.view(),
                        evidence{window_queries{c.queries(window)}})[0]
              .size() == 60);
  }
}

TEST_CASE("corm keeps all where attention is even, and one token where it is not", "[corm]") {
  data::cache c({.kv_heads = 1, .group = 2, .tokens = 200, .head_dim = 16});
  std::fill(c.k.begin(), c.k.end(), 0.5f);
  evidence const seen{window_queries{c.queries(4)}};
  CHECK(data::kept_by(rule(4, 1), c.view(), seen)[0].size() == 200);
  corm const scorer{};
  auto x = scorer.born({.position = 7, .now = 7, .visible = 8});
  CHECK(x.major == 7);
  scorer.observe(x, 0.1f, {.position = 7, .now = 9, .visible = 10});
  CHECK(x.major == 9);
  scorer.observe(x, 0.09f, {.position = 7, .now = 10, .visible = 11});
  CHECK(x.major == 9);
}
