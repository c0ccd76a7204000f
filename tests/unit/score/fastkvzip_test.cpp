// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/fastkvzip.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/tolerance.hpp"

#include <kvslim/score/fastkvzip.hpp>

using namespace kvslim;

namespace {

/// A tensor of random numbers, or of given ones.
template <class T>
struct tensor {
  rows_shape shape;
  std::vector<T> values;

  tensor(rows_shape s, std::vector<float> const& x) : shape(s) {
    for (float const y : x) values.push_back(from_float<T>(y));
  }
  tensor(rows_shape s, unsigned seed, float deviation = 1.0f, float mean = 0.0f) : shape(s) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal(mean, deviation);
    for (index_t i = 0; i < s.sequences * s.heads * s.tokens * s.head_dim; ++i)
      values.push_back(from_float<T>(normal(engine)));
  }
  [[nodiscard]] auto rows() const { return dense_rows<host_space, T const>(values.data(), shape); }
  /// One row as doubles; layers repeat.
  [[nodiscard]] std::vector<double> row(index_t s, index_t h, index_t t) const {
    std::vector<double> x;
    auto const at = ((s % shape.sequences * shape.heads + h) * shape.tokens + t) * shape.head_dim;
    for (index_t d = 0; d < shape.head_dim; ++d)
      x.push_back(static_cast<double>(to_float(values[static_cast<std::size_t>(at + d)])));
    return x;
  }
  [[nodiscard]] reference::matrix head(index_t s, index_t h) const {
    reference::matrix x;
    for (index_t t = 0; t < shape.tokens; ++t) x.push_back(row(s, h, t));
    return x;
  }
};

struct sizes {
  index_t layers = 2, kv_heads = 2, group = 3, width = 24, dim = 16, sinks = 16;
};

/// The gates of some layers, of one element type.
template <class T>
struct gates {
  sizes z;
  tensor<T> query, query_bias, query_gain, key, key_gain, sinks, offset;

  explicit gates(sizes const& s)
      : z(s),
        query({s.layers, s.kv_heads * s.group, s.dim, s.width}, 1, 0.3f),
        query_bias({s.layers, s.kv_heads * s.group, 1, s.dim}, 2, 0.5f),
        query_gain({s.layers, 1, 1, s.dim}, 3, 0.4f, 1.0f),
        key({s.layers, s.kv_heads, s.dim, s.width}, 4, 0.3f),
        key_gain({s.layers, 1, 1, s.dim}, 5, 0.4f, 1.0f),
        sinks({s.layers, s.kv_heads, s.sinks, s.dim}, 6),
        offset({s.layers, s.kv_heads, 1, s.group}, 7) {}
  gates(sizes const& s, golden const& g)
      : z(s),
        query({s.layers, s.kv_heads * s.group, s.dim, s.width}, g.floats("query")),
        query_bias({s.layers, s.kv_heads * s.group, 1, s.dim}, g.floats("query_bias")),
        query_gain({s.layers, 1, 1, s.dim}, g.floats("query_gain")),
        key({s.layers, s.kv_heads, s.dim, s.width}, g.floats("key")),
        key_gain({s.layers, 1, 1, s.dim}, g.floats("key_gain")),
        sinks({s.layers, s.kv_heads, s.sinks, s.dim}, g.floats("sinks")),
        offset({s.layers, s.kv_heads, 1, s.group}, g.floats("offset")) {}

  [[nodiscard]] gate_weights<> weights() const {
    return {query.rows(),    query_bias.rows(), query_gain.rows(), key.rows(),
            key_gain.rows(), sinks.rows(),      offset.rows()};
  }
  [[nodiscard]] reference::gate of(index_t s, index_t h) const {
    reference::gate x;
    for (index_t g = h * z.group; g < (h + 1) * z.group; ++g) {
      x.query.push_back(query.head(s, g));
      x.query_bias.push_back(query_bias.row(s, g, 0));
    }
    x.query_gain = query_gain.row(s, 0, 0);
    x.key = key.head(s, h);
    x.key_gain = key_gain.row(s, 0, 0);
    x.sinks = sinks.head(s, h);
    x.offset = offset.row(s, h, 0);
    return x;
  }
};

/// States by cell, of tokens whose states are by position.
template <class T>
tensor<T> by_cell(tensor<T> const& states, data::shuffled const& c) {
  tensor<T> out = states;
  out.shape.tokens = c.extent.tokens;
  out.values.assign(
      static_cast<std::size_t>(out.shape.sequences * c.extent.tokens * out.shape.head_dim),
      from_float<T>(100.0f));
  auto const wide = static_cast<std::size_t>(out.shape.head_dim);
  for (std::size_t i = 0; i < c.valid.size(); ++i) {
    if (c.valid[i] == 0) continue;
    auto const s = i / static_cast<std::size_t>(c.extent.tokens);
    auto const t = s * static_cast<std::size_t>(states.shape.tokens) +
                   static_cast<std::size_t>(c.positions[i]);
    std::copy_n(states.values.begin() + static_cast<std::ptrdiff_t>(t * wide), wide,
                out.values.begin() + static_cast<std::ptrdiff_t>(i * wide));
  }
  return out;
}

