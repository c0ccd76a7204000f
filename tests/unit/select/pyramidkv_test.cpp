// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "reference/pyramidkv.hpp"

#include "reference/adakv.hpp"
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/methods.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

#include <kvslim/select/pyramidkv.hpp>

using namespace kvslim;

namespace {

/// Tokens that every layer keeps of a prompt, as the pipeline counts them.
std::vector<std::int64_t> budgets(pyramidkv const& policy, index_t tokens, index_t window) {
  index_t const heads = policy.opt.kv_heads;
  auto const group = policy.group();
  extents const e{group.sequences, heads, tokens, 8};
  REQUIRE(policy.check(e).ok());
  auto const rows = static_cast<std::size_t>(group.size());
  std::vector<row_facts> facts;
  for (std::size_t r = 0; r < rows; ++r)
    facts.push_back({.row = static_cast<index_t>(r), .tokens = tokens, .recent = window});
  std::vector<quota> quotas(rows);
  policy.allocate({facts.data(), group.size()}, {quotas.data(), group.size()});
  std::vector<std::int64_t> kept;
  index_t total = 0;
  for (std::size_t r = 0; r < rows; ++r) {
    index_t const count = std::min(quotas[r].count, tokens);
    CHECK(quotas[r].recent == window);
    CHECK(count <= policy.most(e));
    total += count;
    if (r % static_cast<std::size_t>(heads) == 0)
      kept.push_back(count);
    else
      CHECK(count == kept.back());
  }
  CHECK(total <= policy.total(e));
  return kept;
}

pyramidkv::options authors(std::int64_t layers, std::int64_t budget, std::int64_t beta) {
  return {
      .budget = budget, .layers = layers, .kv_heads = 2, .beta = beta, .rule = pyramid::authors};
}

/// Numbers of golden cases, five to a row.
std::vector<std::vector<index_t>> cases_of(std::vector<double> const& x) {
  std::vector<std::vector<index_t>> rows;
  for (std::size_t i = 0; i < x.size(); i += 5)
    rows.emplace_back(x.begin() + static_cast<std::ptrdiff_t>(i),
                      x.begin() + static_cast<std::ptrdiff_t>(i + 5));
  return rows;
}

}  // namespace

TEST_CASE("pyramidkv's budgets are the authors'", "[pyramidkv]") {
  golden const g("pyramidkv");
  auto at = g["case_lengths"].begin();
  for (auto const& x : cases_of(g["cases"])) {
    auto const kept = budgets({authors(x[0], x[1], x[3])}, x[4], x[2]);
    CHECK(kept == std::vector<std::int64_t>(at, at + x[0]));
    at += x[0];
  }
}

TEST_CASE("pyramidkv's budgets by kvpress's rule are kvpress's", "[pyramidkv]") {
  golden const g("pyramidkv");
  auto at = g["kvpress_case_lengths"].begin();
  for (auto const& x : cases_of(g["kvpress_cases"])) {
    auto const tokens = static_cast<double>(x[4]), removed = static_cast<double>(x[1]) / 100.0;
    double const mean = tokens * (1.0 - removed);
    pyramidkv const policy{{.budget = static_cast<index_t>(std::ceil(mean)),
                            .layers = x[0],
                            .kv_heads = 2,
                            .beta = x[3],
                            .rule = pyramid::kvpress,
                            .mean = mean}};
    CHECK(budgets(policy, x[4], x[2]) == std::vector<std::int64_t>(at, at + x[0]));
    at += x[0];
  }
}

TEST_CASE("pyramidkv keeps the authors' tokens in every layer", "[pyramidkv][snapkv]") {
  golden const g("pyramidkv");
  auto const q = g.floats("q"), k = g.floats("k");
  auto view = dense_cache(k.data(), k.data(), extents{4, 2, 96, 16});
  view.k.layout.sequence = view.v.layout.sequence = 0;  // four layers of the same rows
  rows_view<float const> const queries{q.data(), 4, 4, 8, 16, {0, 8 * 16, 16, 1}};
  snapkv const scores{{.window = 8, .pool = 5, .reduce_first = true}};
  auto const kept = data::kept_by(pipeline{scores, pyramidkv{authors(4, 24, 20)}}, view,
                                  evidence{window_queries{queries}});
  REQUIRE(kept.size() == 8);
  auto at = g["kept"].begin();
  for (std::size_t r = 0; r < 8; ++r) {
    auto const n = static_cast<std::ptrdiff_t>(g["length"][r / 2]);
    CHECK(kept[r] == std::vector<index_t>(at, at + n));
    at += n;
  }
  // A layer in a view of its own keeps the same.
  for (index_t layer = 0; layer < 4; ++layer) {
    auto options = authors(4, 24, 20);
    options.layer = layer;
    auto one = view;
    one.extent.sequences = 1;
    auto first = queries;
    first.sequences = 1;
    auto const row = static_cast<std::ptrdiff_t>(2 * layer);
    CHECK(
        data::kept_by(pipeline{scores, pyramidkv{options}}, one, evidence{window_queries{first}}) ==
        data::kept_sets(kept.begin() + row, kept.begin() + row + 2));
  }
}

