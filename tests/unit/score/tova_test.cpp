// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/tova.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/score/tova.hpp>

using namespace kvslim;

namespace {

/// TOVA over a layer of `kv_heads`.
auto layer(index_t kv_heads, index_t budget, index_t recent = 0) {
  return pipeline{shared{tova{}, {.kv_heads = kv_heads}},
                  top_k{{.budget = budget, .recent = recent}}, dense<float>{}};
}

/// Queries of every head, and keys, of sequence s, as the reference takes them.
std::vector<reference::matrix> heads_of(data::cache const& c, index_t s, index_t tokens) {
  std::vector<reference::matrix> all;
  for (index_t h = 0; h < c.shape.kv_heads; ++h)
    for (auto& head : oracle::window(c, s, h, tokens)) all.push_back(head);
  return all;
}
std::vector<reference::matrix> keys_of(data::cache const& c, index_t s, index_t tokens) {
  std::vector<reference::matrix> all;
  for (index_t h = 0; h < c.shape.kv_heads; ++h) all.push_back(oracle::keys(c, s, h, tokens));
  return all;
}

}  // namespace

TEST_CASE("tova keeps what the authors keep, for a prompt and 16 steps", "[tova]") {
  golden const g("tova");
  auto const q = g.floats("q"), k = g.floats("k");
  data::text_of const text{q.data(), k.data(), 4, 2, 64, 16};
  // The last query of the prompt is all that counts.
  for (index_t queries : {1, 48}) {
    evidence const seen{window_queries{text.queries(48 - queries, queries)}};
    auto const scores = data::scores_by(layer(2, 16), text.prompt(48), seen);
    for (std::size_t t = 0; t < 48; ++t) {
      REQUIRE(std::abs(scores[t] - g["score"][t]) <= tolerance::accumulated * g["score"][t]);
      REQUIRE(scores[48 + t] == scores[t]);
    }
    data::evicting life(layer(2, 16), text.prompt(48), seen);
    REQUIRE(life.run.result.ok());
    bool dropped_newest = false;
    for (index_t step = 0; step <= 16; ++step) {
      index_t const t = 47 + step;
      if (step > 0) REQUIRE(life.step(text.keys(t, 1), text.keys(t, 1), text.queries(t, 1)).ok());
      std::vector<index_t> const kept(g["kept"].begin() + step * 16,
                                      g["kept"].begin() + (step + 1) * 16);
      for (index_t h = 0; h < 2; ++h) REQUIRE(life.held(0, h) == kept);
      dropped_newest = dropped_newest || kept.back() != t;
    }
    CHECK(dropped_newest);  // the authors protect nothing
    CHECK(life.intact());
  }
}

TEST_CASE("tova that protects the newest token matches kvpress", "[tova]") {
  golden const g("tova");
  auto const q = g.floats("q"), k = g.floats("k");
  data::text_of const text{q.data(), k.data(), 4, 2, 64, 16};
  evidence const seen{window_queries{text.queries(47, 1)}};
  auto const kept = data::kept_by(layer(2, 16, 1), text.prompt(48), seen);
  REQUIRE(kept.size() == 2);
  std::vector<index_t> const expected(g["kvpress_kept"].begin(), g["kvpress_kept"].end());
  CHECK(kept[0] == expected);
  CHECK(kept[1] == expected);
  auto const scores = data::scores_by(layer(2, 16), text.prompt(48), seen);
  for (std::size_t t = 0; t + 1 < 48; ++t)
    CHECK(std::abs(scores[t] - g["kvpress_score"][t]) <=
          tolerance::accumulated * g["kvpress_score"][t]);
}

TEST_CASE("tova matches the reference for any group, length and order of cells", "[tova]") {
  for (index_t group : {1, 2, 4}) {
    data::cache const c(
        {.sequences = 3, .kv_heads = 2, .group = group, .tokens = 80, .head_dim = 32},
        static_cast<unsigned>(group));
    std::vector<index_t> const lengths{80, 41, 7};
    data::shuffled const ragged(c, 19, lengths);
    for (index_t budget : {1, 7, 30, 79, 80, 100})
      for (index_t recent : {0, 1}) {
        auto const kept = data::kept_by(layer(2, budget, recent), ragged.view(),
                                        evidence{window_queries{c.queries(1)}});
        REQUIRE(kept.size() == 6);
        for (index_t s = 0; s < 3; ++s) {
          reference::matrix newest;
          for (auto const& head : heads_of(c, s, 1)) newest.push_back(head[0]);
          auto const score =
              reference::tova(newest, keys_of(c, s, lengths[static_cast<std::size_t>(s)]));
          auto const expected = reference::keep(score, budget, 0, recent);
          CHECK(kept[static_cast<std::size_t>(2 * s)] == expected);
          CHECK(kept[static_cast<std::size_t>(2 * s + 1)] == expected);
        }
      }
  }
}

