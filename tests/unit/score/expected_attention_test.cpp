// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/expected_attention.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/score/expected_attention.hpp>

using namespace kvslim;

namespace {

using live = expected_attention<>;
using stored = expected_attention_stats;

/// Queries before RoPE of `tokens` tokens for every sequence and query head of a cache.
struct prompt {
  data::shape shape;
  index_t tokens;
  std::vector<float> q;

  prompt(data::shape const& s, index_t n) : shape(s), tokens(n) {
    std::mt19937 engine(11);
    std::normal_distribution<float> normal;
    for (index_t i = 0; i < s.sequences * s.q_heads() * n * s.head_dim; ++i)
      q.push_back(normal(engine) + (i % s.head_dim % 7 == 2 ? 1.0f : 0.0f));
  }
  [[nodiscard]] auto rows() const {
    return dense_rows<host_space, float const>(
        q.data(), {shape.sequences, shape.q_heads(), tokens, shape.head_dim});
  }
  [[nodiscard]] auto evidence() const { return kvslim::evidence{raw_queries{rows()}}; }
  /// Moments of one query head of a row of n tokens.
  [[nodiscard]] reference::query_moments moments(index_t s, index_t head, index_t n,
                                                 index_t sinks) const {
    reference::matrix used;
    for (index_t t = std::max<index_t>(0, tokens - n + sinks); t < tokens; ++t) {
      float const* const row = rows().row(s, head, t);
      used.emplace_back(row, row + shape.head_dim);
    }
    return reference::moments_of(used, static_cast<std::size_t>(shape.head_dim));
  }
};

reference::expected_attention_options of(live::options const& o) {
  return {.future = static_cast<std::size_t>(o.future),
          .sinks = static_cast<std::size_t>(o.sinks),
          .covariance = o.covariance,
          .value_norm = o.value_norm,
          .epsilon = static_cast<double>(o.epsilon),
          .base = static_cast<double>(o.rotation.base),
          .scaling = static_cast<double>(o.scaling),
          .rotated = static_cast<std::size_t>(o.rotation.dims),
          .interleaved = o.rotation.interleaved};
}

/// What row r, of which the cache holds n tokens, should score.
std::vector<double> expected_of(data::cache const& c, prompt const& q, live::options const& o,
                                index_t r, index_t n) {
  index_t const s = r / c.shape.kv_heads, h = r % c.shape.kv_heads, group = c.shape.group;
  std::vector<reference::query_moments> heads;
  for (index_t g = 0; g < group; ++g) heads.push_back(q.moments(s, h * group + g, n, o.sinks));
  return reference::expected_attention(heads, oracle::keys(c, s, h, n), oracle::values(c, s, h, n),
                                       static_cast<std::size_t>(n), of(o));
}

/// Scores [rows, stride] agree, relative to the best of each row; those of sinks are not compared.
void agree(std::vector<float> const& scores, std::size_t row, std::size_t stride,
           std::vector<double> const& expected, std::size_t sinks, double tolerance) {
  double most = 0;
  for (std::size_t t = sinks; t < expected.size(); ++t) most = std::max(most, expected[t]);
  for (std::size_t t = 0; t < expected.size(); ++t) {
    double const x = scores[row * stride + t];
    if (t < sinks)
      REQUIRE(x == static_cast<double>(ops::largest_float));
    else
      REQUIRE(std::abs(x - expected[t]) <= tolerance * most);
  }
}

/// The golden file: 4 query heads over 2 KV heads, 60 tokens of 16 channels.
struct given {
  golden g{"expected_attention"};
  std::vector<float> q = g.floats("q"), k = g.floats("k"), v = g.floats("v"),
                     mean = g.floats("mean"), covariance = g.floats("covariance");

  [[nodiscard]] auto view() const { return dense_cache(k.data(), v.data(), extents{1, 2, 60, 16}); }
  [[nodiscard]] auto evidence() const {
    auto const rows = [](std::vector<float> const& x, index_t n) {
      return dense_rows<host_space, float const>(x.data(), {1, 4, n, 16});
    };
    return kvslim::evidence{raw_queries{rows(q, 60)},
                            query_statistics{rows(mean, 1), rows(covariance, 16)}};
  }
  void same(std::string const& name, std::vector<float> const& scores, std::size_t sinks) const {
    auto const& all = g["score_" + name];
    REQUIRE(scores.size() == all.size());
    for (std::size_t r = 0; r < 2; ++r) {
      auto const at = all.begin() + static_cast<std::ptrdiff_t>(60 * r);
      agree(scores, r, 60, {at, at + 60}, sinks, tolerance::accumulated);
    }
  }
};

}  // namespace