template <class T>
void matches_reference(sizes const& z, index_t head_dim) {
  index_t const sequences = 4;
  data::cache const c({.sequences = sequences,
                       .kv_heads = z.kv_heads,
                       .group = z.group,
                       .tokens = 60,
                       .head_dim = head_dim});
  std::vector<index_t> const lengths{60, 33, 1, 0};
  data::shuffled const ragged(c, 21, lengths);
  gates<T> const g(z);
  tensor<T> const states({sequences, 1, 60, z.width}, 8);
  auto const cells = by_cell(states, ragged);
  evidence const ev{hidden_states{cells.rows()}, g.weights()};
  fastkvzip const scorer{{.sinks = 2}};
  auto const scores = data::scores_by(pipeline{scorer}, ragged.view(), ev);
  REQUIRE(std::ssize(scores) == sequences * z.kv_heads * 81);
  auto const kept = data::kept_by(pipeline{scorer, top_k{{.budget = 20}}}, ragged.view(), ev);
  REQUIRE(std::ssize(kept) == sequences * z.kv_heads);
  for (index_t r = 0; r < sequences * z.kv_heads; ++r) {
    index_t const s = r / z.kv_heads;
    auto const n = static_cast<std::size_t>(lengths[static_cast<std::size_t>(s)]);
    auto const gate = g.of(s, r % z.kv_heads);
    std::vector<double> expected;
    for (std::size_t t = 0; t < n; ++t) {
      float const got = scores[static_cast<std::size_t>(r * 81) + t];
      if (reference::fastkvzip_protects(t, n, 2)) {
        expected.push_back(2);
        REQUIRE(got == ops::largest_float);
        continue;
      }
      expected.push_back(reference::fastkvzip(gate, states.row(s, 0, static_cast<index_t>(t))));
      REQUIRE(std::abs(static_cast<double>(got) - expected[t]) <= tolerance::accumulated);
    }
    for (std::size_t t = n; t < 81; ++t)
      REQUIRE(scores[static_cast<std::size_t>(r * 81) + t] == 0.0f);
    CHECK(kept[static_cast<std::size_t>(r)] == reference::keep(expected, 20, 0, 0));
  }
}

}  // namespace

TEST_CASE("fastkvzip's scores and kept sets are the authors' and kvpress's",
          "[golden][fastkvzip]") {
  golden const g("fastkvzip");
  gates<float> const gate({}, g);
  tensor<float> const states({2, 1, 60, 24}, g.floats("hidden"));
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 60, .head_dim = 8});
  evidence const ev{hidden_states{states.rows()}, gate.weights()};
  auto const scores = data::scores_by(pipeline{fastkvzip{}}, c.view(), ev);
  REQUIRE(scores.size() == g["score"].size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (g["protected"][i] != 0)
      REQUIRE(scores[i] == ops::largest_float);
    else
      REQUIRE(std::abs(static_cast<double>(scores[i]) - g["score"][i]) <= tolerance::accumulated);
  }
  auto const kept = data::kept_by(pipeline{fastkvzip{}, one_budget{{.budget = 24, .rows = {2, 2}}}},
                                  c.view(), ev);
  REQUIRE(kept.size() == 4);
  for (std::size_t r = 0; r < 4; ++r) {
    std::vector<index_t> expected;
    for (std::size_t t = 0; t < 60; ++t)
      if (g["kept"][r * 60 + t] != 0) expected.push_back(static_cast<index_t>(t));
    CHECK(kept[r] == expected);
  }
}

TEST_CASE("fastkvzip matches the reference in any order of cells and for any type of weight",
          "[fastkvzip]") {
  matches_reference<float>({}, 80);
  matches_reference<float>(
      {.layers = 1, .kv_heads = 3, .group = 1, .width = 300, .dim = 5, .sinks = 1}, 16);
  matches_reference<f16>(
      {.layers = 4, .kv_heads = 1, .group = 8, .width = 33, .dim = 32, .sinks = 3}, 48);
  matches_reference<bf16>({.group = 4, .width = 17, .dim = 1}, 16);
}

TEST_CASE("fastkvzip protects few tokens of short rows and a window of long ones", "[fastkvzip]") {
  gates<float> const g({.layers = 1, .kv_heads = 1, .group = 1, .width = 4, .dim = 2, .sinks = 1});
  data::cache const c({.kv_heads = 1, .tokens = 150, .head_dim = 8});
  tensor<float> const states({1, 1, 150, 4}, 9);
  evidence const ev{hidden_states{states.rows()}, g.weights()};
  auto const highest = [&](fastkvzip const& scorer) {
    std::vector<std::size_t> out;
    auto const scores = data::scores_by(pipeline{scorer}, c.view(), ev);
    for (std::size_t t = 0; t < scores.size(); ++t)
      if (scores[t] == ops::largest_float) out.push_back(t);
    return out;
  };
  using ranks = std::vector<std::size_t>;
  CHECK(highest({}) == ranks{0, 1, 2, 3, 147, 148, 149});
  CHECK(highest({{.sinks = 0, .recent_part = 0.0}}) == ranks{149});
  CHECK(highest({{.sinks = 1, .window = 2, .long_row = 150}}) == ranks{0, 148, 149});
  CHECK(highest({{.sinks = 1, .window = 2, .long_row = 151}}) == ranks{0, 147, 148, 149});
  CHECK(highest({{.sinks = 0, .window = 0, .long_row = 0}}).empty());
  CHECK(highest({{.sinks = 200}}).size() == 150);
}