TEST_CASE("tova decodes as the reference does, with and without the newest protected", "[tova]") {
  index_t const prompt = 20, tokens = 60, dim = 16;
  for (index_t group : {1, 2, 4})
    for (index_t recent : {0, 1}) {
      data::cache const c({.kv_heads = 2, .group = group, .tokens = tokens, .head_dim = dim}, 5);
      std::vector<float> q;
      for (index_t h = 0; h < 2 * group; ++h)
        q.insert(q.end(), c.queries(tokens).row(0, h), c.queries(tokens).row(0, h) + tokens * dim);
      data::text_of const text{q.data(), c.k.data(), 2 * group, 2, tokens, dim};
      data::evicting life(layer(2, 12, recent), text.prompt(prompt),
                          evidence{window_queries{text.queries(prompt - 1, 1)}});
      REQUIRE(life.run.result.ok());
      auto const expected = reference::tova_run(heads_of(c, 0, tokens), keys_of(c, 0, tokens),
                                                static_cast<std::size_t>(prompt), 12, recent == 1);
      for (index_t t = prompt - 1; t < tokens; ++t) {
        if (t >= prompt)
          REQUIRE(life.step(text.keys(t, 1), text.keys(t, 1), text.queries(t, 1)).ok());
        for (index_t h = 0; h < 2; ++h)
          REQUIRE(life.held(0, h) == expected[static_cast<std::size_t>(t - prompt + 1)]);
      }
    }
}

TEST_CASE("tova's heads may change places, and a larger budget keeps more", "[tova]") {
  data::cache const c({.kv_heads = 4, .group = 2, .tokens = 70, .head_dim = 16});
  auto const other = data::reversed_heads(c);
  data::kept_sets fewer(4);
  for (index_t budget : {1, 6, 20, 70, 71}) {
    auto const policy = pipeline{shared{tova{}, {.kv_heads = 4}},
                                 top_k{{.budget = budget, .sinks = 2, .recent = 3}}};
    auto const kept = data::kept_by(policy, c.view(), evidence{window_queries{c.queries(2)}});
    CHECK(data::contains(kept, fewer));
    CHECK(kept == data::kept_by(policy, other.view(), evidence{window_queries{other.queries(2)}}));
    if (budget >= 5) CHECK(data::contains(kept, data::kept_sets(4, {0, 1, 67, 68, 69})));
    fewer = kept;
  }
}

TEST_CASE("tova holds its budget over 10,000 tokens in the slots it began with", "[tova]") {
  data::cache const c({.kv_heads = 2, .group = 2, .tokens = 24, .head_dim = 8});
  data::evicting life(layer(2, 16, 1), c.view(), evidence{window_queries{c.queries(1)}});
  REQUIRE(life.run.result.ok());
  std::size_t const bytes = life.run.packed.bytes();
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> k(2 * 8), q(4 * 8);
  for (index_t t = 24; t < 10024; ++t) {
    for (float& x : k) x = normal(engine);
    for (float& x : q) x = normal(engine);
    auto const row = dense_rows(k.data(), {1, 2, 1, 8});
    REQUIRE(life.step(row, row, dense_rows(q.data(), {1, 4, 1, 8})).ok());
    REQUIRE(life.held(0, 0) == life.held(0, 1));
    REQUIRE(life.run.packed.tokens(0, 0) == 16);
    REQUIRE(life.run.packed.slots(0, 0) <= 17);  // a step reads no more than this
    REQUIRE(life.held(0, 0).back() == t);
  }
  CHECK(life.run.packed.bytes() == bytes);
}

TEST_CASE("tova of one token, equal tokens and empty rows", "[tova]") {
  data::cache const one({.tokens = 1, .head_dim = 8});
  CHECK(data::kept_by(layer(2, 4), one.view(), evidence{window_queries{one.queries(1)}}) ==
        data::kept_sets{{0}, {0}});
  data::cache equal({.tokens = 12, .head_dim = 8});
  std::fill(equal.k.begin(), equal.k.end(), 1.0f);
  CHECK(data::kept_by(layer(2, 4), equal.view(), evidence{window_queries{equal.queries(1)}}) ==
        data::kept_sets(2, {0, 1, 2, 3}));
  data::cache const c({.sequences = 2, .tokens = 12, .head_dim = 8});
  data::shuffled const empty(c, 3, {0, 12});
  auto const kept =
      data::kept_by(layer(2, 4), empty.view(), evidence{window_queries{c.queries(1)}});
  REQUIRE(kept.size() == 4);
  CHECK(kept[0].empty());
  CHECK(kept[2].size() == 4);
}

TEST_CASE("tova says what it lacks", "[tova]") {
  data::cache const c({.tokens = 20, .head_dim = 8});
  auto const code = [&](auto const& policy, rows_view<float const> const& q) {
    return data::compressed(policy, c.view(), evidence{window_queries{q}}).result.code;
  };
  CHECK(code(layer(2, 4), c.queries(1)) == errc::ok);
  CHECK(code(layer(2, 4), {}) == errc::invalid_pointer);
  auto wrong = c.queries(1);
  wrong.heads = 1;
  CHECK(code(layer(2, 4), wrong) == errc::invalid_shape);
  CHECK(code(layer(3, 4), c.queries(1)) == errc::invalid_shape);  // two heads are no groups of 3
  CHECK(code(layer(2, 0), c.queries(1)) == errc::invalid_option);
}