TEST_CASE("expected_attention's scores and kept sets are kvpress's", "[expected_attention]") {
  given const x;
  struct {
    char const* name;
    live::options opt;
  } const cases[] = {
      {"default", {}},
      {"mean", {.sinks = 0, .covariance = false}},
      {"no_norm", {.future = 7, .value_norm = false}},
      {"epsilon", {.future = 1, .sinks = 1, .epsilon = 0.02f}},
  };
  for (auto const& it : cases) {
    INFO(it.name);
    x.same(it.name, data::scores_by(pipeline{live{it.opt}}, x.view(), x.evidence()),
           static_cast<std::size_t>(it.opt.sinks));
    auto const kept =
        data::kept_by(pipeline{live{it.opt}, top_k{{.budget = 30}}}, x.view(), x.evidence());
    auto const& expected = x.g[std::string("kept_") + it.name];
    REQUIRE(kept.size() == 2);
    for (index_t h = 0; h < 2; ++h)
      CHECK(kept[static_cast<std::size_t>(h)] ==
            std::vector<index_t>(expected.begin() + h * 30, expected.begin() + (h + 1) * 30));
  }
  x.same("stats", data::scores_by(pipeline{stored{}}, x.view(), x.evidence()), 4);
}

TEST_CASE("expected_attention matches the reference in any order of cells",
          "[expected_attention]") {
  struct {
    data::shape shape;
    live::options opt;
  } const cases[] = {
      {{.group = 1, .head_dim = 64}, {}},
      {{.group = 4, .head_dim = 80}, {.rotation = {.dims = 32}, .future = 100, .epsilon = 0.02f}},
      {{.group = 8, .head_dim = 128}, {.future = 3, .value_norm = false}},
      {{.group = 2, .head_dim = 48, .value_dim = 24},
       {.rotation = {.base = 5e5f, .interleaved = true}, .scaling = 0.9f, .sinks = 0}},
      {{.group = 2, .head_dim = 6}, {.sinks = 1, .covariance = false}},
  };
  for (auto [shape, opt] : cases) {
    shape.sequences = 3;
    shape.tokens = 70;
    data::cache const c(shape, static_cast<unsigned>(shape.head_dim));
    std::vector<index_t> const lengths{70, 33, 3};
    data::shuffled const ragged(c, 21, lengths);
    for (index_t const asked : {70, 9}) {
      prompt const q(shape, asked);
      auto const scores = data::scores_by(pipeline{live{opt}}, ragged.view(), q.evidence());
      REQUIRE(scores.size() == 6 * 91);
      auto const kept = data::kept_by(pipeline{live{opt}, top_k{{.budget = 20, .recent = 2}}},
                                      ragged.view(), q.evidence());
      REQUIRE(kept.size() == 6);
      for (index_t r = 0; r < 6; ++r) {
        index_t const n = lengths[static_cast<std::size_t>(r / 2)];
        auto const expected = expected_of(c, q, opt, r, n);
        agree(scores, static_cast<std::size_t>(r), 91, expected,
              static_cast<std::size_t>(opt.sinks), tolerance::attend);
        CHECK(kept[static_cast<std::size_t>(r)] == reference::keep(expected, 20, 0, 2));
      }
    }
  }
}

TEST_CASE("stored statistics that are the prompt's score as the prompt", "[expected_attention]") {
  data::cache const c({.tokens = 40, .head_dim = 16});
  prompt const q(c.shape, 40);
  std::vector<f16> mean;
  std::vector<float> covariance, rounded;
  for (index_t head = 0; head < 4; ++head) {
    auto const m = q.moments(0, head, 40, 4);
    for (double const x : m.mean) mean.push_back(from_float<f16>(static_cast<float>(x)));
    for (auto const& row : m.covariance)
      for (double const x : row) covariance.push_back(static_cast<float>(x));
  }
  auto const tables = [&](auto const& means) {
    return kvslim::evidence{
        query_statistics{dense_rows(means.data(), {1, 4, 1, 16}),
                         dense_rows<host_space, float const>(covariance.data(), {1, 4, 16, 16})}};
  };
  for (f16 const x : mean) rounded.push_back(to_float(x));
  auto const a = data::scores_by(pipeline{stored{}}, c.view(), tables(std::as_const(mean)));
  CHECK(a == data::scores_by(pipeline{stored{}}, c.view(), tables(std::as_const(rounded))));
  auto const b = data::scores_by(pipeline{live{}}, c.view(), q.evidence());
  for (std::size_t i = 0; i < b.size(); ++i)
    CHECK(std::abs(a[i] - b[i]) <= 4 * tolerance::f16_storage * b[i]);
}