TEST_CASE("fastkvzip reads states of each head where cells differ, and keeps pinned tokens",
          "[fastkvzip]") {
  sizes const z{.layers = 1};
  gates<f16> const g(z);
  data::cache const c({.kv_heads = 2, .tokens = 30, .head_dim = 16});
  tensor<float> const one({1, 1, 30, 24}, 3);
  auto both = one.rows();
  both.heads = 2;
  both.layout.kv_head = 0;  // the same ones
  fastkvzip const scorer{{.sinks = 0}};
  CHECK(data::scores_by(pipeline{scorer}, c.view(), evidence{hidden_states{both}, g.weights()}) ==
        data::scores_by(pipeline{scorer}, c.view(),
                        evidence{hidden_states{one.rows()}, g.weights()}));
  auto view = c.view();
  std::vector<std::uint8_t> valid(30, 1);
  valid[13] = valid[27] = 2;
  view.valid = valid.data();
  CHECK(data::kept_by(pipeline{scorer, top_k{{.budget = 2}}}, view,
                      evidence{hidden_states{both}, g.weights()}) == data::kept_sets(2, {13, 27}));
}

TEST_CASE("fastkvzip refuses shapes that do not fit, and what is not finite", "[fastkvzip]") {
  data::cache const c({.sequences = 2, .kv_heads = 2, .tokens = 12, .head_dim = 16});
  gates<float> g({});
  tensor<float> states({2, 1, 12, 24}, 9);
  auto const result = [&](auto const& change, fastkvzip const& scorer = {}) {
    rows<> x = states.rows();
    auto w = g.weights();
    change(x, w);
    return data::compressed(pipeline{scorer, top_k{{.budget = 4}}, dense<float>{}}, c.view(),
                            evidence{hidden_states<>{x}, w})
        .result.code;
  };
  CHECK(result([](auto&, auto&) {}) == errc::ok);
  CHECK(result([](auto& x, auto&) { x.data = nullptr; }) == errc::invalid_pointer);
  CHECK(result([](auto& x, auto&) { x.tokens = 11; }) == errc::invalid_shape);
  CHECK(result([](auto& x, auto&) { x.sequences = 1; }) == errc::invalid_shape);
  CHECK(result([](auto& x, auto&) { x.heads = 3; }) == errc::invalid_shape);
  CHECK(result([](auto& x, auto&) { x.head_dim = 23; }) == errc::invalid_shape);
  for (auto const part :
       {&gate_weights<>::query, &gate_weights<>::query_bias, &gate_weights<>::query_gain,
        &gate_weights<>::key, &gate_weights<>::key_gain, &gate_weights<>::sinks,
        &gate_weights<>::offset}) {
    CHECK(result([&](auto&, auto& w) { (w.*part).data = nullptr; }) == errc::invalid_pointer);
    CHECK(result([&](auto&, auto& w) { ++(w.*part).head_dim; }) == errc::invalid_shape);
    CHECK(result([&](auto&, auto& w) { ++(w.*part).heads; }) == errc::invalid_shape);
    CHECK(result([&](auto&, auto& w) { (w.*part).sequences = 3; }) == errc::invalid_shape);
  }
  CHECK(result([](auto&, auto& w) { w.query.tokens = 33; }) == errc::invalid_shape);
  CHECK(result([](auto&, auto& w) { w.query.tokens = 0; }) == errc::invalid_shape);
  CHECK(result([](auto&, auto& w) { w.query.heads = 0; }) == errc::invalid_shape);
  CHECK(result([](auto&, auto& w) { w.sinks.tokens = 0; }) == errc::invalid_shape);
  auto const nothing = [](auto&, auto&) {};
  CHECK(result(nothing, {{.sinks = -1}}) == errc::invalid_option);
  CHECK(result(nothing, {{.recent_part = 1.5}}) == errc::invalid_option);
  CHECK(result(nothing, {{.recent_part = std::nan("")}}) == errc::invalid_option);
  CHECK(result(nothing, {{.window = -1}}) == errc::invalid_option);
  CHECK(result(nothing, {{.long_row = -1}}) == errc::invalid_option);
  states.values[5] = std::numeric_limits<float>::infinity();
  CHECK(result(nothing) == errc::non_finite);
  states.values[5] = 0.0f;
  g.offset.values[1] = std::numeric_limits<float>::quiet_NaN();
  CHECK(result(nothing) == errc::non_finite);
}
