// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/qfilters.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/score/qfilters.hpp>

using namespace kvslim;

namespace {

auto best(index_t budget, index_t recent = 0) {
  return pipeline{qfilters{}, top_k{{.budget = budget, .recent = recent}}, dense<float>{}};
}

/// Filters of 2 layers and 2 heads, and their 70 keys each.
struct given {
  golden g{"qfilters"};
  std::vector<float> filters = g.floats("filters"), k = g.floats("k");

  [[nodiscard]] auto evidence() const {
    return kvslim::evidence{
        query_filters{dense_rows<host_space, float const>(filters.data(), {2, 2, 1, 16})}};
  }
  [[nodiscard]] auto prompt(index_t n) const {
    auto x = dense_cache(k.data(), k.data(), extents{2, 2, n, 16});
    x.k.layout = x.v.layout = {2 * 70 * 16, 70 * 16, 16, 1};
    return x;
  }
  [[nodiscard]] rows_view<float const> key(index_t t) const {
    return {k.data() + t * 16, 2, 2, 1, 16, {2 * 70 * 16, 70 * 16, 16, 1}};
  }
  [[nodiscard]] std::vector<index_t> row(char const* name, index_t r) const {
    auto const& x = g[name];
    return {x.begin() + r * 24, x.begin() + (r + 1) * 24};
  }
};

/// Filters for `layers` layers, of any type.
template <class T>
struct table {
  std::vector<T> values;
  rows_shape shape;

  table(index_t layers, data::shape const& s) : shape{layers, s.kv_heads, 1, s.head_dim} {
    std::mt19937 engine(7);
    std::normal_distribution<float> normal;
    for (index_t i = 0; i < layers * s.kv_heads * s.head_dim; ++i)
      values.push_back(from_float<T>(normal(engine)));
  }
  [[nodiscard]] auto evidence() const {
    return kvslim::evidence{query_filters{dense_rows<host_space, T const>(values.data(), shape)}};
  }
  [[nodiscard]] std::vector<double> filter(index_t s, index_t h) const {
    auto const at = (s % shape.sequences * shape.heads + h) * shape.head_dim;
    std::vector<double> x;
    for (index_t d = 0; d < shape.head_dim; ++d)
      x.push_back(static_cast<double>(to_float(values[static_cast<std::size_t>(at + d)])));
    return x;
  }
};

template <class T>
void matches_reference() {
  for (index_t const dim : {48, 80})
    for (index_t const layers : {1, 2, 4}) {
      data::cache const c({.sequences = 4, .kv_heads = 2, .tokens = 60, .head_dim = dim},
                          static_cast<unsigned>(dim));
      table<T> const filters(layers, c.shape);
      std::vector<index_t> const lengths{60, 33, 5, 0};
      data::shuffled const ragged(c, 21, lengths);
      auto const scores = data::scores_by(pipeline{qfilters{}}, ragged.view(), filters.evidence());
      REQUIRE(scores.size() == 8 * 81);
      auto const kept =
          data::kept_by(pipeline{qfilters{}, top_k{{.budget = 20, .sinks = 2, .recent = 3}}},
                        ragged.view(), filters.evidence());
      REQUIRE(kept.size() == 8);
      for (index_t r = 0; r < 8; ++r) {
        auto const n = lengths[static_cast<std::size_t>(r / 2)];
        auto const filter = filters.filter(r / 2, r % 2);
        auto const k = oracle::keys(c, r / 2, r % 2, n);
        auto const expected = reference::qfilters(k, filter);
        for (std::size_t t = 0; t < k.size(); ++t)
          REQUIRE(std::abs(scores[static_cast<std::size_t>(r) * 81 + t] - expected[t]) <=
                  tolerance::accumulated *
                      std::sqrt(reference::dot(k[t], k[t]) * reference::dot(filter, filter)));
        CHECK(kept[static_cast<std::size_t>(r)] == reference::keep(expected, 20, 2, 3));
      }
    }
}

}  // namespace

