// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The kvslim authors
#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/tolerance.hpp"

using namespace kvslim;

namespace {

template <class Policy, class Evidence>
std::vector<float> scores_of(Policy const& policy, data::cache const& c, Evidence const& evidence) {
  auto const plan = make_plan(policy, c.shape.extents());
  std::vector<float> out(static_cast<std::size_t>(c.shape.extents().rows() * c.shape.tokens));
  data::buffer scratch(plan.workspace_bytes());
  REQUIRE(score(cpu{}, plan, c.view(), evidence, {out.data(), c.shape.tokens},
                reinterpret_cast<float*>(scratch.data()))
              .ok());
  CHECK(scratch.intact());
  return out;
}

}  // namespace

TEST_CASE("snapkv's scores match the reference", "[snapkv]") {
  for (index_t group : {1, 4, 8}) {
    data::cache const c(
        {.sequences = 2, .kv_heads = 2, .group = group, .tokens = 90, .head_dim = 32});
    for (auto kind : {pooling::average, pooling::maximum})
      for (auto heads : {head_reduction::mean, head_reduction::maximum, head_reduction::sum}) {
        auto const got = scores_of(snapkv{{.window = 16, .pool = 5, .kind = kind, .heads = heads}},
                                   c, evidence{window_queries{c.queries(16)}});
        for (index_t r = 0; r < 4; ++r) {
          auto const how = heads == head_reduction::mean  ? reference::reduce::mean
                           : heads == head_reduction::sum ? reference::reduce::sum
                                                          : reference::reduce::maximum;
          auto const expected =
              reference::snapkv(oracle::window(c, r / 2, r % 2, 16), oracle::keys(c, r / 2, r % 2),
                                5, kind == pooling::maximum, how);
          for (std::size_t t = 0; t < expected.size(); ++t)
            REQUIRE(std::abs(got[static_cast<std::size_t>(r) * 90 + t] - expected[t]) <=
                    tolerance::accumulated);
        }
      }
  }
}

TEST_CASE("queries may lie in memory that the caller writes to", "[snapkv]") {
  data::cache c({.tokens = 100, .head_dim = 16});
  index_t const heads = c.shape.kv_heads * c.shape.group;
  std::vector<float> q(c.q.begin(), c.q.begin() + heads * 8 * 16);
  rows_shape const shape{1, heads, 8, 16};
  auto const policy = pipeline{snapkv{{.window = 8}}, top_k{{.budget = 30}}};
  data::compressed const writable(policy, c.view(),
                                  evidence{window_queries{dense_rows(q.data(), shape)}});
  data::compressed const constant(
      policy, c.view(), evidence{window_queries{dense_rows(std::as_const(q).data(), shape)}});
  REQUIRE(writable.result.ok());
  CHECK(writable.kept(0, 0) == constant.kept(0, 0));
}

TEST_CASE("snapkv's kept sets match the reference and keep the window", "[snapkv]") {
  data::cache const c({.kv_heads = 2, .group = 4, .tokens = 300, .head_dim = 64});
  std::vector<index_t> smaller;
  for (index_t budget : {64, 100, 200, 300}) {
    data::compressed const run(
        pipeline{snapkv{{.window = 32, .pool = 7}}, top_k{{.budget = budget, .sinks = 4}}},
        c.view(), evidence{window_queries{c.queries(32)}});
    REQUIRE(run.result.ok());
    auto expected_scores = reference::snapkv(oracle::window(c, 0, 1, 32), oracle::keys(c, 0, 1), 7,
                                             false, reference::reduce::mean);
    expected_scores.resize(300, 0.0);
    auto const kept = run.kept(0, 1);
    CHECK(kept == reference::keep(expected_scores, budget, 4, 32));
    CHECK(std::includes(kept.begin(), kept.end(), smaller.begin(),
                        smaller.end()));  // grows with the budget
    smaller = kept;
  }
}

TEST_CASE("permuting the query heads of a group leaves snapkv's kept set unchanged", "[snapkv]") {
  data::cache c({.kv_heads = 1, .group = 4, .tokens = 120, .head_dim = 32});
  auto const policy = pipeline{snapkv{{.window = 8}}, top_k{{.budget = 40}}};
  data::compressed const before(policy, c.view(), evidence{window_queries{c.queries(8)}});
  auto const stride = static_cast<std::ptrdiff_t>(data::cache::window * 32);
  std::rotate(c.q.begin(), c.q.begin() + stride, c.q.end());
  data::compressed const after(policy, c.view(), evidence{window_queries{c.queries(8)}});
  CHECK(before.kept(0, 0) == after.kept(0, 0));
}

TEST_CASE("knorm keeps the shortest keys and ignores rotation", "[knorm]") {
  data::cache const c({.tokens = 150, .head_dim = 48});
  auto const got = scores_of(knorm{}, c, evidence<>{});
  for (index_t h = 0; h < 2; ++h) {
    auto const k = oracle::keys(c, 0, h);
    std::vector<double> expected;
    for (auto const& row : k) expected.push_back(-std::sqrt(reference::dot(row, row)));
    for (std::size_t t = 0; t < 150; ++t)
      CHECK(std::abs(got[static_cast<std::size_t>(h) * 150 + t] - expected[t]) <=
            tolerance::accumulated * std::abs(expected[t]));
    data::compressed const run(pipeline{knorm{}, top_k{{.budget = 50}}}, c.view(), evidence<>{});
    CHECK(run.kept(0, h) == reference::keep(expected, 50, 0, 0));
  }
}

