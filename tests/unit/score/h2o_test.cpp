// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/h2o.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/score/h2o.hpp>

using namespace kvslim;

namespace {

reference::matrix rows_of(std::vector<float> const& x, index_t head, index_t tokens, index_t dim) {
  reference::matrix m;
  for (index_t t = 0; t < tokens; ++t) {
    auto const from = x.begin() + (head * tokens + t) * dim;
    m.emplace_back(from, from + dim);
  }
  return m;
}

std::vector<index_t> ints(std::vector<double> const& x, index_t from, index_t n) {
  return {x.begin() + from, x.begin() + from + n};
}

auto heavy_recent(index_t heavy, index_t recent) {
  return pipeline{h2o<>{}, top_k{{.budget = heavy + recent, .recent = recent}}, dense<float>{}};
}

}  // namespace

TEST_CASE("h2o keeps what the authors keep, for a prompt and 16 steps", "[h2o]") {
  golden const g("h2o");
  auto const q = g.floats("q"), k = g.floats("k");
  data::text_of const text{q.data(), k.data(), 3, 3, 56, 16};
  auto const scores = data::scores_by(pipeline{h2o<>{}}, text.prompt(40),
                                      evidence{window_queries{text.queries(0, 40)}});
  for (std::size_t i = 0; i < 3 * 40; ++i)
    REQUIRE(std::abs(scores[i] - g["prompt_score"][i]) <=
            tolerance::accumulated * g["prompt_score"][i]);
  data::evicting life(heavy_recent(8, 8), text.prompt(40),
                      evidence{window_queries{text.queries(0, 40)}});
  REQUIRE(life.run.result.ok());
  for (index_t step = 0; step <= 16; ++step) {
    if (step > 0)
      REQUIRE(
          life.step(text.keys(39 + step, 1), text.keys(39 + step, 1), text.queries(39 + step, 1))
              .ok());
    for (index_t h = 0; h < 3; ++h) {
      index_t const at = (step * 3 + h) * 16;
      auto const kept = ints(g["kept"], at, 16);
      REQUIRE(life.held(0, h) == kept);
      for (index_t i = 0; i < 16; ++i) {
        double const expected = g["score"][static_cast<std::size_t>(at + i)];
        auto const column = life.column<h2o_column>(0, h, kept[static_cast<std::size_t>(i)]);
        REQUIRE(std::abs(column.mass - expected) <= tolerance::accumulated * expected);
      }
    }
  }
  CHECK(life.intact());
}

TEST_CASE("the authors' masks hide one token more than dropping does", "[h2o]") {
  golden const g("h2o"), masks("h2o_simulated");
  auto const q = g.floats("q"), k = g.floats("k");
  for (index_t h = 0; h < 3; ++h) {
    auto const history =
        reference::h2o_simulated(rows_of(q, h, 56, 16), rows_of(k, h, 56, 16), 40, 8, 8);
    REQUIRE(history.size() == 17);
    for (std::size_t step = 0; step < 17; ++step) {
      std::size_t const at = (step * 3 + static_cast<std::size_t>(h)) * 57;
      index_t visible = 0;
      for (std::size_t i = 0; i < 41 + step; ++i) {
        REQUIRE(history[step].visible[i] == (masks["visible"][at + i] != 0.0));
        visible += history[step].visible[i] ? 1 : 0;
      }
      CHECK(visible == 16);  // and the next step's own slot is one of them
    }
  }
}

TEST_CASE("h2o's grouped heads match KVCache-Factory and kvpress", "[h2o]") {
  golden const g("h2o_grouped");
  auto const q = g.floats("q"), k = g.floats("k");
  data::text_of const text{q.data(), k.data(), 4, 2, 48, 16};
  evidence const seen{window_queries{text.queries(0, 48)}};
  top_k const quota{{.budget = 16, .recent = 8}};
  auto const mean = data::kept_by(pipeline{h2o<reduce::mean>{}, quota}, text.prompt(48), seen);
  auto const sum = data::kept_by(pipeline{h2o<reduce::sum>{}, quota}, text.prompt(48), seen);
  auto const averaged = data::kept_by(pipeline{h2o<>{{.per_query = true}}, top_k{{.budget = 16}}},
                                      text.prompt(48), seen);
  auto const scores = data::scores_by(pipeline{h2o<>{{.per_query = true}}}, text.prompt(48), seen);
  for (index_t h = 0; h < 2; ++h) {
    auto const row = static_cast<std::size_t>(h);
    CHECK(mean[row] == ints(g["kept_mean"], h * 16, 16));
    CHECK(sum[row] == ints(g["kept_sum"], h * 16, 16));
    CHECK(averaged[row] == ints(g["kvpress_kept"], h * 16, 16));
  }
  for (std::size_t i = 0; i < 2 * 48; ++i)
    CHECK(std::abs(scores[i] - g["kvpress_score"][i]) <=
          tolerance::accumulated * g["kvpress_score"][i]);
}

