// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/lazy_eviction.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"

#include <kvslim/score/lazy_eviction.hpp>

using namespace kvslim;

namespace {

auto lazy(float threshold, index_t capacity, index_t window, float offset = 1.0f) {
  return pipeline{lazy_eviction{{.threshold = threshold, .offset = offset}},
                  top_k{{.budget = capacity, .recent = window}}, dense<float>{}};
}

/// One step; tokens go every `window` steps.
template <class Life>
status take_step(Life& life, data::text_of const& text, index_t t, index_t number, index_t window) {
  if (auto const s = life.look(text.keys(t, 1), text.keys(t, 1), text.queries(t, 1)); !s) return s;
  if (number % window == 0)
    if (auto const s = life.drop_all(); !s) return s;
  return life.settle();
}

}  // namespace

TEST_CASE("lazy_eviction holds the authors' tokens and remembers what they do",
          "[lazy_eviction][life]") {
  golden const g("lazy_eviction");
  auto const q = g.floats("q"), k = g.floats("k");
  data::text_of const text{q.data(), k.data(), 3, 3, 54, 16};
  data::evicting life(lazy(0.04f, 20, 4), text.prompt(14),
                      evidence{window_queries{text.queries(13, 1)}}, 40);
  REQUIRE(life.run.result.ok());
  std::ptrdiff_t at = 0;
  for (index_t n = 1; n <= 40; ++n) {
    REQUIRE(take_step(life, text, 13 + n, n, 4).ok());
    auto const length = static_cast<std::ptrdiff_t>(g["length"][static_cast<std::size_t>(n - 1)]);
    for (index_t h = 0; h < 3; ++h) {
      auto const kept = g["kept"].begin() + at;
      auto const held = life.held(0, h);
      REQUIRE(held == std::vector<index_t>(kept, kept + length));
      for (std::size_t i = 0; i < held.size(); ++i) {
        auto const x = life.column<lazy_column>(0, h, held[i]);
        REQUIRE(x.last == static_cast<std::int32_t>(g["last"][static_cast<std::size_t>(at) + i]));
        REQUIRE(x.pause == static_cast<std::int32_t>(g["pause"][static_cast<std::size_t>(at) + i]));
      }
      at += length;
    }
  }
  CHECK(life.intact());
}

TEST_CASE("lazy_eviction decodes as the reference does for any group and either offset",
          "[lazy_eviction][life]") {
  index_t const prompt = 20, tokens = 70, dim = 16, window = 5;
  for (index_t group : {1, 4, 8})
    for (float offset : {0.0f, 1.0f}) {
      data::cache const c({.kv_heads = 2, .group = group, .tokens = tokens, .head_dim = dim}, 5);
      std::vector<float> q;
      data::cache const asked(
          {.kv_heads = 2, .group = 1, .tokens = tokens * group, .head_dim = dim}, 9);
      for (index_t h = 0; h < 2 * group; ++h)
        for (index_t t = 0; t < tokens; ++t)
          for (index_t d = 0; d < dim; ++d)
            q.push_back(asked.key(0, h / group, h % group * tokens + t, d));
      data::text_of const text{q.data(), c.k.data(), 2 * group, 2, tokens, dim};
      data::evicting life(lazy(0.03f, 24, window, offset), text.prompt(prompt),
                          evidence{window_queries{text.queries(prompt - 1, 1)}}, tokens - prompt);
      REQUIRE(life.run.result.ok());
      std::vector<std::vector<reference::lazy_state>> expected;
      for (index_t h = 0; h < 2; ++h) {
        std::vector<reference::matrix> heads;
        for (index_t i = 0; i < group; ++i) {
          heads.emplace_back();
          for (index_t t = 0; t < tokens; ++t) {
            float const* const row = q.data() + ((h * group + i) * tokens + t) * dim;
            heads.back().emplace_back(row, row + dim);
          }
        }
        expected.push_back(reference::lazy_run(heads, oracle::keys(c, 0, h), prompt, 24, window,
                                               0.03, static_cast<double>(offset)));
      }
      for (index_t n = 1; prompt + n <= tokens; ++n) {
        REQUIRE(take_step(life, text, prompt + n - 1, n, window).ok());
        for (index_t h = 0; h < 2; ++h)
          REQUIRE(life.held(0, h) ==
                  expected[static_cast<std::size_t>(h)][static_cast<std::size_t>(n - 1)].kept);
      }
    }
}

TEST_CASE("lazy_eviction's score is the card's", "[lazy_eviction]") {
  // Attended to at steps 1, 5 and 9; seen at step 12.
  lazy_eviction const scorer{};
  auto x = scorer.born({.position = 1, .now = 1});
  for (std::int32_t now : {1, 5, 9}) scorer.observe(x, 0.5f, {.position = 1, .now = now});
  scorer.observe(x, 0.0f, {.position = 1, .now = 12});
  CHECK(x.last == 9);
  CHECK(x.pause == 4);
  scorer.observe(x, 1.0f, {.position = 1, .now = 20, .prompt = true});
  CHECK(x.pause == 4);
  CHECK(x.last == 20);
}

TEST_CASE("lazy_eviction of a prompt: nothing came back yet, so the first stay",
          "[lazy_eviction]") {
  data::cache const c({.sequences = 3, .kv_heads = 2, .group = 2, .tokens = 30, .head_dim = 80});
  std::vector<index_t> const lengths{30, 9, 0};
  data::shuffled mixed(c, 7, lengths);
  for (std::size_t cell = 0; cell < 37; ++cell)
    if (mixed.valid[cell] == 1 && mixed.positions[cell] == 15) mixed.valid[cell] = 2;
  auto const kept =
      data::kept_by(lazy(0.01f, 6, 2), mixed.view(), evidence{window_queries{c.queries(3)}});
  REQUIRE(kept.size() == 6);
  CHECK(kept[0] == std::vector<index_t>{0, 1, 2, 15, 28, 29});
  CHECK(kept[2] == std::vector<index_t>{0, 1, 2, 3, 7, 8});
  CHECK(kept[4].empty());
}
