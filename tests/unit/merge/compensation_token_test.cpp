// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors

// The compensation token: the authors' company's rows, the paper's attention, and what must not
// change.

#include "reference/compensation_token.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/lives.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

constexpr float hidden = -std::numeric_limits<float>::infinity();
constexpr auto stored = [](auto const& packed, index_t r) {
  return data::stored_row<reference::compensated>(packed, r);
};

double worst(reference::matrix const& got, reference::matrix const& wanted) {
  double error = 0, most = 1e-30;
  if (got.size() != wanted.size()) return 1e9;
  for (std::size_t i = 0; i < got.size(); ++i)
    for (std::size_t d = 0; d < got[i].size(); ++d) {
      error = std::max(error, std::abs(got[i][d] - wanted[i][d]));
      most = std::max(most, std::abs(wanted[i][d]));
    }
  return error / most;
}

/// sinks, one place and the newest.
auto streaming(index_t sinks, index_t recent, compensation_token::options const& o = {}) {
  return pipeline{streaming_llm{{.sinks = sinks}},
                  top_k{{.budget = sinks + 1 + recent, .sinks = sinks, .recent = recent}},
                  compensation_token{o}, dense<float>{}};
}

/// What a streaming head holds of a row's first n tokens.
reference::compensated expected_of(data::cache const& c, index_t s, index_t h, index_t n,
                                   index_t sinks, index_t recent) {
  std::vector<std::size_t> kept;
  for (index_t t = 0; t < n; ++t)
    if (t < sinks || t >= n - recent - 1) kept.push_back(static_cast<std::size_t>(t));
  auto const place = static_cast<std::size_t>(std::max<index_t>(n - recent - 1, 0));
  auto const k = oracle::keys(c, s, h, n), v = oracle::values(c, s, h, n);
  std::vector<double> const ones(static_cast<std::size_t>(n), 1.0);
  if (n <= sinks + 1 + recent) return {k, v, ones};
  return reference::compensation_token(k, v, ones, kept, place);
}

}  // namespace

TEST_CASE("compensation_token is what the authors' company deploys", "[compensation_token]") {
  golden const g("compensation_token");
  index_t const heads = 3, tokens = 30, dim = 8;
  auto const k = g.floats("k"), v = g.floats("v");
  auto view = dense_cache(k.data(), v.data(), {1, heads, tokens, dim});
  for (std::int32_t const n : {30, 13, 12, 11}) {
    view.lengths = &n;
    data::compressed const run(streaming(4, 7, {.mass_bias = false}), view);
    REQUIRE(run.result.ok());
    CHECK(run.intact());
    auto const keys = g["keys_" + std::to_string(n)], values = g["values_" + std::to_string(n)];
    index_t const held = std::min<index_t>(n, 12);
    for (index_t h = 0; h < heads; ++h) {
      reference::compensated wanted;
      for (index_t i = 0; i < held; ++i) {
        auto const at = (h * held + i) * dim;
        wanted.k.emplace_back(keys.begin() + at, keys.begin() + at + dim);
        wanted.v.emplace_back(values.begin() + at, values.begin() + at + dim);
      }
      auto const got = stored(run.packed, h);
      CHECK(worst(got.k, wanted.k) <= tolerance::accumulated);
      CHECK(worst(got.v, wanted.v) <= tolerance::accumulated);
      CHECK(got.mass == std::vector<double>(static_cast<std::size_t>(held), 1.0));
    }
  }
}

TEST_CASE("compensation_token attends as the paper's equation", "[compensation_token]") {
  for (index_t const group : {1, 8}) {
    data::cache const c({.sequences = 3,
                         .kv_heads = 2,
                         .group = group,
                         .tokens = 90,
                         .head_dim = 80,
                         .value_dim = 16});
    std::vector<index_t> const lengths{90, 0, 14};
    data::shuffled const mixed(c, 13, lengths);
    std::vector<std::uint8_t> const table{0, 1};
    pipeline const policy{streaming_llm{},
                          head_classes<>{{.retrieval = table.data(),
                                          .kv_heads = 2,
                                          .retrieval_heads = 1,
                                          .sinks = 4,
                                          .recent = 6,
                                          .between = 1}},
                          compensation_token{}, dense<float>{}};
    data::compressed const run(policy, mixed.view());
    REQUIRE(run.result.ok());
    CHECK(run.intact());
    for (index_t r = 0; r < 6; ++r) {
      index_t const s = r / 2, h = r % 2, n = lengths[static_cast<std::size_t>(s)];
      // A retrieval head keeps all: as many newest as there are.
      auto const wanted = expected_of(c, s, h, n, 4, h == 1 ? n : 6);
      auto const got = stored(run.packed, r);
      CHECK(worst(got.k, wanted.k) <= tolerance::accumulated);
      CHECK(worst(got.v, wanted.v) <= tolerance::accumulated);
      CHECK(worst({got.mass}, {wanted.mass}) <= tolerance::accumulated);
      if (n == 90 && h == 0) CHECK(std::abs(got.mass[4] - 80) <= 80 * tolerance::accumulated);
    }
    CHECK(oracle::attend_error(run.packed, c) <= tolerance::attend);
    auto const x = stored(run.packed, 0);
    std::vector<double> bias;
    for (double const m : x.mass) bias.push_back(std::log(m));
    for (auto const& head : oracle::window(c, 0, 0, 3))
      for (auto const& q : head)
        CHECK(worst({reference::attention(q, x.k, x.v, bias).out},
                    {reference::razor_attention(q, expected_of(c, 0, 0, 90, 4, 6))}) <=
              tolerance::attend);
  }
}