TEST_CASE("streaming_llm keeps sinks and the newest", "[streaming_llm]") {
  data::cache const c({.tokens = 100, .head_dim = 16});
  data::compressed const run(pipeline{streaming_llm{{.sinks = 4}}, top_k{{.budget = 20}}}, c.view(),
                             evidence<>{});
  std::vector<index_t> expected{0, 1, 2, 3};
  for (index_t t = 84; t < 100; ++t) expected.push_back(t);
  CHECK(run.kept(0, 0) == expected);
  data::compressed const all(pipeline{streaming_llm{}, top_k{{.budget = 500}}}, c.view(),
                             evidence<>{});
  CHECK(all.packed.tokens(0, 0) == 100);  // a budget above the length keeps everything
}

TEST_CASE("rerotated keys equal keys freshly rotated at their new positions",
          "[streaming_llm][rerotate]") {
  data::cache raw({.kv_heads = 1, .tokens = 80, .head_dim = 64});
  data::cache rotated = raw;
  rope const r{.base = 10000.0f, .interleaved = true};
  for (index_t t = 0; t < 80; ++t)
    ops::rotate(r, 64, t, rotated.k.data() + rotated.index(0, 0, t, 0));
  data::compressed const run(
      pipeline{streaming_llm{}, top_k{{.budget = 30}}, rerotate{r}, dense<float>{}}, rotated.view(),
      evidence<>{});
  REQUIRE(run.result.ok());
  CHECK(run.packed.next_position(0) == 30);
  for (index_t i = 0; i < 30; ++i) {
    index_t const source = i < 4 ? i : 80 - 30 + i;
    std::vector<double> row;
    for (index_t d = 0; d < 64; ++d) row.push_back(raw.key(0, 0, source, d));
    auto const expected = reference::rope(row, 10000.0, 64, true, static_cast<double>(i));
    for (index_t d = 0; d < 64; ++d)
      CHECK(std::abs(run.packed.key(0, i, d) - expected[static_cast<std::size_t>(d)]) <=
            2 * tolerance::accumulated);
  }
}

TEST_CASE("given scores select as given, shared by a layer when asked", "[given_scores]") {
  data::cache const c({.tokens = 10, .head_dim = 4});
  std::vector<float> const scores{9, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2};
  auto const ev = evidence{token_scores<>{scores.data()}};
  data::compressed const each(pipeline{given_scores{}, top_k{{.budget = 2}}}, c.view(), ev);
  CHECK(each.kept(0, 0) == std::vector<index_t>{0, 9});
  CHECK(each.kept(0, 1) == std::vector<index_t>{1, 9});
  data::compressed const shared(
      pipeline{given_scores{}, top_k{{.budget = 3, .granularity = granularity::per_layer}}},
      c.view(), ev);
  CHECK(shared.kept(0, 0) == std::vector<index_t>{0, 1, 9});
  CHECK(shared.kept(0, 0) == shared.kept(0, 1));
}

TEST_CASE("union over the layers of one view keeps one set, by the mean of all scores", "[top_k]") {
  data::cache const c(
      {.sequences = 4, .tokens = 64, .head_dim = 16});  // two sequences of two layers
  auto const scores = scores_of(knorm{}, c, evidence<>{});
  data::compressed const run(
      pipeline{knorm{},
               top_k{{.budget = 16, .sinks = 2, .granularity = granularity::union_, .layers = 2}}},
      c.view(), evidence<>{});
  REQUIRE(run.result.ok());
  for (index_t g = 0; g < 2; ++g) {
    std::vector<std::pair<double, index_t>> order;
    for (index_t t = 2; t < 64; ++t) {
      double sum = 0;
      for (index_t r = 0; r < 4; ++r) sum -= scores[static_cast<std::size_t>((g * 4 + r) * 64 + t)];
      order.emplace_back(sum, t);
    }
    std::sort(order.begin(), order.end());
    std::vector<index_t> expected{0, 1};
    for (std::size_t i = 0; i < 14; ++i) expected.push_back(order[i].second);
    std::sort(expected.begin(), expected.end());
    for (index_t s = 2 * g; s < 2 * g + 2; ++s)
      for (index_t h = 0; h < 2; ++h) CHECK(run.kept(s, h) == expected);
  }
  CHECK(
      data::compressed(
          pipeline{knorm{}, top_k{{.budget = 16, .granularity = granularity::union_, .layers = 3}}},
          c.view(), evidence<>{})
          .result.code == errc::invalid_option);
  CHECK(data::compressed(pipeline{knorm{}, top_k{{.budget = 16, .layers = 2}}}, c.view(),
                         evidence<>{})
            .result.code == errc::invalid_option);
}

TEST_CASE("union over layers in separate views is one reduction of their scores",
          "[top_k][given_scores]") {
  data::cache const a({.tokens = 64, .head_dim = 16}, 1), b({.tokens = 64, .head_dim = 16}, 2);
  auto sum = scores_of(knorm{}, a, evidence<>{});
  auto const more = scores_of(knorm{}, b, evidence<>{});
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += more[i];
  auto const policy =
      pipeline{given_scores{}, top_k{{.budget = 16, .granularity = granularity::union_}}};
  data::compressed const first(policy, a.view(), evidence{token_scores<>{sum.data()}}),
      second(policy, b.view(), evidence{token_scores<>{sum.data()}});
  CHECK(first.kept(0, 0) == second.kept(0, 0));
  CHECK(first.kept(0, 0) == second.kept(0, 1));
}