TEST_CASE("a table serves the layers of every sequence", "[expected_attention]") {
  data::cache const c({.sequences = 4, .tokens = 30, .head_dim = 16});
  prompt const table({.sequences = 2, .head_dim = 16}, 17);  // row 0 the mean, the others no matter
  rows_view<float const> mean = table.rows(), covariance = table.rows();
  mean.tokens = 1;
  covariance.tokens = 16;
  auto const all = data::scores_by(pipeline{stored{}}, c.view(),
                                   kvslim::evidence{query_statistics{mean, covariance}});
  for (index_t s = 0; s < 4; ++s) {
    auto one = c.view();
    one.extent.sequences = 1;
    one.k.data += s * 2 * 30 * 16;
    one.v.data += s * 2 * 30 * 16;
    auto m = mean, v = covariance;
    m.data = mean.row(s % 2, 0);
    v.data = covariance.row(s % 2, 0);
    m.sequences = v.sequences = 1;
    auto const mine =
        data::scores_by(pipeline{stored{}}, one, kvslim::evidence{query_statistics{m, v}});
    CHECK(std::equal(mine.begin(), mine.end(), all.begin() + s * 60));
  }
}

TEST_CASE("expected_attention scales with the values, and heads may change places",
          "[expected_attention]") {
  data::cache c({.kv_heads = 3, .tokens = 50, .head_dim = 16});
  prompt const q(c.shape, 50);
  auto const policy = pipeline{live{}, top_k{{.budget = 20}}};
  auto const kept = data::kept_by(policy, c.view(), q.evidence());
  auto other = data::reversed_heads(c);
  prompt reversed = q;
  auto const size = static_cast<std::ptrdiff_t>(50 * 16);
  for (std::ptrdiff_t h = 0; h < 6; ++h) {
    // the heads of a group keep their order, which the mean does not see
    std::ptrdiff_t const to = (2 - h / 2) * 2 + h % 2;
    std::copy(q.q.begin() + h * size, q.q.begin() + (h + 1) * size, reversed.q.begin() + to * size);
  }
  CHECK(data::reversed_heads(data::kept_by(policy, other.view(), reversed.evidence()), 3) == kept);
  for (float& x : c.v) x *= 8.0f;
  CHECK(data::kept_by(policy, c.view(), q.evidence()) == kept);
  data::kept_sets fewer(3);
  for (index_t const budget : {1, 4, 5, 20, 49, 60}) {
    auto const now =
        data::kept_by(pipeline{live{}, top_k{{.budget = budget}}}, c.view(), q.evidence());
    CHECK(data::contains(now, fewer));
    if (budget >= 4) CHECK(data::contains(now, data::kept_sets(3, {0, 1, 2, 3})));
    fewer = now;
  }
}

TEST_CASE("expected_attention of pinned tokens, biases, zero values and few tokens",
          "[expected_attention]") {
  data::cache c({.kv_heads = 1, .tokens = 30, .head_dim = 16});
  prompt const q(c.shape, 30);
  auto view = c.view();
  std::vector<std::uint8_t> valid(30, 1);
  valid[13] = valid[27] = 2;
  view.valid = valid.data();
  auto const two = pipeline{live{}, top_k{{.budget = 2}}};
  CHECK(data::kept_by(two, view, q.evidence()) == data::kept_sets{{13, 27}});

  view = c.view();
  std::vector<float> bias(30, 0.0f);
  bias[9] = -std::numeric_limits<float>::infinity();  // no query sees it
  view.bias = bias.data();
  CHECK(data::scores_by(pipeline{live{}}, view, q.evidence())[9] == 0.0f);
  std::fill(bias.begin(), bias.end(), -std::numeric_limits<float>::infinity());
  for (std::size_t t = 4; t < 30; ++t)
    CHECK(data::scores_by(pipeline{live{}}, view, q.evidence())[t] == 0.0f);

  std::fill(c.v.begin() + 7 * 16, c.v.begin() + 8 * 16, 0.0f);
  CHECK(data::scores_by(pipeline{live{}}, c.view(), q.evidence())[7] == 0.0f);

  for (index_t const n : {1, 4, 5, 6}) {  // no token but sinks, then one and two
    data::cache const few({.kv_heads = 1, .tokens = n, .head_dim = 16});
    prompt const asked(few.shape, n);
    auto const scores = data::scores_by(pipeline{live{}}, few.view(), asked.evidence());
    agree(scores, 0, 0, expected_of(few, asked, {}, 0, n),
          static_cast<std::size_t>(std::min<index_t>(n, 4)), tolerance::accumulated);
  }
  data::cache const pair({.sequences = 2, .tokens = 12, .head_dim = 16});
  data::shuffled const empty(pair, 3, {0, 12});
  auto const kept = data::kept_by(two, empty.view(), prompt(pair.shape, 12).evidence());
  REQUIRE(kept.size() == 4);
  CHECK(kept[0].empty());
  CHECK(kept[2] == std::vector<index_t>{0, 1});
}