TEST_CASE("compensation_token goes on, and loses no mass", "[compensation_token]") {
  data::cache const c({.sequences = 1, .kv_heads = 2, .tokens = 120, .head_dim = 32});
  data::text_of const text{c.k.data(), c.k.data(), 2, 2, 120, 32};
  data::in_blocks life(streaming(3, 8), text.prompt(40), 16);
  REQUIRE(life.result.ok());
  for (index_t t = 40; t < 120; t += 16) {
    REQUIRE(life.take(text.keys(t, 16)).ok());
    for (index_t h = 0; h < 2; ++h) {
      auto const wanted = expected_of(c, 0, h, t + 16, 3, 8), got = stored(life.packed(), h);
      CHECK(worst(got.k, wanted.k) <= tolerance::accumulated);
      CHECK(worst(got.v, wanted.k) <= tolerance::accumulated);  // V is K here
      CHECK(worst({got.mass}, {wanted.mass}) <= tolerance::accumulated);
      CHECK(life.held(0, h)[3] == t + 16 - 9);  // the token that left the window last
    }
  }
}

TEST_CASE("compensation_token takes the place of the least token, by any score",
          "[compensation_token]") {
  data::cache const c({.sequences = 2, .kv_heads = 4, .tokens = 70, .head_dim = 48});
  std::mt19937 engine(5);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> scores(8 * 70), biases(8 * 70);
  for (float& x : scores) x = uniform(engine);
  for (float& x : biases) x = uniform(engine);
  for (std::size_t i = 0; i < biases.size(); i += 9) biases[i] = hidden;
  auto view = c.view();
  view.bias = {biases.data(), 4 * 70, 70};
  data::compressed const run(
      pipeline{given_scores{}, top_k{{.budget = 20, .sinks = 2, .recent = 5}}, compensation_token{},
               dense<float>{}},
      view, evidence{token_scores<>{scores.data()}}, {.biases = true});
  REQUIRE(run.result.ok());
  for (index_t r = 0; r < 8; ++r) {
    std::vector<std::size_t> kept;
    std::size_t place = 70;
    auto const at = [&](auto const& x, std::size_t t) {
      return x[static_cast<std::size_t>(r) * 70 + t];
    };
    for (index_t t : run.kept(r / 4, r % 4)) kept.push_back(static_cast<std::size_t>(t));
    for (std::size_t t : kept)
      if (t >= 2 && t < 65 && at(biases, t) > hidden &&
          (place == 70 || at(scores, t) < at(scores, place)))
        place = t;
    std::vector<double> mass;
    for (std::size_t t = 0; t < 70; ++t)
      mass.push_back(std::exp(static_cast<double>(at(biases, t))));
    auto const wanted = reference::compensation_token(oracle::keys(c, r / 4, r % 4),
                                                      oracle::values(c, r / 4, r % 4), mass, kept,
                                                      place),
               got = stored(run.packed, r);
    CHECK(worst(got.k, wanted.k) <= tolerance::accumulated);
    CHECK(worst(got.v, wanted.v) <= tolerance::accumulated);
    CHECK(worst({got.mass}, {wanted.mass}) <= tolerance::accumulated);
  }
}

TEST_CASE("compensation_token disturbs nothing where nothing joins", "[compensation_token]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 40, .head_dim = 16});
  std::vector<float> const equal(4 * 40, 0.5f);
  auto const run = [&](auto const& view, top_k const& keep, auto const&... merger) {
    return data::compressed(pipeline{given_scores{}, keep, merger..., int_per_token<8>{}}, view,
                            evidence{token_scores<>{equal.data()}}, {.biases = true});
  };
  auto const same = [&](auto const& view, top_k const& keep) {
    auto const with = run(view, keep, compensation_token{});
    auto const bare = run(view, keep);
    REQUIRE((with.result.ok() && bare.result.ok()));
    CHECK(data::bytes_of(with.packed) == data::bytes_of(bare.packed));
  };
  same(c.view(), {{.budget = 40, .recent = 3}});              // nothing goes
  same(c.view(), {{.budget = 12, .sinks = 4, .recent = 8}});  // no place
  auto pinned = c.view();
  std::vector<std::uint8_t> const pins(2 * 40, 2);
  pinned.valid = pins.data();
  same(pinned, {{.budget = 12}});  // pins take all places
  auto unseen = c.view();
  std::vector<float> const none(4 * 40, hidden);
  unseen.bias = {none.data(), 2 * 40, 40};
  same(unseen, {{.budget = 12}});  // nobody sees any of them
  std::int32_t const few[] = {0, 1};
  auto small = c.view();
  small.lengths = few;
  same(small, {{.budget = 1}});
  // Without a quota nothing goes.
  data::compressed const all(pipeline{knorm{}, compensation_token{}, dense<float>{}}, c.view());
  REQUIRE(all.result.ok());
  CHECK(all.kept(1, 1).size() == 40);
}

TEST_CASE("compensation_token of very many equal tokens is such a token", "[compensation_token]") {
  index_t const n = 50000;
  std::vector<float> const k(static_cast<std::size_t>(n * 2), 5.01f);
  data::compressed const run(streaming(1, 1), dense_cache(k.data(), k.data(), extents{1, 1, n, 2}));
  REQUIRE(run.result.ok());
  double const own = static_cast<double>(5.01f);
  CHECK(std::abs(static_cast<double>(run.packed.key(0, 1, 0)) - own) <=
        own * tolerance::accumulated);
  CHECK(std::abs(static_cast<double>(run.packed.logit_bias(0, 1)) - std::log(n - 2.0)) <=
        tolerance::accumulated);
}