TEST_CASE("qfilters' scores are kvpress's", "[qfilters]") {
  given const x;
  auto const scores = data::scores_by(pipeline{qfilters{}}, x.prompt(70), x.evidence());
  REQUIRE(scores.size() == x.g["score"].size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    auto const at = x.k.begin() + static_cast<std::ptrdiff_t>(16 * i);
    double const length = std::sqrt(std::inner_product(at, at + 16, at, 0.0));  // filters have 1
    REQUIRE(std::abs(scores[i] - x.g["score"][i]) <= tolerance::accumulated * length);
  }
}

TEST_CASE("qfilters keeps what the authors' cache keeps, token by token", "[qfilters]") {
  given const x;
  auto const prompt = data::kept_by(best(24, 8), x.prompt(40), x.evidence());
  REQUIRE(prompt.size() == 4);
  data::in_blocks life(best(24, 8), x.prompt(40), 1, x.evidence());
  REQUIRE(life.result.ok());
  for (index_t t = 40; t < 70; ++t) REQUIRE(life.take(x.key(t)).ok());
  for (index_t r = 0; r < 4; ++r) {
    CHECK(prompt[static_cast<std::size_t>(r)] == x.row("kept_prompt", r));
    CHECK(life.held(r / 2, r % 2) == x.row("kept", r));
  }
}

TEST_CASE("qfilters matches the reference in any order of cells, for any type of filter",
          "[qfilters]") {
  matches_reference<float>();
  matches_reference<f16>();
  matches_reference<bf16>();
}

TEST_CASE("qfilters of the opposite filter keeps the opposite tokens", "[qfilters]") {
  data::cache const c({.kv_heads = 1, .tokens = 30, .head_dim = 16});
  table<float> filters(1, c.shape);
  auto const kept = data::kept_by(best(10), c.view(), filters.evidence());
  for (float& x : filters.values) x = -x;
  auto const other = data::kept_by(best(20), c.view(), filters.evidence());
  REQUIRE(kept.size() == 1);
  REQUIRE(other.size() == 1);
  std::vector<index_t> all = kept[0];
  all.insert(all.end(), other[0].begin(), other[0].end());
  std::sort(all.begin(), all.end());
  std::vector<index_t> expected(30);
  std::iota(expected.begin(), expected.end(), 0);
  CHECK(all == expected);
}

TEST_CASE("qfilters keeps pinned tokens, and the earlier of equal ones", "[qfilters]") {
  data::cache const c({.kv_heads = 1, .tokens = 30, .head_dim = 16});
  table<float> filters(1, c.shape);
  auto view = c.view();
  std::vector<std::uint8_t> valid(30, 1);
  valid[13] = valid[27] = 2;
  view.valid = valid.data();
  CHECK(data::kept_by(best(2), view, filters.evidence()) == data::kept_sets{{13, 27}});
  std::fill(filters.values.begin(), filters.values.end(), 0.0f);
  CHECK(data::kept_by(best(4), view, filters.evidence()) == data::kept_sets{{0, 1, 13, 27}});
}

TEST_CASE("qfilters refuses tables that do not fit", "[qfilters]") {
  data::cache const c({.sequences = 4, .tokens = 12, .head_dim = 16});
  table<float> filters(2, c.shape);
  auto const result = [&](auto const& change) {
    auto rows = dense_rows<host_space, float const>(filters.values.data(), filters.shape);
    change(rows);
    return data::compressed(best(4), c.view(), kvslim::evidence{query_filters{rows}}).result.code;
  };
  CHECK(result([](auto&) {}) == errc::ok);
  CHECK(result([](auto& x) { x.data = nullptr; }) == errc::invalid_pointer);
  CHECK(result([](auto& x) { x.sequences = 3; }) == errc::invalid_shape);  // do not divide 4
  CHECK(result([](auto& x) { x.sequences = 0; }) == errc::invalid_shape);
  CHECK(result([](auto& x) { x.heads = 1; }) == errc::invalid_shape);
  CHECK(result([](auto& x) { x.tokens = 2; }) == errc::invalid_shape);
  CHECK(result([](auto& x) { x.head_dim = 8; }) == errc::invalid_shape);
  filters.values[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK(result([](auto&) {}) == errc::non_finite);
}