TEST_CASE("expected_attention holds its digits over long prompts", "[expected_attention]") {
  data::cache const c({.kv_heads = 1, .group = 1, .tokens = 40, .head_dim = 16});
  prompt q(c.shape, 5000);
  for (float& x : q.q) x += 3.0f;
  auto x = q.rows();
  x.tokens = 5000;
  // 40 tokens are there, 5000 queries are given: the last 36 count.
  auto const scores = data::scores_by(pipeline{live{}}, c.view(), evidence{raw_queries{x}});
  agree(scores, 0, 40, expected_of(c, q, {}, 0, 40), 4, tolerance::attend);

  data::cache const long_one({.kv_heads = 1, .group = 1, .tokens = 5000, .head_dim = 16});
  auto const all = data::scores_by(pipeline{live{}}, long_one.view(), q.evidence());
  agree(all, 0, 5000, expected_of(long_one, q, {}, 0, 5000), 4, tolerance::attend);
}

TEST_CASE("expected_attention refuses what it cannot use", "[expected_attention]") {
  data::cache const c({.tokens = 12, .head_dim = 16});
  prompt q(c.shape, 12);
  auto const by = [&](live::options const& o) {
    return data::compressed(pipeline{live{o}, top_k{{.budget = 4}}}, c.view(), q.evidence())
        .result.code;
  };
  float const nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(by({}) == errc::ok);
  CHECK(by({.rotation = {.dims = 5}}) == errc::invalid_option);
  CHECK(by({.rotation = {.dims = 18}}) == errc::invalid_option);
  CHECK(by({.rotation = {.base = nan}}) == errc::invalid_option);
  CHECK(by({.scaling = 0.0f}) == errc::invalid_option);
  CHECK(by({.scaling = nan}) == errc::invalid_option);
  CHECK(by({.future = 0}) == errc::invalid_option);
  CHECK(by({.future = index_t{1} << 30}) == errc::invalid_option);
  CHECK(by({.sinks = -1}) == errc::invalid_option);
  CHECK(by({.epsilon = -1.0f}) == errc::invalid_option);
  CHECK(by({.epsilon = nan}) == errc::invalid_option);

  auto const asked = [&](rows<> const& x) {
    return data::compressed(pipeline{live{}, top_k{{.budget = 4}}}, c.view(),
                            evidence{raw_queries<>{x}})
        .result.code;
  };
  rows<> x = q.rows();
  x.heads = 3;
  CHECK(asked(x) == errc::invalid_shape);
  CHECK(asked({}) == errc::invalid_pointer);

  auto const told = [&](rows<> const& mean, rows<> const& covariance, bool wanted = true) {
    return data::compressed(pipeline{stored{{.covariance = wanted}}, top_k{{.budget = 4}}},
                            c.view(), evidence{query_statistics<>{mean, covariance}})
        .result.code;
  };
  prompt const table({.head_dim = 16}, 16);
  rows<> mean = table.rows(), covariance = table.rows();
  mean.tokens = 1;
  CHECK(told(mean, covariance) == errc::ok);
  CHECK(told(mean, {}) == errc::invalid_pointer);
  CHECK(told(mean, {}, false) == errc::ok);
  CHECK(told({}, covariance) == errc::invalid_shape);
  CHECK(told(mean, mean) == errc::invalid_shape);
  mean.sequences = 2;
  CHECK(told(mean, covariance) == errc::invalid_shape);
  q.q[7] = nan;
  CHECK(by({}) == errc::non_finite);
}
