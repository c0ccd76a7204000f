// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/criticalkv.hpp"

#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/score/criticalkv.hpp>

using namespace kvslim;

namespace {

/// Projections [layer][q_head][channel][width] of one layer or several, of any type.
template <class T>
struct projection {
  std::vector<T> values;
  rows_shape shape;

  projection(index_t layers, data::shape const& s, index_t width)
      : shape{layers, s.q_heads(), s.value_width(), width} {
    std::mt19937 engine(7);
    std::normal_distribution<float> normal;
    for (index_t i = 0; i < layers * shape.heads * shape.tokens * width; ++i)
      values.push_back(from_float<T>(normal(engine)));
  }
  [[nodiscard]] auto rows() const { return dense_rows<host_space, T const>(values.data(), shape); }
  [[nodiscard]] std::vector<reference::matrix> heads(index_t s, index_t h, index_t group) const {
    std::vector<reference::matrix> out;
    for (index_t g = 0; g < group; ++g) {
      out.emplace_back();
      for (index_t d = 0; d < shape.tokens; ++d) {
        out.back().emplace_back();
        T const* const row = rows().row(s % shape.sequences, h * group + g, d);
        for (index_t m = 0; m < shape.head_dim; ++m)
          out.back().back().push_back(static_cast<double>(to_float(row[m])));
      }
    }
    return out;
  }
};

/// A score as it comes out: infinity is the largest float.
double stored_as_float(double x) {
  return std::isinf(x) ? static_cast<double>(ops::largest_float) : x;
}

}  // namespace

TEST_CASE("criticalkv's scores and kept sets are kvpress's", "[criticalkv]") {
  golden const g("criticalkv");
  auto const q = g.floats("q"), k = g.floats("k"), v = g.floats("v"), weight = g.floats("weight");
  auto const view = dense_cache(k.data(), v.data(), extents{1, 2, 80, 16});
  // [width, q_heads * channels] as it lies
  rows_view<float const> const projected{weight.data(), 1, 4, 16, 40, {0, 16, 1, 4 * 16}};
  evidence const ev{window_queries{dense_rows(q.data(), {1, 4, 8, 16})},
                    output_projection{projected}};
  std::vector<float> norms(160);
  std::vector<float> scratch(static_cast<std::size_t>(2 * ops::projected_floats(view.extents())));
  REQUIRE(ops::projected_norms(cpu{}, text<std::remove_cvref_t<decltype(view)>>{view},
                               rows<>(projected), {norms.data(), 80}, scratch.data())
              .ok());
  for (std::size_t i = 0; i < 160; ++i)
    CHECK(std::abs(norms[i] - g["norms"][i]) <= tolerance::accumulated * g["norms"][i]);
  auto const same = [&](std::string const& name, auto const& method, std::size_t compared) {
    auto const scores = data::scores_by(pipeline{method}, view, ev);
    auto const& expected = g["score_" + name];
    REQUIRE(scores.size() == expected.size());
    double most = 0;
    for (double const x : expected) most = x > 1e30 ? most : std::max(most, std::abs(x));
    for (std::size_t i = 0; i < scores.size(); ++i)
      if (i % 80 < compared)
        REQUIRE((static_cast<double>(scores[i]) == expected[i] ||
                 std::abs(scores[i] - expected[i]) <= tolerance::accumulated * most));
    auto const kept = data::kept_by(pipeline{method, top_k{{.budget = 30}}}, view, ev);
    REQUIRE(kept.size() == 2);
    for (index_t h = 0; h < 2; ++h) {
      auto const begin = g["kept_" + name].begin() + h * 30;
      CHECK(kept[static_cast<std::size_t>(h)] == std::vector<index_t>(begin, begin + 30));
    }
  };
  snapkv const snap{{.window = 8}};
  same("snapkv_50", criticalkv{snap, {.budget = 30}}, 72);
  same("knorm_50", criticalkv{knorm{}, {.budget = 30}}, 80);
  same("knorm_10", criticalkv{knorm{}, {.budget = 30, .first_stage = 0.1f}}, 80);
  // Three of eight protected tokens fit in the stage: any in kvpress, the newest here; all stay.
  same("snapkv_10", criticalkv{snap, {.budget = 30, .first_stage = 0.1f}}, 72);
}