TEST_CASE("pyramidkv matches the reference for any group, length and order of cells",
          "[pyramidkv]") {
  index_t const layers = 3, window = 8;
  for (index_t group : {1, 2, 4}) {
    data::cache const c(
        {.sequences = 2 * layers, .kv_heads = 2, .group = group, .tokens = 90, .head_dim = 16},
        static_cast<unsigned>(group));
    std::vector<index_t> const lengths{90, 90, 90, 47, 47, 47};  // two requests
    data::shuffled const ragged(c, 17, lengths);
    evidence const seen{window_queries{c.queries(window)}};
    for (index_t budget : {10, 24, 40, 60, 90, 100})
      for (auto rule : {pyramid::exact, pyramid::authors}) {
        auto options = authors(layers, budget, 20);
        options.rule = rule;
        auto const kept =
            data::kept_by(pipeline{snapkv{{.window = window, .pool = 5, .reduce_first = true}},
                                   pyramidkv{options}},
                          ragged.view(), seen);
        REQUIRE(kept.size() == 12);
        for (index_t r = 0; r < 12; ++r) {
          index_t const s = r / 2, n = lengths[static_cast<std::size_t>(s)];
          auto const count =
              reference::pyramidkv_budgets(layers, budget, window, 20, n, rule == pyramid::exact);
          auto score = reference::window_score(oracle::window(c, s, r % 2, window),
                                               oracle::keys(c, s, r % 2, n), 5, false,
                                               reference::reduce::mean);
          score.resize(static_cast<std::size_t>(n), 0.0);
          CHECK(kept[static_cast<std::size_t>(r)] ==
                reference::keep(score, count[static_cast<std::size_t>(s % layers)], 0, window));
        }
      }
  }
}

TEST_CASE("pyramidkv conserves the total and never rises", "[pyramidkv]") {
  for (index_t layers : {1, 2, 5, 32})
    for (index_t budget : {9, 16, 64, 129, 500})
      for (index_t beta : {1, 3, 20})
        for (index_t tokens : {600, 1000, 5000}) {
          auto options = authors(layers, budget, beta);
          options.rule = pyramid::exact;
          auto const kept = budgets({options}, tokens, 8);
          index_t total = 0;
          for (auto n : kept) total += n;
          CHECK(total == layers * budget);
          CHECK(std::is_sorted(kept.rbegin(), kept.rend()));
          CHECK(kept.back() >= 8);
          CHECK(kept == reference::pyramidkv_budgets(layers, budget, 8, beta, tokens, true));
        }
}

TEST_CASE("pyramidkv keeps the window; heads may change places; more budget keeps more",
          "[pyramidkv]") {
  data::cache const c({.sequences = 3, .kv_heads = 3, .group = 2, .tokens = 90, .head_dim = 16});
  auto const other = data::reversed_heads(c);
  data::kept_sets fewer(9);
  for (index_t budget : {8, 12, 20, 40}) {
    auto options = authors(3, budget, 20);
    options.kv_heads = 3;
    options.rule = pyramid::exact;
    auto const policy = pipeline{snapkv{{.window = 8}}, pyramidkv{options}};
    auto const kept = data::kept_by(policy, c.view(), evidence{window_queries{c.queries(8)}});
    CHECK(data::contains(kept, fewer));
    CHECK(data::contains(kept, data::kept_sets(9, {82, 83, 84, 85, 86, 87, 88, 89})));
    CHECK(data::reversed_heads(
              data::kept_by(policy, other.view(), evidence{window_queries{other.queries(8)}}), 3) ==
          kept);
    fewer = kept;
  }
}

TEST_CASE("pyramidkv of one token, equal scores, empty rows and short prompts", "[pyramidkv]") {
  auto options = authors(2, 6, 20);
  options.rule = pyramid::exact;
  auto const policy = pipeline{snapkv{{.window = 4, .pool = 1}}, pyramidkv{options}};
  data::cache const one({.sequences = 2, .tokens = 1, .head_dim = 8});
  CHECK(data::kept_by(policy, one.view(), evidence{window_queries{one.queries(4)}}) ==
        data::kept_sets(4, {0}));
  data::cache equal({.sequences = 2, .group = 1, .tokens = 20, .head_dim = 8});
  std::fill(equal.k.begin(), equal.k.end(), 1.0f);
  auto const kept = data::kept_by(policy, equal.view(), evidence{window_queries{equal.queries(4)}});
  REQUIRE(kept.size() == 4);
  CHECK(kept[0] == std::vector<index_t>{0, 1, 2, 3, 16, 17, 18, 19});
  CHECK(kept[2] == std::vector<index_t>{16, 17, 18, 19});
  data::cache const c({.sequences = 4, .tokens = 20, .head_dim = 8});
  data::shuffled const ragged(c, 3, {0, 0, 5, 5});
  auto const few = data::kept_by(policy, ragged.view(), evidence{window_queries{c.queries(4)}});
  REQUIRE(few.size() == 8);
  CHECK(few[0].empty());
  CHECK(few[4] == std::vector<index_t>{0, 1, 2, 3, 4});
}

TEST_CASE("pyramidkv refuses what makes no sense", "[pyramidkv]") {
  data::cache const c({.sequences = 4, .kv_heads = 2, .tokens = 50, .head_dim = 8});
  auto const code = [&](pyramidkv::options const& options) {
    return make_plan(pipeline{knorm{}, pyramidkv{options}}, c.shape.extents()).check().code;
  };
  pyramidkv::options const good{.budget = 10, .layers = 4, .kv_heads = 2};
  CHECK(code(good) == errc::ok);
  auto bad = good;
  bad.budget = 0;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.beta = 0;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.layers = 0;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.layer = 4;
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.mean = 11.0;
  CHECK(code(bad) == errc::invalid_option);
  bad.mean = std::nan("");
  CHECK(code(bad) == errc::invalid_option);
  bad = good;
  bad.layers = 3;
  CHECK(code(bad) == errc::invalid_shape);  // four sequences are no requests of three layers
  bad.layer = 2;
  CHECK(code(bad) == errc::ok);  // but may all be of one
  bad.kv_heads = 3;
  CHECK(code(bad) == errc::invalid_shape);
}