TEST_CASE("h2o matches the reference for any group, length and order of cells", "[h2o]") {
  for (index_t group : {1, 2, 4}) {
    data::cache const c(
        {.sequences = 2, .kv_heads = 2, .group = group, .tokens = 64, .head_dim = 32},
        static_cast<unsigned>(group));
    evidence const seen{window_queries{c.queries(64)}};
    data::shuffled const other(c, 23);
    for (index_t budget : {9, 20, 63, 64, 90}) {
      auto const policy = pipeline{h2o<>{}, top_k{{.budget = budget, .sinks = 2, .recent = 6}}};
      auto const kept = data::kept_by(policy, c.view(), seen);
      REQUIRE(kept.size() == 4);
      CHECK(kept == data::kept_by(policy, other.view(), seen));
      for (index_t r = 0; r < 4; ++r) {
        auto const score =
            reference::h2o_prompt(oracle::window(c, r / 2, r % 2, 64),
                                  oracle::keys(c, r / 2, r % 2), reference::reduce::mean);
        CHECK(kept[static_cast<std::size_t>(r)] == reference::keep(score, budget, 2, 6));
      }
    }
  }
}

TEST_CASE("h2o's heads may change places, and a larger budget keeps more", "[h2o]") {
  data::cache const c({.kv_heads = 3, .group = 2, .tokens = 60, .head_dim = 16});
  auto const other = data::reversed_heads(c);
  data::kept_sets fewer(3);
  for (index_t budget : {1, 5, 12, 30, 60, 61}) {
    auto const policy = pipeline{h2o<>{}, top_k{{.budget = budget, .sinks = 2, .recent = 3}}};
    auto const kept = data::kept_by(policy, c.view(), evidence{window_queries{c.queries(60)}});
    CHECK(data::contains(kept, fewer));
    CHECK(data::reversed_heads(
              data::kept_by(policy, other.view(), evidence{window_queries{other.queries(60)}}),
              3) == kept);
    if (budget >= 5) CHECK(data::contains(kept, data::kept_sets(3, {0, 1, 57, 58, 59})));
    fewer = kept;
  }
}

TEST_CASE("h2o decodes as the reference does, grouped, by mean and by maximum", "[h2o]") {
  index_t const prompt = 30, tokens = 60, dim = 16;
  for (index_t group : {1, 2, 4}) {
    data::cache const c({.kv_heads = 2, .group = group, .tokens = tokens, .head_dim = dim}, 7);
    std::vector<float> q;  // [q_head][tokens][dim]
    for (index_t h = 0; h < 2 * group; ++h)
      q.insert(q.end(), c.queries(tokens).row(0, h), c.queries(tokens).row(0, h) + tokens * dim);
    data::text_of const text{q.data(), c.k.data(), 2 * group, 2, tokens, dim};
    data::evicting life(heavy_recent(10, 5), text.prompt(prompt),
                        evidence{window_queries{text.queries(0, prompt)}});
    REQUIRE(life.run.result.ok());
    std::vector<std::vector<reference::h2o_state>> expected;
    for (index_t h = 0; h < 2; ++h)
      expected.push_back(reference::h2o_run(oracle::window(c, 0, h, tokens), oracle::keys(c, 0, h),
                                            static_cast<std::size_t>(prompt), 10, 5,
                                            reference::reduce::mean));
    for (index_t t = prompt - 1; t < tokens; ++t) {
      if (t >= prompt)
        REQUIRE(life.step(text.keys(t, 1), text.keys(t, 1), text.queries(t, 1)).ok());
      for (index_t h = 0; h < 2; ++h)
        REQUIRE(
            life.held(0, h) ==
            expected[static_cast<std::size_t>(h)][static_cast<std::size_t>(t - prompt + 1)].kept);
    }
  }
}

TEST_CASE("the maximum of query heads is taken query by query", "[h2o]") {
  data::cache const c({.kv_heads = 1, .group = 3, .tokens = 20, .head_dim = 8});
  auto const scores = data::scores_by(pipeline{h2o<reduce::maximum>{}}, c.view(),
                                      evidence{window_queries{c.queries(20)}});
  auto const k = oracle::keys(c, 0, 0);
  std::vector<double> expected(20, 0.0);
  auto const heads = oracle::window(c, 0, 0, 20);
  for (std::size_t n = 0; n < 20; ++n) {
    std::vector<double> most(20, 0.0);
    for (auto const& head : heads) {
      auto const p = reference::weights(head[n], k, n + 1);
      for (std::size_t t = 0; t < 20; ++t) most[t] = std::max(most[t], p[t]);
    }
    for (std::size_t t = 0; t < 20; ++t) expected[t] += most[t];
  }
  for (std::size_t t = 0; t < 20; ++t)
    CHECK(std::abs(scores[t] - expected[t]) <= tolerance::accumulated * expected[t]);
}