TEST_CASE("criticalkv matches the reference in any order of cells", "[criticalkv]") {
  struct {
    data::shape shape;
    index_t width, layers, budget;
    float part;
  } const cases[] = {
      {{.group = 1, .head_dim = 64}, 64, 1, 20, 0.5f},
      {{.group = 4, .head_dim = 80}, 100, 3, 25, 0.25f},
      {{.group = 8, .head_dim = 128}, 7, 1, 20, 1.0f},
      {{.group = 2, .head_dim = 48, .value_dim = 24}, 65, 3, 30, 0.0f},
  };
  for (auto [shape, width, layers, budget, part] : cases) {
    shape.sequences = 3;
    shape.tokens = 60;
    data::cache const c(shape, static_cast<unsigned>(shape.head_dim));
    std::vector<index_t> const lengths{60, 33, 5};
    data::shuffled const ragged(c, 21, lengths);
    projection<bf16> const weights(layers, shape, width);
    evidence const ev{window_queries{c.queries(8)}, output_projection{weights.rows()}};
    criticalkv_options const opt{.budget = budget, .first_stage = part, .epsilon = 1e-3f};
    criticalkv const method{snapkv{{.window = 8}}, opt};
    auto const scores = data::scores_by(pipeline{method}, ragged.view(), ev);
    REQUIRE(scores.size() == 6 * 81);
    auto const kept = data::kept_by(pipeline{method, top_k{{.budget = budget}}}, ragged.view(), ev);
    REQUIRE(kept.size() == 6);
    for (index_t r = 0; r < 6; ++r) {
      index_t const s = r / 2, h = r % 2, n = lengths[static_cast<std::size_t>(s)];
      auto const k = oracle::keys(c, s, h, n);
      std::vector<double> base(static_cast<std::size_t>(n), 0.0);
      if (n > 8) {
        auto const prefix =
            reference::snapkv(oracle::window(c, s, h, 8), k, 5, false, reference::reduce::mean);
        std::copy(prefix.begin(), prefix.end(), base.begin());
      }
      auto const norm =
          reference::projected_norms(weights.heads(s, h, shape.group), oracle::values(c, s, h, n));
      auto const first = std::max<std::size_t>(
          part > 0 ? 1 : 0, static_cast<std::size_t>(static_cast<float>(budget) * part));
      auto const expected = reference::criticalkv(base, norm, first, 8, 1e-3);
      double most = 0;
      for (double const x : expected) most = std::isinf(x) ? most : std::max(most, x);
      for (index_t t = 0; t < n; ++t) {
        double const x = expected[static_cast<std::size_t>(t)],
                     got = static_cast<double>(scores[static_cast<std::size_t>(r * 81 + t)]);
        REQUIRE((got == stored_as_float(x) || std::abs(got - x) <= tolerance::accumulated * most));
      }
      CHECK(kept[static_cast<std::size_t>(r)] == reference::keep(expected, budget, 0, 8));
    }
  }
}

