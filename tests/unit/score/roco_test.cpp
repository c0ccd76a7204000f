// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/roco.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <kvslim/score/roco.hpp>

using namespace kvslim;

namespace {

/// RoCo beside a prompt that stays.
auto beside(roco::options const& options, index_t prompt) {
  return pipeline{roco{options}, top_k{{.budget = prompt + options.budget, .recent = options.last}},
                  dense<float>{}};
}

/// A text whose prompt is pinned, or not.
struct pinned_prompt {
  std::vector<std::uint8_t> valid;

  explicit pinned_prompt(index_t n, bool pinned = true)
      : valid(static_cast<std::size_t>(n), static_cast<std::uint8_t>(pinned ? 2 : 1)) {}
  [[nodiscard]] auto of(data::text_of const& text) const {
    auto view = text.prompt(static_cast<index_t>(valid.size()));
    view.valid = valid.data();
    return view;
  }
};

}  // namespace

TEST_CASE("roco holds the authors' tokens while decoding", "[roco][life]") {
  golden const g("roco");
  auto const q = g.floats("q"), k = g.floats("k");
  data::text_of const text{q.data(), k.data(), 4, 2, 66, 16};
  pinned_prompt const prompt(6);
  data::evicting life(beside({.budget = 30}, 6), prompt.of(text),
                      evidence{window_queries{text.queries(5, 1)}}, 60);
  REQUIRE(life.run.result.ok());
  auto at = g["kept"].begin();
  for (index_t t = 6; t < 66; ++t) {
    REQUIRE(life.step(text.keys(t, 1), text.keys(t, 1), text.queries(t, 1)).ok());
    if (t < 35) continue;
    for (index_t h = 0; h < 2; ++h) {
      REQUIRE(life.held(0, h) == std::vector<index_t>(at, at + 36));
      at += 36;
    }
  }
  CHECK(life.intact());
}

TEST_CASE("roco decodes as the reference does, for any group, with a prompt that stays or not",
          "[roco][life]") {
  index_t const prompt = 5, tokens = 80;
  for (index_t group : {1, 4, 8})
    for (index_t dim : {16, 80})
      for (index_t pinned : {prompt, index_t{0}}) {
        // As the authors decode, and as they read a prompt.
        roco::options const options =
            pinned > 0 ? roco::options{.budget = 20, .last = 3}
                       : roco::options{.budget = 24, .recent_part = 0.1, .sinks = 4};
        data::cache const c({.kv_heads = 2, .group = 1, .tokens = tokens, .head_dim = dim}, 5);
        data::cache const asked(
            {.kv_heads = 2, .group = 1, .tokens = tokens * group, .head_dim = dim}, 9);
        data::text_of const text{asked.k.data(), c.k.data(), 2 * group, 2, tokens, dim};
        pinned_prompt const first(prompt, pinned > 0);
        data::evicting life(beside(options, pinned), first.of(text),
                            evidence{window_queries{text.queries(0, prompt)}}, tokens - prompt);
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
          auto const size = [](index_t n) { return static_cast<std::size_t>(n); };
          expected.push_back(reference::roco_run(
              heads, oracle::keys(c, 0, h), size(pinned), size(options.budget),
              size(roco{options}.gate().open), size(options.sinks), size(options.last)));
        }
        for (index_t t = prompt; t < tokens; ++t) {
          REQUIRE(life.step(text.keys(t, 1), text.keys(t, 1), text.queries(t, 1)).ok());
          for (index_t h = 0; h < 2; ++h)
            REQUIRE(life.held(0, h) ==
                    expected[static_cast<std::size_t>(h)][static_cast<std::size_t>(t - pinned)]);
        }
        CHECK(life.intact());
      }
}

TEST_CASE("roco's gate spares what varies, whatever its mean", "[roco]") {
  roco const scorer{{.budget = 10, .recent_part = 0.5, .sinks = 1, .last = 2}};
  CHECK(scorer.gate().open == 4);
  CHECK(scorer.gate().sinks == 1);
  CHECK(scorer.gate().recent == 2);
  CHECK(roco{{.budget = 2, .sinks = 9}}.gate().open == 1);
  // Three tokens may go by their place, two by what they were paid.
  std::vector<float> const doubts{0.0f, 0.3f, 0.1f, 0.2f, 0.0f, 0.0f};
  data::cache const c({.kv_heads = 1, .group = 1, .tokens = 6, .head_dim = 8});
  text<decltype(c.view())> const ordered{c.view()};
  std::vector<float> scores{9, 1, 2, 3, 8, 7}, doubted = doubts;
  std::vector<std::uint64_t> keys(6);
  auto const open = [&](index_t n) {
    auto out = scores;
    REQUIRE(ops::gate_scores(cpu{}, ordered, gate{.open = n, .sinks = 1, .recent = 2},
                             score_view{doubted.data(), 6}, keys.data(), score_view{out.data(), 6})
                .ok());
    return out;
  };
  float const never = INFINITY;
  CHECK(open(2) == std::vector<float>{never, never, 2, 3, never, never});
  CHECK(open(9) == std::vector<float>{never, 1, 2, 3, never, never});
  CHECK(open(0) == std::vector<float>(6, never));
  doubted[2] = std::nanf("");  // not known: stays
  CHECK(open(2) == std::vector<float>{never, 1, never, 3, never, never});
  doubted.assign(6, 0.5f);  // of equal doubts the earlier tokens compete
  CHECK(open(1) == std::vector<float>{never, 1, never, never, never, never});
}

TEST_CASE("roco of a prompt, ragged, in any order of cells, with pins", "[roco]") {
  for (index_t group : {1, 4}) {
    data::cache const c(
        {.sequences = 3, .kv_heads = 2, .group = group, .tokens = 60, .head_dim = 16},
        static_cast<unsigned>(group));
    std::vector<index_t> const lengths{60, 33, 0};
    evidence const seen{window_queries{c.queries(9)}};
    data::shuffled ragged(c, 17, lengths), ordered(c, 0, lengths);
    auto const rule = beside({.budget = 50, .last = 4}, 0);
    auto const kept = data::kept_by(rule, ragged.view(), seen);
    REQUIRE(kept.size() == 6);
    CHECK(kept == data::kept_by(rule, ordered.view(), seen));
    CHECK(kept[0].size() == 50);
    CHECK(kept[2].size() == 33);
    CHECK(kept[4].empty());
    for (std::size_t cell = 0; cell < 77; ++cell)
      if (ragged.valid[cell] == 1 && ragged.positions[cell] == 21) ragged.valid[cell] = 2;
    auto const pinned = data::kept_by(rule, ragged.view(), seen);
    REQUIRE(pinned.size() == 6);
    CHECK(std::binary_search(pinned[0].begin(), pinned[0].end(), 21));
  }
}