TEST_CASE("h2o holds its budget over 10,000 tokens in the slots it began with", "[h2o]") {
  data::cache const c({.kv_heads = 2, .group = 2, .tokens = 24, .head_dim = 8});
  data::evicting life(heavy_recent(12, 4), c.view(), evidence{window_queries{c.queries(24)}});
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
    for (index_t h = 0; h < 2; ++h) {
      REQUIRE(life.run.packed.tokens(0, h) == 16);
      REQUIRE(life.run.packed.slots(0, h) <= 17);  // a step reads no more than this
    }
  }
  CHECK(life.run.packed.bytes() == bytes);
  auto const held = life.held(0, 0);
  CHECK(std::vector<index_t>(held.end() - 4, held.end()) ==
        std::vector<index_t>{10020, 10021, 10022, 10023});
}

TEST_CASE("h2o of one token, equal tokens, empty and ragged rows", "[h2o]") {
  data::cache const one({.tokens = 1, .head_dim = 8});
  auto const policy = pipeline{h2o<>{}, top_k{{.budget = 4}}};
  CHECK(data::kept_by(policy, one.view(), evidence{window_queries{one.queries(1)}}) ==
        data::kept_sets{{0}, {0}});

  // Equal keys: every query spreads evenly, so that earlier tokens have gathered more.
  data::cache equal({.tokens = 12, .head_dim = 8});
  std::fill(equal.k.begin(), equal.k.end(), 1.0f);
  CHECK(data::kept_by(policy, equal.view(), evidence{window_queries{equal.queries(12)}}) ==
        data::kept_sets(2, {0, 1, 2, 3}));

  // A query for each of the newest 30 tokens; rows of no token, and of fewer than there are
  // queries.
  data::cache const c({.sequences = 3, .tokens = 40, .head_dim = 8});
  data::shuffled const ragged(c, 5, {0, 17, 40});
  auto const kept = data::kept_by(policy, ragged.view(), evidence{window_queries{c.queries(30)}});
  REQUIRE(kept.size() == 6);
  CHECK(kept[0].empty());
  for (std::size_t r = 2; r < 6; ++r) {
    auto const s = static_cast<index_t>(r) / 2;
    index_t const n = s == 1 ? 17 : 40, queries = std::min<index_t>(n, 30);
    auto window = oracle::window(c, s, static_cast<index_t>(r) % 2, 30);
    for (auto& head : window) head.erase(head.begin(), head.end() - queries);
    auto const score = reference::h2o_prompt(
        window, oracle::keys(c, s, static_cast<index_t>(r) % 2, n), reference::reduce::mean);
    CHECK(kept[r] == reference::keep(score, 4, 0, 0));
  }
}

TEST_CASE("h2o says what it lacks", "[h2o]") {
  data::cache const c({.tokens = 20, .head_dim = 8});
  auto const policy = pipeline{h2o<>{}, top_k{{.budget = 4}}};
  auto const code = [&](rows_view<float const> const& q) {
    return data::compressed(policy, c.view(), evidence{window_queries{q}}).result.code;
  };
  CHECK(code({}) == errc::invalid_pointer);
  auto wrong = c.queries(20);
  wrong.heads = 3;
  CHECK(code(wrong) == errc::invalid_shape);
  wrong = c.queries(20);
  wrong.head_dim = 4;
  CHECK(code(wrong) == errc::invalid_shape);
  std::vector<float> q(c.q);
  q[5] = std::numeric_limits<float>::quiet_NaN();
  wrong = c.queries(20);
  wrong.data = q.data();
  CHECK(code(wrong) == errc::non_finite);

  // Planned without .evicts the columns are not kept.
  data::evicting life(policy, c.view(), evidence{window_queries{c.queries(20)}});
  auto const plan = make_plan(policy, c.shape.extents(), {.append_tokens = 1});
  data::buffer storage(plan.packed_bytes()), scratch(plan.workspace_bytes());
  packed_cache const packed(plan, storage);
  REQUIRE(compress(cpu{}, plan, c.view(), evidence{window_queries{c.queries(20)}}, packed, scratch)
              .ok());
  CHECK(
      choose_victims(cpu{}, life.run.plan, packed, life.victims.data(), life.victim_scratch).code ==
      errc::unsupported);
}