TEST_CASE("criticalkv whose first stage is the budget keeps what the scorer keeps",
          "[criticalkv]") {
  data::cache const c({.kv_heads = 3, .tokens = 60, .head_dim = 16});
  projection<float> weights(1, c.shape, 20);
  evidence const ev{window_queries{c.queries(8)}, output_projection{weights.rows()}};
  snapkv const snap{{.window = 8}};
  for (index_t const budget : {0, 1, 8, 9, 30, 59, 60, 100}) {
    top_k const keep{{.budget = budget}};
    auto const plain = data::kept_by(pipeline{snap, keep}, c.view(), ev);
    CHECK(data::kept_by(pipeline{criticalkv{snap, {.budget = budget, .first_stage = 1.0f}}, keep},
                        c.view(), ev) == plain);
  }
  // Equal norms leave the scorer's order.
  std::fill(weights.values.begin(), weights.values.end(), 0.0f);
  data::cache flat = c;
  std::fill(flat.v.begin(), flat.v.end(), 1.0f);
  std::fill(weights.values.begin(), weights.values.end(), 0.5f);
  top_k const keep{{.budget = 30}};
  CHECK(data::kept_by(pipeline{criticalkv{snap, {.budget = 30}}, keep}, flat.view(), ev) ==
        data::kept_by(pipeline{snap, keep}, flat.view(), ev));
}

TEST_CASE("criticalkv keeps pins, shares, and takes empty rows", "[criticalkv]") {
  data::cache const c({.tokens = 40, .head_dim = 16});
  projection<f16> const weights(1, c.shape, 9);
  evidence const ev{window_queries{c.queries(8)}, output_projection{weights.rows()}};
  auto view = c.view();
  std::vector<std::uint8_t> valid(40, 1);
  valid[13] = valid[27] = 2;
  view.valid = valid.data();
  criticalkv const method{knorm{}, {.budget = 2}};
  CHECK(data::kept_by(pipeline{method, top_k{{.budget = 2}}}, view, ev) ==
        data::kept_sets(2, {13, 27}));
  auto const both =
      data::kept_by(pipeline{shared{method, {1, 2}}, top_k{{.budget = 9}}}, c.view(), ev);
  REQUIRE(both.size() == 2);
  CHECK(both[0] == both[1]);

  data::cache const pair({.sequences = 2, .tokens = 12, .head_dim = 16});
  data::shuffled const empty(pair, 3, {0, 12});
  auto const kept = data::kept_by(pipeline{method, top_k{{.budget = 4}}}, empty.view(), ev);
  REQUIRE(kept.size() == 4);
  CHECK(kept[0].empty());
  CHECK(kept[2].size() == 4);
}

TEST_CASE("criticalkv refuses what it cannot use", "[criticalkv]") {
  data::cache const c({.sequences = 2, .tokens = 12, .head_dim = 16});
  projection<float> weights(1, c.shape, 9);
  float const nan = std::numeric_limits<float>::quiet_NaN();
  auto const by = [&](criticalkv_options const& opt, rows<> const& w, index_t asked = 8) {
    return data::compressed(pipeline{criticalkv{snapkv{{.window = 8}}, opt}, top_k{{.budget = 4}}},
                            c.view(),
                            evidence{window_queries{c.queries(asked)}, output_projection<>{w}})
        .result.code;
  };
  rows<> const good = weights.rows();
  CHECK(by({.budget = 4}, good) == errc::ok);
  CHECK(by({.budget = -1}, good) == errc::invalid_option);
  CHECK(by({.first_stage = 1.5f}, good) == errc::invalid_option);
  CHECK(by({.first_stage = nan}, good) == errc::invalid_option);
  CHECK(by({.epsilon = -1.0f}, good) == errc::invalid_option);
  CHECK(by({.epsilon = nan}, good) == errc::invalid_option);
  CHECK(by({}, good, 9) == errc::invalid_shape);  // the scorer's own evidence
  CHECK(by({}, {}) == errc::invalid_pointer);
  rows<> wrong = good;
  wrong.heads = 3;
  CHECK(by({}, wrong) == errc::invalid_shape);
  wrong = good;
  wrong.tokens = 8;
  CHECK(by({}, wrong) == errc::invalid_shape);
  wrong = good;
  wrong.sequences = 3;
  CHECK(by({}, wrong) == errc::invalid_shape);
  wrong = good;
  wrong.head_dim = 0;
  CHECK(by({}, wrong) == errc::invalid_shape);
  weights.values[5] = nan;
  CHECK(by({}, good) == errc::non_finite);
}
